"""The page of scores that another run gave: no classifier is fitted, nothing is extracted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from numpy.typing import NDArray

from validator import __version__
from validator.report.plots import (
    choosing_plot,
    forest_plot,
    length_plot,
    reliability_plot,
    risk_coverage_plot,
    roc_plot,
)
from validator.whole_file import write_text_whole

__all__ = ["write_given_page"]

CURVES = ("mean_logprob", "completion_length", "hfer")
"""Scores that get a curve, beside the learned one."""


def write_given_page(
    path: Path, result: Mapping[str, Any], scores: Mapping[str, NDArray[np.float64]],
    labels: NDArray[np.int64], lengths: NDArray[np.int64], *, learned: str, title: str,
    command: str, about: Mapping[str, Any], notes: Sequence[str] = (),
) -> None:
    """Write one self-contained HTML page.

    Args:
        path: file to write; its folder is made.
        result: :meth:`validator.training.given_scores.GivenComparison.to_json`.
        scores: name -> (N,), NaN where a response has none.
        labels: (N,) 1 right, 0 wrong.
        lengths: (N,) completion tokens.
        learned: the name of P(valid).
        title: heading.
        command: what makes the page again.
        about: what made the scores.
        notes: sentences to be read before the numbers.
    """
    environment = Environment(
        loader=PackageLoader("validator.report", "."), autoescape=True, undefined=StrictUndefined)
    shown = {n: _ranked(scores[n]) for n in (learned, *CURVES) if n in scores}
    chances = scores.get(learned)
    known = None if chances is None else ~np.isnan(chances)
    plots = {
        "forest": forest_plot([{**r, "name": r["key"]} for r in result["rows"]]),
        "roc": roc_plot(labels, shown), "risk": risk_coverage_plot(labels, shown),
        "choosing": _choosing(result), "reliability": "", "length": "",
    }
    if chances is not None and known is not None and known.any():
        plots["reliability"] = reliability_plot(labels[known], chances[known])
        plots["length"] = length_plot(labels[known], lengths[known], chances[known])
    page = environment.get_template("given.html.j2").render(
        title=title, command=command, version=__version__, learned=learned, about=about,
        notes=notes, **result, plots={k: Markup(v) for k, v in plots.items()})
    write_text_whole(path, page)


def _choosing(result: Mapping[str, Any]) -> str:
    if not result["choosing"]:
        return ""
    ends = dict(result["choosing"])
    last = {"oracle": ends.pop("oracle")}
    by_score = {f"best of N by {r['key']}": r["best_of_n"] for r in result["rows"]
                if r["best_of_n"] is not None}
    return choosing_plot({**ends, **by_score, **last})


def _ranked(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scores with those that are missing below all others, finite for the plots."""
    lowest = np.nanmin(scores) - 1 if not np.isnan(scores).all() else 0.0
    return np.where(np.isnan(scores), lowest, scores)
