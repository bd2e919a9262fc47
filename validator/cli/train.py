"""``validator train``: a feature file, or what lm-eval logged -> judged and fitted classifier."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from validator.cli.console import (
    add_command,
    command_line,
    console,
    error_console,
    print_json,
    progress,
    write_json,
)

if TYPE_CHECKING:
    from validator.types import FeatureMatrix

__all__ = ["add_classifier_options", "add_report_options", "classifier", "register"]


def register(subparsers: Any) -> None:
    """Add the command."""
    parser = add_command(
        subparsers, "train",
        "Judge a classifier under problem-grouped folds, then fit it on all traces and save it.",
        "validator train features.parquet -o artifact --report report.html\n"
        "  validator train --from-lm-eval LM_EVAL_OUTPUT_PATH -o artifact", run)
    parser.add_argument("features", type=Path, nargs="?",
                        help="feature file made by `validator extract`")
    parser.add_argument("--from-lm-eval", type=Path, metavar="DIR",
                        help="in place of a feature file: --output_path of a run of lm-eval with "
                             "--log_samples; its responses are read again and labelled by the "
                             "task's metric")
    logged = parser.add_argument_group("with --from-lm-eval")
    logged.add_argument("--task", help="which task (default: the only one)")
    logged.add_argument("--filter", help="which filter's verdict is the label (default: the first)")
    logged.add_argument("--model", help="known name, hub id or folder of the reader (default: the "
                                        "run's)")
    logged.add_argument("--feature-set", default="default", metavar="SET",
                        help="feature set (default: default)")
    logged.add_argument("--device", default="cpu", help="cpu, cuda, mps (default: cpu)")
    logged.add_argument("--dtype", help="of the model (default: the run's reader's, or float32)")
    logged.add_argument("--threads", type=int, help="CPU threads (default: torch's)")
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
    from validator.training.fit import train

    features, name = _features(args)
    command = command_line()
    with progress("folds") as advance:
        done = train(
            features, classifier(args), args.output, n_splits=args.folds, seed=args.seed,
            metadata={"command": command}, progress=advance)
    title = f"Training on {name}"
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


def _features(args: argparse.Namespace) -> tuple[FeatureMatrix, str]:
    """The features to train on, and what they are called."""
    from validator.errors import ParameterError

    if (args.features is None) == (args.from_lm_eval is None):
        raise ParameterError("give a feature file, or --from-lm-eval and a folder; not both")
    if args.from_lm_eval is not None:
        return _logged(args)
    from validator.features.table import read_features

    return read_features(args.features), args.features.name


def _logged(args: argparse.Namespace) -> tuple[FeatureMatrix, str]:
    from validator.errors import FeatureMismatchError, ParameterError
    from validator.features.extractor import SpectralFeatureExtractor
    from validator.models.cache import cache_root
    from validator.plugins.harness.logs import read_run

    run = read_run(args.from_lm_eval, task=args.task, filter=args.filter)
    model = args.model or run.model
    if model is None:
        raise ParameterError(f"{run.source} does not say which model to read with; name it with "
                             "--model")
    traces = [t for t in run.traces if t.completion]
    if len(traces) < len(run.traces):
        error_console().print(f"{len(run.traces) - len(traces)} empty responses cannot be read and "
                              "are left out")
    extractor = SpectralFeatureExtractor(
        model, feature_set=args.feature_set, device=args.device, num_threads=args.threads,
        dtype=args.dtype or run.about.get("dtype") or "float32", store=cache_root() / "features")
    extractor.fit()
    wanted, found = run.about.get("revision"), extractor.provenance_.revision
    if args.model is None and wanted is not None and wanted != found:
        raise FeatureMismatchError(
            f"the run was read with weights {wanted}, {model} has {found}; its adapters, quantised "
            "weights or a hub revision are not loaded here. Name the model to read with: --model")
    with progress(f"reading {len(traces)} responses") as advance:
        features = extractor.transform(traces, progress=advance)
    return features, f"{run.task}, {run.filter}"
