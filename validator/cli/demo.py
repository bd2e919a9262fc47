"""``validator demo``: the whole way on a real model, from shipped traces to an honest table."""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from validator.cli.console import (
    add_command,
    command_line,
    console,
    print_json,
    progress,
    write_json,
)
from validator.cli.train import add_classifier_options, classifier
from validator.types import Trace

__all__ = ["register"]

MODEL = "smollm2-135m-instruct"


def register(subparsers: Any) -> None:
    """Add the command."""
    parser = add_command(
        subparsers, "demo",
        "Read a model's own answers to word problems and show, out of sample, what its attention "
        "spectra tell about their correctness.",
        "validator demo --share 0.5 --output out/demo", run)
    parser.add_argument("--share", type=float, default=0.8,
                        help="share of the shipped problems to use, in (0, 1]; 0.8 are 120 "
                             "problems x 8 answers (default: 0.8)")
    parser.add_argument("-o", "--output", type=Path, default=Path("out/demo"),
                        help="folder for features, JSON and HTML (default: out/demo)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's)")
    add_classifier_options(parser)


def run(args: argparse.Namespace) -> int:
    """Fetch, read, judge, show."""
    import torch

    from validator.cli import scoreboard
    from validator.families import learned_names
    from validator.features.extractor import SpectralFeatureExtractor
    from validator.features.table import write_features
    from validator.training.comparison import compare
    from validator.training.evaluate import cross_validate

    if args.threads:
        torch.set_num_threads(args.threads)
    started = time.perf_counter()
    traces = demo_traces(args.share)
    with progress(f"model {MODEL}") as advance:
        extractor = SpectralFeatureExtractor(
            _fetched(advance), feature_set="default+probe").fit()
    with progress(f"reading {len(traces)} traces") as advance:
        features = extractor.transform(traces, progress=advance)
    write_features(args.output / "features.parquet", features)
    with progress("folds") as advance:
        oof = cross_validate(
            features, classifier(args), n_splits=args.folds, seed=args.seed, progress=advance)
    comparison = compare(oof, seed=args.seed)
    title = f"Does {MODEL} know when it is wrong? ({100 * args.share:.0f}% of the shipped problems)"
    write_json(args.output / "demo.json",
               {"command": command_line(), **comparison.to_json()})
    fitted = classifier(args)
    names = learned_names(features.names)
    fitted.fit(features.select(names), features.labels, groups=features.problem_ids)
    scoreboard.write_page(args.output / "demo.html", oof, comparison, title, fitted)
    if args.json:
        print_json(comparison.to_json())
        return 0
    scoreboard.show_comparison(comparison, console(), title)
    console().print(
        f"{time.perf_counter() - started:.0f} s; written to {args.output}: demo.html, demo.json, "
        "features.parquet", markup=False)
    return 0


def demo_traces(share: float) -> Sequence[Trace]:
    """The shipped traces of the first ``share`` of the problems, whole problems only."""
    from validator.errors import ParameterError
    from validator.training.datasets import load_traces

    if not 0 < share <= 1:
        raise ParameterError(f"--share must lie in (0, 1], got {share}")
    with as_file(files("validator.data").joinpath("demo_traces.jsonl")) as path:
        traces = load_traces(path)
    problems = list(dict.fromkeys(t.problem_id for t in traces))
    kept = set(problems[: math.ceil(share * len(problems))])
    return [t for t in traces if t.problem_id in kept]


def _fetched(advance: Any) -> str:
    from validator.models.fetch import fetch

    fetch(MODEL, progress=advance)
    return MODEL
