"""The page of a run's checkpoints: what each criterion says of them, beside their accuracy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from validator import __version__
from validator.report.plots import ACCENT, BAD, INK, MUTED, figure_of, svg_of
from validator.whole_file import write_text_whole

__all__ = ["steps_plot", "write_checkpoints_page"]

SHOWN = ("validity", "validity_auroc", "validation_loss", "mean_logprob")
"""Criteria that get a line, where there are such; the table has all."""


def write_checkpoints_page(
    path: Path, result: Mapping[str, Any], *, title: str, command: str,
    about: Mapping[str, Any], notes: Sequence[str] = (),
) -> None:
    """Write one self-contained HTML page.

    Args:
        path: file to write; its folder is made.
        result: :meth:`validator.plugins.checkpoints.Survey.to_json`.
        title: heading.
        command: what makes the page again.
        about: what made the numbers.
        notes: sentences to be read before the numbers.
    """
    environment = Environment(
        loader=PackageLoader("validator.report", "."), autoescape=True, undefined=StrictUndefined)
    rows = sorted(result["checkpoints"], key=lambda row: row["rank"])
    names = list(dict.fromkeys(n for row in rows for n in row["values"]))
    page = environment.get_template("checkpoints.html.j2").render(
        title=title, command=command, version=__version__, about=about, notes=notes, rows=rows,
        names=names, plot=Markup(steps_plot(result["checkpoints"], SHOWN)),
        **{k: v for k, v in result.items() if k != "checkpoints"})
    write_text_whole(path, page)


def steps_plot(checkpoints: Sequence[Mapping[str, Any]], names: Sequence[str]) -> str:
    """The named criteria over the steps, each scaled to its own range, and accuracy as it is.

    A loss is drawn upside down, so that up is better for every line.
    """
    figure, axes = figure_of(8.2, 3.8)
    steps = [row["step"] for row in checkpoints]
    accuracy = [math.nan if r["accuracy"] is None else r["accuracy"] for r in checkpoints]
    if not np.isnan(accuracy).all():
        right = axes.twinx()
        right.plot(steps, accuracy, "o-", color=INK, lw=2.2, label="true accuracy")
        right.set(ylabel="true accuracy", ylim=(0, 1))
        right.spines["top"].set_visible(False)
        right.legend(frameon=False, loc="lower right", fontsize=8)
    colours = (ACCENT, "#e67700", BAD, MUTED)
    shown = [n for n in names if any(r["values"].get(n) is not None for r in checkpoints)]
    for name, colour in zip(shown, colours, strict=False):
        loss = name == "validation_loss"
        label = f"{name}, upside down" if loss else name
        axes.plot(steps, _scaled(checkpoints, name, -1 if loss else 1), "o--", ms=4, lw=1.4,
                  color=colour, label=label)
    axes.set(xlabel="step", ylabel="criterion, scaled to its range (up: better)",
             ylim=(-0.05, 1.05))
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=4, fontsize=8)
    return svg_of(figure, "Criteria and true accuracy over the steps")


def _scaled(checkpoints: Sequence[Mapping[str, Any]], name: str, sign: int) -> list[float]:
    given = [row["values"].get(name) for row in checkpoints]
    values = sign * np.array([math.nan if v is None else v for v in given], dtype=np.float64)
    low, high = np.nanmin(values), np.nanmax(values)
    return [float(v) for v in ((values - low) / (high - low) if high > low else values * 0 + 0.5)]
