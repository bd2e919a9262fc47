"""``validator tune``: feature files -> a tuned classifier, and what tuning it was worth."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.panel import Panel

from validator.cli.console import (
    add_command,
    command_line,
    console,
    interval_text,
    print_json,
    progress,
    table,
    write_json,
)

if TYPE_CHECKING:
    from validator.metrics import Interval
    from validator.training.tuning_result import TunedFold, TuningResult

__all__ = ["register"]

NAMES = {"tuned": "tuned", "default": "untuned default", "logprob": "mean log-prob",
         "length": "completion length"}


def register(subparsers: Any) -> None:
    """Add the command."""
    parser = add_command(
        subparsers, "tune",
        "Search for better columns and a better classifier, judge the search on problems it never "
        "saw, then tune on all traces and save.",
        "validator tune features.parquet -o artifact --trials 50 --kinds logistic xgboost", run)
    parser.add_argument("features", type=Path, nargs="+",
                        help="feature files of the same traces; the first is the default")
    parser.add_argument("-o", "--output", type=Path, required=True, help="artifact folder to write")
    parser.add_argument("--trials", type=int, default=50,
                        help="trials of each search, over all processes (default: 50)")
    parser.add_argument("--outer", type=int, default=5,
                        help="problem-grouped folds that judge (default: 5)")
    parser.add_argument("--inner", type=int, default=3,
                        help="problem-grouped folds that choose (default: 3)")
    parser.add_argument("--kinds", nargs="+", default=["logistic", "xgboost"],
                        choices=("logistic", "xgboost", "mlp"),
                        help="classifiers to try (default: logistic xgboost)")
    parser.add_argument("--seed", type=int, default=0,
                        help="of folds, suggestions, classifiers and bootstrap (default: 0)")
    _add_search_options(parser)


def _add_search_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--storage", metavar="FILE|URL",
                        help="journal or database of the trials, which other processes may share "
                             "(default: OUTPUT.tuning.journal)")
    parser.add_argument("--study", help="name of the search in its storage (default: tuning)")
    parser.add_argument("--timeout", type=float, metavar="SECONDS",
                        help="stop searching after this long")
    parser.add_argument("--jobs", type=int, default=-1,
                        help="threads of xgboost, -1 for all (default: -1)")
    parser.add_argument("--json-output", type=Path, help="write the numbers as JSON")


def run(args: argparse.Namespace) -> int:
    """Search, judge, fit, save, show."""
    from validator.training.trial_storage import without_password
    from validator.training.tune import tune

    command = command_line()
    if args.storage:
        command = command.replace(args.storage, without_password(args.storage))
    with progress("trials") as advance:
        result = tune(
            _features(args.features), args.output, n_trials=args.trials, n_outer=args.outer,
            n_inner=args.inner, seed=args.seed, storage=args.storage, study_name=args.study,
            timeout=args.timeout, kinds=args.kinds, n_jobs=args.jobs,
            metadata={"command": command}, progress=advance)
    if args.json_output:
        write_json(args.json_output, {"command": command, **result.to_json()})
    if args.json:
        print_json({"artifact": str(result.artifact), **result.to_json()})
        return 0
    _show(result, console(), f"Tuning on {', '.join(p.name for p in args.features)}")
    return 0


def _features(paths: Sequence[Path]) -> dict[str, Any]:
    """Each file by its name; by its path where two have the same."""
    from validator.errors import ParameterError
    from validator.features.table import read_features

    stems = [p.stem for p in paths]
    names = [p.stem if stems.count(p.stem) == 1 else str(p) for p in paths]
    if len(set(names)) < len(names):
        raise ParameterError(f"the same feature file is given twice: {', '.join(map(str, paths))}")
    return {name: read_features(path) for name, path in zip(names, paths, strict=True)}


def _show(result: TuningResult, out: Console, title: str) -> None:
    facts = result.facts
    header = (
        f"{title}: {facts['traces']} traces, {facts['problems']} problems, "
        f"{100 * facts['valid']:.0f}% valid, {facts['n_outer']} outer folds of problems no search "
        f"saw, {facts['n_trials']} trials each, 95% intervals over problems")
    rows = [[NAMES[key], interval_text(value), interval_text(result.pooled[key])]
            for key, value in result.auroc.items()]
    rows.append(["tuned - default", _signed(result.difference),
                 _signed(result.pooled["difference"])])
    out.print(table(header, ["score", "AUROC in outer folds", "pooled"], rows, {0: "bold"}))
    folds = [_fold_row(f"{i + 1}", fold) for i, fold in enumerate(result.folds)]
    folds.append(_fold_row("all traces", result.final))
    out.print(table(f"What was chosen; inner best: of {facts['n_trials']} tried on fewer problems",
                    ["fold", "setting", "columns", "inner best", "outer, tuned", "outer, default"],
                    folds))
    out.print(Panel(result.verdict, title="verdict", title_align="left"))
    out.print(f"artifact: {result.artifact}", markup=False)


def _fold_row(name: str, fold: TunedFold) -> list[str]:
    ends = ["" if value is None else f"{value:.3f}" for value in (fold.tuned, fold.default)]
    return [name, _setting(fold.params), f"{fold.n_columns}", f"{fold.inner_best:.3f}", *ends]


def _setting(params: Mapping[str, Any]) -> str:
    """The choices that leave something out or were measured, in the order they were made."""
    shown = (f"{key}={value:.3g}" if isinstance(value, float) else f"{key}={value}"
             for key, value in params.items() if value not in ("all", "none"))
    return " ".join(shown)


def _signed(value: Interval) -> str:
    return f"{value.estimate:+.3f} [{value.low:+.3f}, {value.high:+.3f}]"
