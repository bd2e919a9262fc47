"""The plots of a report, as inline SVG that follows the page's colours."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.metrics import roc_curve

from validator.metrics.selective import reliability_bins, risk_coverage
from validator.report.heatmap import EffectGrid

__all__ = [
    "ACCENT",
    "BAD",
    "INK",
    "MUTED",
    "choosing_plot",
    "figure_of",
    "forest_plot",
    "heatmap_plot",
    "length_plot",
    "reliability_plot",
    "risk_coverage_plot",
    "roc_plot",
    "svg_of",
]

INK, ACCENT, MUTED, BAD = "#3b4252", "#0b7285", "#868e96", "#c92a2a"


def forest_plot(rows: Sequence[Mapping[str, Any]]) -> str:
    """AUROC of each score with its interval, pooled and within problems."""
    figure, axes = figure_of(8.2, 0.46 * len(rows) + 1.1)
    for key, label, colour, shift in (
        ("auroc", "pooled", MUTED, 0.13), ("within", "within problems", ACCENT, -0.13)
    ):
        shown = [(i, r[key]) for i, r in enumerate(rows) if r[key] is not None]
        if not shown:
            continue
        at = [len(rows) - 1 - i + shift for i, _ in shown]
        value = np.array([r["estimate"] for _, r in shown])
        low = value - [r["low"] for _, r in shown]
        high = np.array([r["high"] for _, r in shown]) - value
        axes.errorbar(value, at, xerr=[low, high], fmt="o", ms=5, lw=1.6, color=colour,
                      label=label)
    axes.axvline(0.5, color=MUTED, lw=1, ls=":")
    axes.set_yticks(range(len(rows)), [r["name"] for r in reversed(rows)])
    axes.set_xlabel("AUROC, 95% interval over problems (0.5: no information)")
    axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    return svg_of(figure, "AUROC of each score with intervals")


def roc_plot(labels: NDArray[np.int64], scores: Mapping[str, NDArray[np.float64]]) -> str:
    """ROC curves of the named scores."""
    figure, axes = figure_of(4.6, 4.2)
    colours = (ACCENT, "#e67700", MUTED, BAD)
    for (name, values), colour in zip(scores.items(), colours, strict=False):
        false, true, _ = roc_curve(labels, values)
        axes.plot(false, true, color=colour, label=name)
    axes.plot([0, 1], [0, 1], color=MUTED, lw=1, ls=":")
    axes.set(xlabel="invalid traces accepted", ylabel="valid traces accepted")
    axes.legend(frameon=False, loc="lower right", fontsize=8)
    return svg_of(figure, "ROC curves")


def reliability_plot(labels: NDArray[np.int64], chances: NDArray[np.float64]) -> str:
    """Share valid against predicted probability, in bins of equal count, with 95% intervals."""
    figure, axes = figure_of(4.6, 4.2)
    found = reliability_bins(labels, chances)
    axes.plot([0, 1], [0, 1], color=MUTED, lw=1, ls=":")
    error = [found.share_valid - found.low, found.high - found.share_valid]
    axes.errorbar(found.mean_predicted, found.share_valid, yerr=error, fmt="o-", color=ACCENT,
                  elinewidth=1)
    axes.set(xlabel="predicted P(valid)", ylabel="share valid", xlim=(0, 1), ylim=(0, 1))
    return svg_of(figure, "Reliability of the learned score")


def length_plot(
    labels: NDArray[np.int64], lengths: NDArray[np.int64], chances: NDArray[np.float64]
) -> str:
    """Learned score against completion length, by class."""
    figure, axes = figure_of(4.6, 4.2)
    jitter = np.random.default_rng(0).uniform(-0.3, 0.3, len(lengths))
    for label, name, colour in ((0, "invalid", BAD), (1, "valid", ACCENT)):
        rows = labels == label
        axes.scatter(lengths[rows] + jitter[rows], chances[rows], s=7, alpha=0.45, color=colour,
                     label=name, linewidths=0)
    axes.set(xlabel="completion length, tokens", ylabel="predicted P(valid)", ylim=(0, 1))
    axes.legend(frameon=False, fontsize=8)
    return svg_of(figure, "Learned score against length")


def choosing_plot(values: Mapping[str, Mapping[str, float]]) -> str:
    """Accuracy of choosing one answer per problem, by rule."""
    figure, axes = figure_of(8.2, 0.42 * len(values) + 0.9)
    names = list(values)
    at = np.arange(len(names))[::-1]
    middle = np.array([values[n]["estimate"] for n in names])
    error = [middle - [values[n]["low"] for n in names],
             np.array([values[n]["high"] for n in names]) - middle]
    axes.barh(at, middle, xerr=error, color=ACCENT, alpha=0.75, height=0.6,
              error_kw={"ecolor": INK, "lw": 1.2})
    axes.set_yticks(at, names)
    axes.set(xlabel="share of problems answered right", xlim=(0, 1))
    return svg_of(figure, "Accuracy of choosing among the samples of a problem")


def risk_coverage_plot(
    labels: NDArray[np.int64], scores: Mapping[str, NDArray[np.float64]]
) -> str:
    """Share wrong among the traces answered, against the share answered."""
    figure, axes = figure_of(4.6, 4.2)
    colours = (ACCENT, "#e67700", MUTED, BAD)
    for (name, values), colour in zip(scores.items(), colours, strict=False):
        curve = risk_coverage(labels, values)
        axes.plot(curve.coverage, curve.risk, color=colour, label=name)
    axes.axhline(1 - labels.mean(), color=MUTED, lw=1, ls=":")
    axes.set(xlabel="share answered", ylabel="share wrong among them", xlim=(0, 1), ylim=(0, 1))
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    return svg_of(figure, "Risk against coverage")


def heatmap_plot(grid: EffectGrid) -> str:
    """Effect size by descriptor and layer; a dot where it is significant."""
    figure, axes = figure_of(8.2, 0.26 * len(grid.rows) + 1.2)
    limit = max(0.2, float(np.nanmax(np.abs(grid.d))))
    image = axes.pcolormesh(np.ma.masked_invalid(grid.d), cmap="RdBu", vmin=-limit, vmax=limit)
    for row, column in np.argwhere(grid.significant):
        axes.plot(column + 0.5, row + 0.5, ".", ms=3, color=INK)
    axes.invert_yaxis()
    axes.set_yticks(np.arange(len(grid.rows)) + 0.5, grid.rows, fontsize=7)
    every = max(1, len(grid.layers) // 15)
    axes.set_xticks(np.arange(0, len(grid.layers), every) + 0.5, grid.layers[::every])
    axes.set_xlabel("layer")
    bar = figure.colorbar(image, ax=axes, label="Cohen's d (blue: more in valid traces)", pad=0.01)
    if bar.solids is not None:
        bar.solids.set_rasterized(False)  # no bitmap inside the page
    return svg_of(figure, "Effect size by descriptor and layer")


def figure_of(width: float, height: float) -> tuple[Figure, Any]:
    """A figure of that many inches with one pair of axes."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def svg_of(figure: Figure, title: str) -> str:
    """The figure as SVG to be put into a page; the same figure gives the same text."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "spectral-validator"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg"):]
    # Black is matplotlib's default for text and axes: let it follow the page instead.
    svg = re.sub(r"#000000\b", "currentColor", svg)
    svg = re.sub(r'(<svg [^>]*?)width="[^"]*" height="[^"]*"|(<svg )', _responsive, svg, count=1)
    return svg.replace(">", f' role="img" aria-label="{title}">', 1)


def _responsive(found: re.Match[str]) -> str:
    return (found[1] or found[2]) + 'style="max-width:100%;height:auto"'
