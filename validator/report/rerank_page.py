"""The page of a reranking: accuracy of each way of choosing as a curve over N."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from validator import __version__
from validator.report.plots import ACCENT, BAD, INK, MUTED, figure_of, svg_of
from validator.whole_file import write_text_whole

__all__ = ["selection_plot", "write_rerank_page"]

SHOWN = (1, 4, 8, 16)
"""Numbers of answers of the table; more columns would not fit."""
DRAWN = ("majority vote", "best of N by mean_logprob", "best of N by surface",
         "vote weighted by P(valid)", "oracle")
"""Curves beside the learned score's, those of them that are there."""


def write_rerank_page(
    path: Path, result: Mapping[str, Any], *, title: str, command: str, notes: Sequence[str] = (),
) -> None:
    """Write one self-contained HTML page.

    Args:
        path: file to write; its folder is made.
        result: :meth:`validator.training.reranking.RerankingReport.to_json`.
        title: heading.
        command: what makes the page again.
        notes: sentences to be read before the numbers.
    """
    environment = Environment(
        loader=PackageLoader("validator.report", "."), autoescape=True, undefined=StrictUndefined)
    page = environment.get_template("rerank.html.j2").render(
        title=title, command=command, version=__version__, notes=notes, **result,
        shown=[n for n in result["sizes"] if n in SHOWN],
        plots={"curve": Markup(selection_plot(result))})
    write_text_whole(path, page)


def selection_plot(result: Mapping[str, Any]) -> str:
    """Accuracy over the number of answers, the learned score with its interval."""
    figure, axes = figure_of(8.2, 4.4)
    sizes, curves = result["sizes"], result["curves"]
    colours = {"majority vote": INK, "oracle": MUTED, "best of N by mean_logprob": "#e67700",
               "best of N by surface": BAD, "vote weighted by P(valid)": "#5f3dc4"}
    own = result["learned"]
    if own is not None:
        axes.fill_between(sizes, [i["low"] for i in curves[own]], [i["high"] for i in curves[own]],
                          color=ACCENT, alpha=0.15, lw=0)
        axes.plot(sizes, [i["estimate"] for i in curves[own]], "o-", ms=3, color=ACCENT, lw=2,
                  label=own)
    for rule in DRAWN:
        if rule in curves and rule != own:
            style = ":" if rule == "oracle" else "-"
            axes.plot(sizes, [i["estimate"] for i in curves[rule]], style, color=colours[rule],
                      label=rule)
    axes.set(xlabel="answers sampled, N", ylabel="share of problems answered right", ylim=(0, 1))
    axes.set_xticks(sizes)
    axes.legend(frameon=False, fontsize=8, loc="upper left")
    return svg_of(figure, "Accuracy of choosing by number of answers")
