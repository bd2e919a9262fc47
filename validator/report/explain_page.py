"""The page of one trace: what its graphs look like, what departs, and what the score rests on."""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from validator import __version__
from validator.columns import Column
from validator.errors import ParameterError
from validator.explain.data import Contributions, Deviations, Explanation
from validator.report.explain_payload import payload, shown_text
from validator.whole_file import write_text_whole

__all__ = ["chosen_layer", "write_explain_page"]

ROWS = 24
"""Descriptors of the heatmap: those that depart most."""
LARGEST = 10
STRONGEST = 6.0
"""|z| of the strongest colour."""


def write_explain_page(
    path: Path, explanation: Explanation, *, title: str, command: str, layer: int | None = None
) -> None:
    """Write one self-contained HTML page; a content policy in it forbids every request.

    Args:
        path: file to write; its folder is made.
        explanation: what is shown.
        title: heading.
        command: what makes the page again.
        layer: the one shown first; None for the one whose descriptors depart most.

    Raises:
        ParameterError: a layer that was not read.
    """
    environment = Environment(
        loader=PackageLoader("validator.report", "."), autoescape=True, undefined=StrictUndefined)
    script = files("validator.report").joinpath("explain.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    d = explanation.deviations
    page = environment.get_template("explain.html.j2").render(
        title=title, command=command, version=__version__, e=explanation,
        tokens=[shown_text(t.text) for t in explanation.tokens], script=Markup(script),
        script_hash=digest, data=payload(explanation, chosen_layer(explanation, layer)),
        heat=_heat(d), largest=[_cell(d, r, c) for r, c in d.largest(LARGEST)],
        bars=_bars(explanation.verdict.contributions),
        baselines=[_baseline(b) for b in explanation.baselines])
    write_text_whole(path, page)


def chosen_layer(explanation: Explanation, layer: int | None) -> int:
    """Index among the graphs of the layer shown first; None chooses the one that departs most.

    Raises ParameterError for a layer that was not read.
    """
    layers = [g.layer for g in explanation.graphs]
    if layer is None:
        z = np.abs(explanation.deviations.z)
        defined = (~np.isnan(z)).sum(axis=0)
        mean = np.nansum(z, axis=0) / np.maximum(defined, 1)
        layer = explanation.deviations.layers[int(np.argmax(mean))]
    if layer not in layers:
        raise ParameterError(f"layer {layer} was not read; those that were: "
                             f"{', '.join(map(str, layers))}")
    return layers.index(layer)


def _heat(d: Deviations) -> list[dict[str, Any]]:
    """The rows that depart most at any layer, with what each cell says and how strongly."""
    size = np.where(np.isnan(d.z), 0.0, np.abs(d.z))
    order = np.argsort(-np.mean(size, axis=1), kind="stable")[:ROWS]
    return [{"name": d.rows[r], "cells": [_heat_cell(float(z)) for z in d.z[r]]} for r in order]


def _heat_cell(z: float) -> dict[str, Any]:
    if np.isnan(z):
        return {"kind": "none", "strength": 0, "text": "undefined"}
    strength = round(85 * min(abs(z), STRONGEST) / STRONGEST)
    return {"kind": "more" if z > 0 else "less", "strength": strength, "text": f"{z:+.1f}"}


def _cell(d: Deviations, row: int, column: int) -> dict[str, str]:
    return {"row": d.rows[row], "layer": str(d.layers[column]),
            "value": f"{d.value[row, column]:.4g}", "center": f"{d.center[row, column]:.4g}",
            "scale": f"{d.scale[row, column]:.2g}", "z": f"{d.z[row, column]:+.1f}"}


def _bars(found: Contributions | None) -> list[dict[str, Any]]:
    """Rows of the table of contributions, with the bar of each in percent of the longest."""
    if found is None:
        return []
    rows: list[tuple[str, float | None, float]] = [
        (_feature(c.name), c.value, c.contribution) for c in found.top]
    rows.append((f"{found.rest_count} other features together", None, found.rest))
    rows.append(("where every trace begins (bias)", None, found.bias))
    longest = max(abs(r[2]) for r in rows) or 1.0
    return [{"name": name, "value": "" if value is None else f"{value:.4g}",
             "contribution": f"{amount:+.3f}", "width": round(50 * abs(amount) / longest, 1),
             "kind": "more" if amount > 0 else "less"} for name, value, amount in rows]


def _feature(name: str) -> str:
    """A column's name as words: descriptor, signal, layer, graph, span."""
    column = Column.parse(name)
    if column.is_baseline:
        return column.descriptor
    of = f" of {column.signal}" if column.signal else ""
    graph = "head mean" if column.head is None else f"head {column.head}"
    what = name.split("__")[0] + of
    extra = "".join(f", {o}" for o in (*column.options, column.transform) if o)
    return f"{what}: layer {column.layer}, {graph}, {column.span}{extra}"


WORDS = {"completion_length": "completion length, tokens", "mean_logprob": "mean log-prob, nats",
         "min_logprob": "lowest log-prob, nats", "mean_token_entropy": "mean token entropy, nats"}


def _baseline(view: Any) -> dict[str, str]:
    number = "{:.0f}".format if view.name == "completion_length" else "{:.3f}".format
    return {"name": WORDS.get(view.name, view.name), "value": number(view.value),
            "percentile": f"{view.percentile:.0f}", "valid": number(view.valid_median),
            "invalid": "n/a" if view.invalid_median is None else number(view.invalid_median),
            "auroc": "n/a" if view.auroc is None else f"{view.auroc:.2f}"}
