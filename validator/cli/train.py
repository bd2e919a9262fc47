"""``validator train``: feature file -> judged and fitted classifier."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from validator.cli.console import add_command, console, print_json, progress, write_json

__all__ = ["add_classifier_options", "add_report_options", "classifier", "register"]


def register(subparsers: Any) -> None:
    """Add the command."""
    parser = add_command(
        subparsers, "train",
        "Judge a classifier under problem-grouped folds, then fit it on all traces and save it.",
        "validator train features.parquet -o artifact --report report.html", run)
    parser.add_argument("features", type=Path, help="feature file made by `validator extract`")
    parser.add_argument("-o", "--output", type=Path, required=True, help="artifact folder to write")
    add_classifier_options(parser)
    add_report_options(parser)


def add_classifier_options(parser: argparse.ArgumentParser) -> None:
    """Options shared by every command that fits a classifier."""
    parser.add_argument("--kind", default="logistic", choices=("logistic", "xgboost", "mlp"),
                        help="classifier (default: logistic)")
    parser.add_argument("--C", type=float, help="logistic: inverse strength of the L2 penalty")
    parser.add_argument("--n-features", type=int, metavar="K",
                        help="keep the K columns that separate the training labels best")
    parser.add_argument("--n-components", type=int, metavar="K",
                        help="keep K principal components of the columns")
    parser.add_argument("--balanced", action="store_true", help="let both classes weigh the same")
    parser.add_argument("--calibration", choices=("sigmoid", "isotonic"),
                        help="calibrate on problem-grouped folds inside the training problems")
    parser.add_argument("--early-stopping-rounds", type=int, metavar="R",
                        help="xgboost: stop when R more trees do not help on inner folds")
    parser.add_argument("--folds", type=int, default=10, help="problem-grouped folds (default: 10)")
    parser.add_argument("--seed", type=int, default=0, help="of folds and bootstrap (default: 0)")


def add_report_options(parser: argparse.ArgumentParser) -> None:
    """Where the numbers go beside the terminal."""
    parser.add_argument("--report", type=Path, help="write an HTML page")
    parser.add_argument("--json-output", type=Path, help="write the numbers as JSON")


def classifier(args: argparse.Namespace) -> Any:
    """The unfitted classifier that the options describe."""
    from validator.classifier import ValidityClassifier

    return ValidityClassifier(
        args.kind, C=args.C, n_features=args.n_features, n_components=args.n_components,
        class_weight="balanced" if args.balanced else None, calibration=args.calibration,
        early_stopping_rounds=args.early_stopping_rounds, random_state=args.seed, n_jobs=-1)


def run(args: argparse.Namespace) -> int:
    """Judge, fit, save, show."""
    from validator.classifier import load_artifact
    from validator.cli import scoreboard
    from validator.features.table import read_features
    from validator.training.fit import train

    features = read_features(args.features)
    command = scoreboard.command_line()
    with progress("folds") as advance:
        done = train(
            features, classifier(args), args.output, n_splits=args.folds, seed=args.seed,
            metadata={"command": command}, progress=advance)
    title = f"Training on {args.features.name}"
    if args.report:
        scoreboard.write_page(
            args.report, done.cross_validated, done.comparison, title,
            load_artifact(done.artifact).classifier)
    if args.json_output:
        write_json(args.json_output, {"command": command, **done.comparison.to_json()})
    if args.json:
        print_json({"artifact": str(done.artifact), **done.comparison.to_json()})
        return 0
    scoreboard.show_comparison(done.comparison, console(), title)
    console().print(f"artifact: {done.artifact}", markup=False)
    return 0
