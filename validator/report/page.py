"""Fills the page template; everything is inlined, so the file opens anywhere without a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from numpy.typing import NDArray

from validator import __version__
from validator.classifier.importance import FeatureImportance
from validator.report.heatmap import EffectGrid
from validator.report.plots import (
    choosing_plot,
    forest_plot,
    heatmap_plot,
    length_plot,
    reliability_plot,
    risk_coverage_plot,
    roc_plot,
)
from validator.whole_file import write_text_whole

__all__ = ["write_report"]

CURVES = ("learned", "length+logprob", "surface", "length")


def write_report(
    path: Path,
    result: Mapping[str, Any],
    scores: Mapping[str, NDArray[np.float64]],
    labels: NDArray[np.int64],
    lengths: NDArray[np.int64],
    *,
    title: str,
    command: str,
    grid: EffectGrid | None = None,
    important: Sequence[FeatureImportance] = (),
) -> None:
    """Write one self-contained HTML page.

    Args:
        path: file to write; its folder is made.
        result: a comparison as plain values: rows, increments, choosing, facts, verdict.
        scores: key -> (N,) out-of-fold scores; those in :data:`CURVES` get a ROC curve.
        labels: (N,) 1 valid, 0 invalid.
        lengths: (N,) completion tokens.
        title: heading.
        command: what makes the page again.
        grid: effect sizes by descriptor and layer, shown as a heatmap.
        important: the features that move the learned score most, largest first.
    """
    environment = Environment(
        loader=PackageLoader("validator.report", "."), autoescape=True, undefined=StrictUndefined)
    names = {row["key"]: row["name"] for row in result["rows"]}
    chances = 1 / (1 + np.exp(-scores["learned"]))
    plots = {
        "forest": forest_plot(result["rows"]),
        "roc": roc_plot(labels, {names[k]: scores[k] for k in CURVES}),
        "reliability": reliability_plot(labels, chances),
        "risk": risk_coverage_plot(labels, {names[k]: scores[k] for k in CURVES}),
        "heatmap": "" if grid is None else heatmap_plot(grid),
        "length": length_plot(labels, lengths, chances),
        "choosing": _choosing(result),
    }
    chosen = {k: v for k, v in result["facts"]["classifier"].items() if v is not None}
    page = environment.get_template("page.html.j2").render(
        title=title, command=command, version=__version__, **result,
        plots={k: Markup(v) for k, v in plots.items()},
        important=important,
        classifier=", ".join(f"{k}={v}" for k, v in chosen.items()),
    )
    write_text_whole(path, page)


def _choosing(result: Mapping[str, Any]) -> str:
    if not result["choosing"]:
        return ""
    by_score = {
        f"by {row['name']}": row["best_of_n"] for row in result["rows"]
        if row["best_of_n"] is not None and row["key"] != "spectra"
    }
    ends = dict(result["choosing"])
    last = {"oracle": ends.pop("oracle")}
    return choosing_plot({**ends, **by_score, **last})
