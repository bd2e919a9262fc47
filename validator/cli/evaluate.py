"""``validator evaluate``: how good an artifact is on traces of problems it has not seen."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from validator.cli.console import (
    add_command,
    command_line,
    console,
    error_console,
    print_json,
    progress,
    write_json,
)
from validator.cli.train import add_report_options

__all__ = ["register"]


def register(subparsers: Any) -> None:
    """Add the command."""
    parser = add_command(
        subparsers, "evaluate",
        "Judge an artifact beside its baselines, on problems it was not trained on.",
        "validator evaluate artifact other.parquet --report report.html", run)
    parser.add_argument("artifact", type=Path, help="folder written by `validator train`")
    parser.add_argument("features", type=Path, help="feature file of labelled traces")
    parser.add_argument("--cross-validate", action="store_true",
                        help="refit the artifact's classifier under problem-grouped folds of "
                             "these traces, instead of judging it as it stands")
    parser.add_argument("--folds", type=int, default=5,
                        help="folds of the baselines, which are fitted here (default: 5)")
    parser.add_argument("--seed", type=int, default=0, help="of folds and bootstrap (default: 0)")
    add_report_options(parser)


def run(args: argparse.Namespace) -> int:
    """Load, check, score, compare, show."""
    from sklearn.base import clone

    from validator.classifier import load_artifact
    from validator.cli import scoreboard
    from validator.features.table import read_features
    from validator.training.comparison import compare
    from validator.training.evaluate import cross_validate
    from validator.training.fit import artifact_scores, unseen_rows

    artifact = load_artifact(args.artifact)
    features = read_features(args.features)
    learned = artifact_scores(artifact, features)
    if not args.cross_validate:
        rows = unseen_rows(artifact, features)
        seen = len(features.traces) - len(rows)
        if seen:
            error_console().print(
                f"{seen} traces are of problems the artifact was trained on and are left out; "
                f"judged on the other {len(rows)}")
        features, learned = features.take(rows), learned[rows]
    with progress("folds") as advance:
        oof = cross_validate(
            features, clone(artifact.classifier), n_splits=args.folds, seed=args.seed,
            learned=None if args.cross_validate else learned, progress=advance)
    comparison = compare(oof, seed=args.seed)
    title = f"{args.artifact.name} on {args.features.name}"
    if args.report:
        scoreboard.write_page(args.report, oof, comparison, title, artifact.classifier)
    if args.json_output:
        write_json(args.json_output,
                   {"command": command_line(), **comparison.to_json()})
    if args.json:
        print_json(comparison.to_json())
    else:
        scoreboard.show_comparison(comparison, console(), title)
    return 0
