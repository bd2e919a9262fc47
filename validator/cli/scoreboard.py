"""How a comparison of scores is shown: as tables, as JSON, as a page."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.panel import Panel

from validator.classifier import ValidityClassifier
from validator.classifier.importance import FeatureImportance, top_features
from validator.cli.console import command_line, interval_text, table
from validator.families import learned_names
from validator.report.heatmap import effect_grid
from validator.report.page import write_report
from validator.training.comparison import Comparison
from validator.training.evaluate import CrossValidated
from validator.types import FeatureMatrix

__all__ = ["show_comparison", "write_page"]


def show_comparison(comparison: Comparison, out: Console, title: str) -> None:
    """Print the table of scores, what spectra add, choosing among samples, and the verdict."""
    facts = comparison.facts
    header = (
        f"{title}: {facts['traces']} traces, {facts['problems']} problems, "
        f"{100 * facts['valid']:.0f}% valid, {facts['folds']} problem-grouped folds, "
        "95% intervals over problems")
    rows = [
        [r.name, interval_text(r.auroc), interval_text(r.within), interval_text(r.length_matched),
         interval_text(r.best_of_n)]
        for r in comparison.rows
    ]
    own = {i: "bold" for i, r in enumerate(comparison.rows) if "learned" in r.key}
    columns = ["score", "AUROC", "within problems", "at equal length", "best of N"]
    out.print(table(header, columns, rows, own))
    if comparison.choosing:
        chosen = [[name, interval_text(value)] for name, value in comparison.choosing.items()]
        out.print(table("Without a score", ["rule", "problems right"], chosen))
    for name, count in list(facts["single_columns"].items())[:3]:
        out.print(f"best single feature in {count} of {facts['folds']} folds: {name}", markup=False)
    out.print(Panel(comparison.verdict, title="verdict", title_align="left"))


def write_page(
    path: Path, oof: CrossValidated, comparison: Comparison, title: str,
    classifier: ValidityClassifier | None = None,
) -> None:
    """The same as one self-contained HTML page.

    ``classifier``: fitted on all of these features, to show what moves it; None for none.
    """
    features = oof.features
    write_report(
        path, comparison.to_json(), oof.scores, features.labels, features.lengths[:, 1],
        title=title, command=command_line(), grid=effect_grid(features),
        important=_important(features, classifier))


def _important(
    features: FeatureMatrix, classifier: ValidityClassifier | None
) -> list[FeatureImportance]:
    if classifier is None or classifier.kind == "mlp":
        return []
    names = learned_names(features.names)
    return top_features(classifier, features.select(names), names, 15)
