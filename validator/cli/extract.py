"""``validator extract``: traces -> a feature file."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from validator.cli.console import add_command, console, print_json, progress, table
from validator.configs.loading import names
from validator.types import FeatureMatrix

__all__ = ["register"]


def register(subparsers: Any) -> None:
    """Add the command."""
    from validator.training.datasets import FORMATS

    parser = add_command(
        subparsers, "extract", "Read traces with a model and write their features.",
        "validator extract traces.jsonl --model smollm2-135m-instruct -o features.parquet", run)
    parser.add_argument("traces", type=Path, help="trace file")
    parser.add_argument("-o", "--output", type=Path, required=True, help="Parquet file to write")
    parser.add_argument("--format", default="jsonl", choices=sorted(FORMATS),
                        help="format of the trace file (default: jsonl)")
    parser.add_argument("--model", default="smollm2-135m-instruct",
                        help="known name, hub id or folder (default: smollm2-135m-instruct)")
    parser.add_argument("--features", default="default", choices=names("features"),
                        help="feature set (default: default)")
    parser.add_argument("--limit", type=int, help="read the first N traces only")
    parser.add_argument("--skip-bad", action="store_true",
                        help="go on without malformed lines; they are kept in a quarantine file")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, mps (default: cpu)")
    parser.add_argument("--dtype", default="float32", help="of the model (default: float32)")
    parser.add_argument("--max-batch-tokens", type=int, default=1024,
                        help="tokens of a batch, padding included (default: 1024)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's)")


def run(args: argparse.Namespace) -> int:
    """Extract, write, summarise."""
    import torch

    from validator.features.extractor import SpectralFeatureExtractor
    from validator.features.table import write_features
    from validator.training.datasets import read_traces

    if args.threads:
        torch.set_num_threads(args.threads)
    read = read_traces(args.traces, format=args.format, skip_bad=args.skip_bad, limit=args.limit)
    extractor = SpectralFeatureExtractor(
        args.model, feature_set=args.features, device=args.device, dtype=args.dtype,
        max_batch_tokens=args.max_batch_tokens)
    extractor.fit()
    started = time.perf_counter()
    with progress("reading traces") as advance:
        features = extractor.transform(read.traces, progress=advance)
    seconds = time.perf_counter() - started
    write_features(args.output, features)
    _show(features, seconds, len(read.bad), args)
    return 0


def _show(features: FeatureMatrix, seconds: float, bad: int, args: argparse.Namespace) -> None:
    facts = {
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
        "output": str(args.output),
    }
    if args.json:
        print_json(facts)
        return
    rows = [[name.replace("_", " "), str(value)] for name, value in facts.items()]
    console().print(table("Features", ["", ""], rows))
    for trace_id, reason in list(features.nan_reasons.items())[:5]:
        console().print(f"undefined features: {trace_id}: {reason}", markup=False)
