"""``validator score``: traces -> P(valid) and label-free scores."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from validator.cli.backend import backend_options, refuse_without_backend
from validator.cli.console import (
    add_command,
    console,
    print_json,
    progress,
    table,
)
from validator.cli.scorer import MODEL, scorer_of
from validator.errors import ParameterError
from validator.types import Trace, ValidityScore
from validator.whole_file import write_text_whole

__all__ = ["register"]

SHOWN = 20
"""Traces of the table; all of them go to the file and to --json."""


def register(subparsers: Any) -> None:
    """Add the command."""
    from validator.training.datasets import FORMATS

    parser = add_command(
        subparsers, "score",
        "Score traces: P(valid) by the classifier that ships for the model, or by one of your own, "
        "and scores that need no label.",
        "validator score traces.jsonl -o scores.jsonl", run)
    parser.add_argument("traces", type=Path, help="trace file; labels are not looked at")
    parser.add_argument("-o", "--output", type=Path, help="JSON Lines file, one score per trace")
    parser.add_argument("--artifact", type=Path,
                        help="folder written by `validator train` (default: the one that ships for "
                             "the model)")
    parser.add_argument("--model", help="known name, hub id or folder (default: the artifact's, or "
                                        f"{MODEL})")
    parser.add_argument("--features", metavar="FILE.yaml",
                        help="the feature set's file, if the artifact was trained on one of your "
                             "own")
    parser.add_argument("--no-classifier", action="store_true", help="label-free scores alone")
    parser.add_argument("--format", default="jsonl", choices=sorted(FORMATS),
                        help="format of the trace file (default: jsonl)")
    parser.add_argument("--limit", type=int, help="score the first N traces only")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, mps (default: cpu)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's)")
    parser.add_argument("--store", metavar="DIR",
                        help="feature store, a folder or its URL (default: features/ in the cache "
                             "folder)")
    parser.add_argument("--no-store", action="store_true", help="neither read nor write a store")
    backend_options(parser)


def run(args: argparse.Namespace) -> int:
    """Load, score, write, show."""
    from validator.training.datasets import load_traces

    traces = load_traces(args.traces, format=args.format, limit=args.limit)
    refuse_without_backend(args)
    scorer, classifier = scorer_of(
        args, "these are label-free scores alone; to train one, label some traces and run "
        "`validator extract` and `validator train`", wanted=not args.no_classifier)
    if args.backend:
        _read_beforehand(args, scorer, traces)
    with progress("reading traces") as advance:
        scores = scorer.score(traces, progress=advance)
    rows = [_as_json(t, s) for t, s in zip(traces, scores, strict=True)]
    if args.output:
        _write(args.output, rows)
    if args.json:
        print_json({"classifier": classifier, "scores": rows})
    else:
        _show(traces, scores, classifier)
    return 0


def _read_beforehand(args: argparse.Namespace, scorer: Any, traces: Sequence[Trace]) -> None:
    """Have the rows that scoring needs put into the store by the backend."""
    from validator.cli.extract_shards import chosen_backend
    from validator.features.shard_run import run_shards
    from validator.features.shard_worker import ExtractionJob
    from validator.features.shards import cut_shards

    given = scorer.extractor.get_params()
    root, model = given.pop("store"), given.pop("model")
    if root is None:
        raise ParameterError("--backend keeps rows in a store; leave out --no-store")
    backend = chosen_backend(args)
    for by_step in (False, True) if scorer.of_steps else (False,):
        job = ExtractionJob.of(root, model, by_step=by_step, **given)
        with progress("reading shards") as advance:
            run_shards(job, cut_shards(traces), backend, progress=advance, total=len(traces))


def _as_json(trace: Trace, score: ValidityScore) -> dict[str, Any]:
    record: dict[str, Any] = {
        "id": trace.id, "problem_id": trace.problem_id, "p_valid": score.learned,
        "interval": None if score.interval is None else list(score.interval),
        # JSON has no NaN: a score that is undefined for a trace is null, and nan_reason says why.
        "label_free": {k: v if v == v else None for k, v in score.unsupervised.items()},
    }
    if score.steps is not None:
        record["steps"] = list(score.steps)
    if score.nan_reason is not None:
        record["nan_reason"] = score.nan_reason
    return record


def _write(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    write_text_whole(path, "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))


def _show(
    traces: Sequence[Trace], scores: Sequence[ValidityScore], classifier: str | None
) -> None:
    free = list(scores[0].unsupervised)[:4]
    columns = ["trace", "P(valid)", "between", *free]
    rows = [[s.trace_id, _number(s.learned), _interval(s.interval),
             *(_number(s.unsupervised[n]) for n in free)] for s in scores[:SHOWN]]
    title = f"{len(traces)} traces, classifier: {classifier or 'none'}"
    console().print(table(title, columns, rows))
    if len(scores) > SHOWN:
        console().print(f"and {len(scores) - SHOWN} more; -o FILE writes all", markup=False)
    for score in [s for s in scores if s.nan_reason][:5]:
        console().print(f"undefined features: {score.trace_id}: {score.nan_reason}", markup=False)


def _number(value: float | None) -> str:
    return "n/a" if value is None or value != value else f"{value:.3f}"


def _interval(bounds: tuple[float, float] | None) -> str:
    return "n/a" if bounds is None else f"{bounds[0]:.2f} to {bounds[1]:.2f}"
