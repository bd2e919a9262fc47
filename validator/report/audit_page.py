"""The page of an audit: what is length, difficulty, provenance or surface, and what is left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from validator import __version__
from validator.report.plots import ACCENT, BAD, MUTED, figure_of, forest_plot, svg_of
from validator.whole_file import write_text_whole

__all__ = ["write_audit_page"]

SHOWN = 20
"""Duplicates and families listed; the JSON has all."""


def write_audit_page(path: Path, result: Mapping[str, Any], *, title: str, command: str) -> None:
    """Write one self-contained HTML page.

    Args:
        path: file to write; its folder is made.
        result: an audit as plain values, :meth:`validator.audit.outcome.Audit.to_json`.
        title: heading.
        command: what makes the page again.
    """
    environment = Environment(
        loader=PackageLoader("validator.report", "."), autoescape=True, undefined=StrictUndefined)
    alone, scores = ([r for r in result[key] if r["auroc"]] for key in ("alone", "scores"))
    plots = {
        "alone": forest_plot(alone) if alone else "",
        "scores": forest_plot(scores) if scores else "",
        "null": null_plot(result["permutations"]),
        "families": family_plot(result["correlations"]) if result["correlations"] else "",
    }
    chosen = {k: v for k, v in result["facts"]["classifier"].items() if v is not None}
    page = environment.get_template("audit.html.j2").render(
        title=title, command=command, version=__version__, shown=SHOWN, **result,
        plots={k: Markup(v) for k, v in plots.items()},
        classifier=", ".join(f"{k}={v}" for k, v in chosen.items()))
    write_text_whole(path, page)


def null_plot(tests: Sequence[Mapping[str, Any]]) -> str:
    """AUROC of shuffled labels as a cloud beside that of the real ones, test by test."""
    figure, axes = figure_of(8.2, 0.55 * len(tests) + 1.0)
    jitter = np.random.default_rng(0)
    for i, test in enumerate(reversed(tests)):
        at = i + jitter.uniform(-0.22, 0.22, len(test["null"]))
        axes.scatter(test["null"], at, s=8, alpha=0.4, color=MUTED, linewidths=0,
                     label="shuffled labels" if i == 0 else None)
        axes.plot(test["observed"], i, "D", color=BAD if test["p_value"] > 0.05 else ACCENT,
                  label="real labels" if i == 0 else None)
    axes.axvline(0.5, color=MUTED, lw=1, ls=":")
    names = [f"{t['statistic']}, shuffled {PLACES[t['scheme']]}" for t in reversed(tests)]
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("AUROC")
    axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    return svg_of(figure, "AUROC under shuffled labels")


PLACES = {"problems": "between problems", "within": "inside problems"}


def family_plot(families: Sequence[Mapping[str, Any]]) -> str:
    """Median |rho| with length of each family, raw and corrected."""
    names = list(dict.fromkeys(f["family"] for f in families))[:SHOWN]
    transforms = list(dict.fromkeys(f["transform"] for f in families))
    figure, axes = figure_of(8.2, 0.34 * len(names) + 1.2)
    markers = dict(zip(transforms, "osD^vP*X", strict=False))
    for transform, marker in markers.items():
        points = [(f["median"], len(names) - 1 - names.index(f["family"])) for f in families
                  if f["transform"] == transform and f["median"] is not None
                  and f["family"] in names]
        if points:
            axes.plot(*zip(*points, strict=True), marker, label=transform,
                      color=ACCENT if transform == "raw" else None, alpha=0.8)
    axes.set_yticks(range(len(names)), reversed(names))
    axes.set(xlabel="median |Spearman's rho| with completion length", xlim=(0, 1))
    axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4)
    return svg_of(figure, "Rank correlation of features with length, by family")
