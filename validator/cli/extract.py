"""``validator extract``: traces -> a feature file."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from validator.cli.backend import backend_options, refuse_without_backend
from validator.cli.console import add_command, console, print_json, progress, table
from validator.cli.extract_shards import (
    add_shard_options,
    refuse_without_shards,
    run_sharded,
)
from validator.configs.loading import names
from validator.errors import ParameterError
from validator.types import FeatureMatrix

__all__ = ["register"]


def register(subparsers: Any) -> None:
    """Add the command."""
    from validator.features.solver_names import SOLVERS
    from validator.training.datasets import FORMATS

    parser = add_command(
        subparsers, "extract", "Read traces with a model and write their features.",
        "validator extract traces.jsonl --model smollm2-135m-instruct -o features.parquet\n  "
        "validator extract traces.jsonl --backend ray --num-workers 2 -o features.parquet\n  "
        "validator extract traces.jsonl --store /shared/store --shard 0/16", run)
    parser.add_argument("traces", type=Path, help="trace file")
    parser.add_argument("-o", "--output", metavar="FILE",
                        help="Parquet file to write, by path or, with --backend, URL; needed "
                             "without --shard")
    parser.add_argument("--format", default="jsonl", choices=sorted(FORMATS),
                        help="format of the trace file (default: jsonl)")
    parser.add_argument("--model", default="smollm2-135m-instruct",
                        help="known name, hub id or folder (default: smollm2-135m-instruct)")
    parser.add_argument("--features", default="default", metavar="SET",
                        help=f"feature set: {', '.join(names('features'))}, or a .yaml file of "
                             "your own; SET+probe adds the hidden states that the probe baseline "
                             "is fitted to (default: default)")
    parser.add_argument("--solver", default="exact", choices=SOLVERS,
                        help="exact, or lanczos for long traces (default: exact)")
    parser.add_argument("--layers", type=_indices, metavar="0,7,15",
                        help="read these layers only (default: all)")
    parser.add_argument("--heads", type=_indices, metavar="0,1,2",
                        help="read these heads only (default: all)")
    parser.add_argument("--steps", action="store_true",
                        help="one row per step of each trace, seen from all that precedes it")
    parser.add_argument("--store", metavar="DIR",
                        help="feature store, a folder or its URL: rows that are in it are not "
                             "computed again (default: features/ in the cache folder)")
    parser.add_argument("--no-store", action="store_true", help="neither read nor write a store")
    parser.add_argument("--limit", type=int, help="read the first N traces only")
    parser.add_argument("--skip-bad", action="store_true",
                        help="go on without malformed lines and, with --backend, without traces "
                             "that cannot be read; both are kept in quarantine files")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, mps (default: cpu)")
    parser.add_argument("--dtype", default="float32", help="of the model (default: float32)")
    parser.add_argument("--max-batch-tokens", type=int, default=1024,
                        help="tokens of a batch, padding included (default: 1024)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's)")
    backend_options(parser)
    add_shard_options(parser)


def run(args: argparse.Namespace) -> int:
    """Extract, write, summarise."""
    if args.backend or args.shard:
        return run_sharded(args)
    refuse_without_backend(args)
    refuse_without_shards(args)
    if not args.output:
        raise ParameterError("no file to write the features to; give -o FILE")
    from validator.features.extractor import SpectralFeatureExtractor
    from validator.features.table import write_features
    from validator.models.cache import cache_root
    from validator.training.datasets import read_traces

    read = read_traces(args.traces, format=args.format, skip_bad=args.skip_bad, limit=args.limit)
    store = None if args.no_store else args.store or cache_root() / "features"
    extractor = SpectralFeatureExtractor(
        args.model, feature_set=args.features, solver=args.solver, layers=args.layers,
        heads=args.heads, device=args.device, dtype=args.dtype,
        max_batch_tokens=args.max_batch_tokens, num_threads=args.threads, store=store)
    extractor.fit()
    started = time.perf_counter()
    with progress("reading traces") as advance:
        extract = extractor.transform_steps if args.steps else extractor.transform
        features = extract(read.traces, progress=advance)
    seconds = time.perf_counter() - started
    write_features(args.output, features)
    facts = _facts(features, seconds, len(read.bad), args) | {
        "batches_computed": extractor.forward_passes_,
        "rows_from_store": extractor.rows_from_store_,
        "store": "" if store is None else str(store),
    } | {f"solver_{name}": value for name, value in extractor.solver_errors_.items()}
    _show(features, facts, args)
    return 0


def _indices(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"expected indices like 0,7,15, got {text!r}") from None


def _facts(
    features: FeatureMatrix, seconds: float, bad: int, args: argparse.Namespace
) -> dict[str, Any]:
    return {
        "traces": len(features.traces),
        "columns": len(features.names),
        "tokens": int(features.lengths.sum()),
        "seconds": round(seconds, 2),
        "tokens_per_second": round(float(features.lengths.sum()) / seconds),
        "rows_with_nan": len(features.nan_reasons),
        "malformed_lines_skipped": bad,
        "model": features.provenance.model,
        "revision": features.provenance.revision,
        "feature_set": features.provenance.feature_set,
        "solver": features.provenance.solver,
        "output": str(args.output),
    }


def _show(features: FeatureMatrix, facts: dict[str, Any], args: argparse.Namespace) -> None:
    if args.json:
        print_json(facts)
        return
    rows = [[name.replace("_", " "), str(value)] for name, value in facts.items()]
    console().print(table("Features", ["", ""], rows))
    for trace_id, reason in list(features.nan_reasons.items())[:5]:
        console().print(f"undefined features: {trace_id}: {reason}", markup=False)
