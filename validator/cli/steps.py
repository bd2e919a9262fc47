"""``validator steps``: how well each step is judged, and where the first error is found."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from validator.cli.console import (
    add_command,
    command_line,
    console,
    error_console,
    interval_text,
    print_json,
    progress,
    table,
    write_json,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from validator.training.step_comparison import MetricRow, StepComparison

__all__ = ["register"]

MANY = 4000
"""Steps from which on an exact logistic fit on more columns than steps is slow."""


def register(subparsers: Any) -> None:
    """Add the command."""
    from validator.cli.train import add_classifier_options

    parser = add_command(
        subparsers, "steps",
        "Judge P(step valid) and first-error localisation under problem-grouped folds.",
        "validator steps step_features.parquet --folds 5 --components 512", run)
    parser.add_argument("features", type=Path,
                        help="feature file made by `validator extract --steps`")
    add_classifier_options(parser)
    parser.set_defaults(folds=5)
    parser.add_argument("--components", type=int, metavar="K",
                        help="logistic, mlp: read K principal axes (a power of 2) in place of all "
                             "columns; from some 4,000 labelled steps on, much faster")
    parser.add_argument("--save-artifact", type=Path, metavar="DIR",
                        help="fit to all labelled steps and write the artifact here")
    parser.add_argument("--json-output", type=Path, help="write the numbers as JSON")


def run(args: argparse.Namespace) -> int:
    """Judge, save, show."""
    from validator.cli.train import classifier
    from validator.features.table import read_features
    from validator.training.step_comparison import compare_steps
    from validator.training.step_fit import save_step_classifier
    from validator.training.steps import cross_validate_steps

    features, chosen = read_features(args.features), classifier(args)
    if len(features) > MANY and args.components is None and args.kind == "logistic":
        error_console().print(f"{len(features)} steps: every exact fit takes minutes; "
                              "--components 512 is nearly the same model in seconds")
    with progress("folds") as advance:
        oof = cross_validate_steps(
            features, chosen, n_splits=args.folds, seed=args.seed, components=args.components,
            progress=advance)
    comparison = compare_steps(oof, seed=args.seed)
    result = {"command": command_line(), **comparison.to_json()}
    if args.save_artifact:
        save_step_classifier(
            args.save_artifact, oof, comparison, chosen, {"command": command_line()})
        result["artifact"] = str(args.save_artifact)
    if args.json_output:
        write_json(args.json_output, result)
    if args.json:
        print_json(result)
        return 0
    _show(comparison, f"Steps of {args.features.name}")
    if args.save_artifact:
        console().print(f"artifact: {args.save_artifact}", markup=False)
    return 0


def _show(comparison: StepComparison, title: str) -> None:
    from rich.panel import Panel

    from validator.training.step_comparison import RANKING_METRICS
    from validator.training.step_location import LOCATION_METRICS

    facts, out = comparison.facts, console()
    header = (f"{title}: {facts['labelled']} labelled steps of {facts['problems']} problems, "
              f"{100 * facts['valid']:.0f}% valid, {facts['folds']} problem-grouped folds, "
              "95% intervals over problems")
    _print_rows(header, "P(step valid)", comparison.ranking, RANKING_METRICS)
    if comparison.location:
        header = f"Naming the first error of the {facts['with_error']} traces with one"
        forced = {m: n for m, n in LOCATION_METRICS.items() if m.startswith("lowest")}
        _print_rows(header, "rule", comparison.location, forced)
        header = (f"Naming it or none, by a threshold from training folds: "
                  f"{facts['judged_traces']} traces")
        free = {m: n for m, n in LOCATION_METRICS.items() if m not in (*forced, "near")}
        _print_rows(header, "rule", comparison.location, free)
    for note in comparison.notes:
        out.print(note, markup=False)
    out.print(Panel(comparison.verdict, title="verdict", title_align="left"))


def _print_rows(
    title: str, what: str, rows: Sequence[MetricRow], metrics: Mapping[str, str]
) -> None:
    from validator.training.steps import SPECTRAL

    cells = [[r.name, *(interval_text(r.values[m]) for m in metrics)] for r in rows]
    own = {i: "bold" for i, r in enumerate(rows) if r.key in SPECTRAL}
    console().print(table(title, [what, *metrics.values()], cells, own))
