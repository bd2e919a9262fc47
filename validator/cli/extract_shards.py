"""``validator extract`` shard by shard: by tasks that share a folder, or on a Ray cluster."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from validator.cli.backend import ray_cluster
from validator.cli.console import console, error_console, print_json, progress, table
from validator.errors import ParameterError
from validator.whole_file import write_text_whole

if TYPE_CHECKING:
    from validator.features.shard_ledger import FailedTrace
    from validator.features.shard_run import Backend, Extracted
    from validator.features.shard_worker import ExtractionJob
    from validator.features.shards import Part, TraceShard
    from validator.types import Trace

__all__ = ["add_shard_options", "chosen_backend", "refuse_without_shards", "run_sharded"]


def add_shard_options(parser: argparse.ArgumentParser) -> None:
    """Add what belongs to shards."""
    group = parser.add_argument_group("shards")
    group.add_argument("--shard", metavar="i/n",
                       help="compute every n-th shard from the i-th on, i from 0, into the store "
                            "and write no file; when all n tasks are done, the same command with "
                            "--backend serial and -o in place of --shard writes it")
    group.add_argument("--shard-size", type=int, metavar="N",
                       help="traces that are computed as one (default: 64); rows of other sizes "
                            "agree to rounding only")
    group.add_argument("--tries", type=int, metavar="K",
                       help="after how many a trace that breaks the process is given up "
                            "(default: 3)")
    group.add_argument("--retry-failed", action="store_true",
                       help="try traces once more that were given up before")


def refuse_without_shards(args: argparse.Namespace) -> None:
    """Raise ParameterError for options that would do nothing without shards."""
    given = [flag for flag, value in (
        ("--shard-size", args.shard_size), ("--tries", args.tries),
        ("--retry-failed", args.retry_failed or None)) if value is not None]
    if given:
        raise ParameterError(f"{', '.join(given)} given without --backend or --shard")


def chosen_backend(args: argparse.Namespace) -> Backend:
    """The backend that was asked for."""
    from validator.features.shard_run import serially

    cluster = ray_cluster(args)
    if cluster is None:
        return serially
    from validator.plugins.distributed import RayExtraction

    return RayExtraction(cluster)


def run_sharded(args: argparse.Namespace) -> int:
    """Compute shards; with an output, write all rows to it. 1 if a trace could not be read."""
    from validator.features.shards import Part
    from validator.training.datasets import read_traces

    part = Part.parse(args.shard) if args.shard else None
    if (args.output is None) == (part is None):
        raise ParameterError("give either -o FILE, for all traces, or --shard i/n, which computes "
                             "a share and writes no file")
    if args.no_store:
        raise ParameterError("shards are kept in a store; leave out --no-store")
    backend, job = chosen_backend(args), _job(args)
    read = read_traces(args.traces, format=args.format, skip_bad=args.skip_bad, limit=args.limit)
    if args.steps:
        _require_steps(read.traces)
    if args.retry_failed:
        job.ledger().forget_failed(shard.digest for shard in _shards(args, read.traces))
    if part is not None:
        return _compute_part(args, job, backend, read.traces, part)
    return _compute_all(args, job, backend, read.traces, len(read.bad))


def _job(args: argparse.Namespace) -> ExtractionJob:
    from validator.features.shard_worker import ExtractionJob
    from validator.models.cache import cache_root

    return ExtractionJob.of(
        args.store or str(cache_root() / "features"), args.model, feature_set=args.features,
        by_step=args.steps, tries=3 if args.tries is None else args.tries, solver=args.solver,
        layers=args.layers, heads=args.heads, device=args.device, dtype=args.dtype,
        max_batch_tokens=args.max_batch_tokens, num_threads=args.threads)


def _shards(args: argparse.Namespace, traces: Iterable[Trace]) -> Iterator[TraceShard]:
    from validator.features.shards import SHARD_TRACES, cut_shards

    return cut_shards(traces, SHARD_TRACES if args.shard_size is None else args.shard_size)


def _require_steps(traces: Sequence[Trace]) -> None:
    from validator.errors import TraceError

    for trace in traces:
        if not trace.steps:
            raise TraceError(f"trace {trace.id!r} has no steps; leave out --steps, or give traces "
                             "with steps", trace_id=trace.id)


def _compute_part(
    args: argparse.Namespace, job: ExtractionJob, backend: Backend, traces: Sequence[Trace],
    part: Part,
) -> int:
    from validator.features.shard_run import run_shards

    own = [shard for shard in _shards(args, traces) if part.has(shard)]
    started = time.perf_counter()
    with progress(f"reading shards {args.shard}") as advance:
        totals = run_shards(job, own, backend, progress=advance,
                            total=sum(len(shard.traces) for shard in own))
    records = [job.ledger().read(shard.digest) for shard in own]
    failed = [failed for record in records if record for failed in record.failed]
    _show(args, "Shards", {
        "shard": args.shard, "shards": totals.shards, "done_before": totals.done_before,
        "traces": totals.traces, "batches_computed": totals.forward_passes,
        "quarantined": len(failed), "seconds": round(time.perf_counter() - started, 2),
        "store": str(job.root)})
    _name(failed)
    return 0


def _compute_all(
    args: argparse.Namespace, job: ExtractionJob, backend: Backend, traces: Sequence[Trace],
    bad: int,
) -> int:
    from validator.features.shard_run import extract_shards

    started = time.perf_counter()
    with progress("reading traces") as advance:
        done = extract_shards(
            job, lambda: _shards(args, traces), args.output, backend,
            skip_failed=args.skip_bad, progress=advance, total=len(traces))
    facts = _facts(done, time.perf_counter() - started) | {
        "malformed_lines_skipped": bad, "backend": args.backend, "store": str(job.root),
        "output": str(args.output)}
    written = bool(done.rows) and (args.skip_bad or not done.failed)
    if done.failed:
        facts["quarantine"] = str(_quarantine(args, job, done.failed))
    if written:
        _show(args, "Features", facts)
        _name(done.failed)
        return 0
    _name(done.failed)
    error_console().print(
        f"[bold red]error:[/] {len(done.failed)} of {len(traces)} traces could not be read; they "
        f"are in {facts['quarantine']} with their errors. The other {done.rows} rows are in the "
        "store; pass --skip-bad to write them.", soft_wrap=True)
    return 1


def _facts(done: Extracted, seconds: float) -> dict[str, Any]:
    origin = done.provenance
    return {
        "traces": done.totals.traces, "rows": done.rows, "columns": done.columns,
        "tokens": done.tokens, "seconds": round(seconds, 2),
        "tokens_per_second": round(done.tokens / seconds),
        "rows_with_nan": done.rows_with_nan, "quarantined": len(done.failed),
        "shards": done.totals.shards, "shards_done_before": done.totals.done_before,
        "batches_computed": done.totals.forward_passes,
        **({} if origin is None else {
            "model": origin.model, "revision": origin.revision,
            "feature_set": origin.feature_set, "solver": origin.solver}),
        **{f"solver_{name}": value for name, value in done.solver_errors.items()},
    }


def _quarantine(
    args: argparse.Namespace, job: ExtractionJob, failed: Sequence[FailedTrace]
) -> Path:
    """A file beside the output, or beside the traces where the output is behind a URL."""
    beside = args.traces if "://" in args.output else Path(args.output)
    path = beside.with_name(f"{beside.stem}.unreadable.jsonl")
    text = "".join(json.dumps({"id": f.id, "error": f.error, "tries": f.tries}) + "\n"
                   for f in failed)
    write_text_whole(path, text)
    return path


def _name(failed: Sequence[FailedTrace]) -> None:
    for trace in failed[:5]:
        error_console().print(f"could not be read: {trace.id}: {trace.error}", markup=False)


def _show(args: argparse.Namespace, title: str, facts: dict[str, Any]) -> None:
    if args.json:
        print_json(facts)
        return
    rows = [[name.replace("_", " "), str(value)] for name, value in facts.items()]
    console().print(table(title, ["", ""], rows))
