"""The arrays of an explanation as the page's script reads them: whole numbers where they do."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from validator.explain.data import Explanation, LayerGraph

__all__ = ["BINS", "payload", "shown_text"]

Array = NDArray[np.float64]

BINS = 20
LABELLED = 10
"""Tokens named in the drawing: those of the largest degree."""


def payload(explanation: Explanation, chosen: int) -> dict[str, Any]:
    """What the script draws, JSON values; ``chosen`` is the index of the layer shown first.

    Histograms count eigenvalues in :data:`BINS` equal bins from 0 to ``top``, the same for every
    layer; the null's are the smallest and the largest count over its draws.
    """
    graphs, null = explanation.graphs, explanation.null.eigenvalues
    top = float(np.ceil(10 * max(null.max(), *(g.eigenvalues.max() for g in graphs))) / 10)
    levels = sorted(explanation.quantiles)
    counts = np.stack([_histogram(draw, top) for draw in null])
    drawn = np.quantile(null, levels, axis=1) if levels else np.zeros((0, len(null)))
    return {
        "chosen": chosen, "top": top, "bins": BINS, "levels": levels,
        "tokens": [shown_text(t.text) for t in explanation.tokens],
        "surprisal": [None if t.surprisal is None else round(t.surprisal, 3)
                      for t in explanation.tokens],
        "null": {"low": counts.min(0).tolist(), "high": counts.max(0).tolist(),
                 "quantiles": [_pair(float(row.min()), float(row.max())) for row in drawn]},
        "layers": [_layer(g, top, levels, explanation) for g in graphs],
    }


def shown_text(text: str) -> str:
    """A token's text so that it can be seen: line breaks, tabs, and nothing at all."""
    return text.replace("\n", "↵\n").replace("\t", "⇥") or "∅"


def _layer(
    graph: LayerGraph, top: float, levels: list[float], explanation: Explanation
) -> dict[str, Any]:
    size = np.abs(graph.fiedler).max()
    strongest = max(float(graph.weights.max(initial=0.0)), 1e-12)
    at = {layer: i for i, layer in enumerate(explanation.deviations.layers)}.get(graph.layer)
    bands = [explanation.quantiles[q] for q in levels] if at is not None else []
    return {
        "layer": graph.layer, "k": graph.n_clusters, "value": float(f"{graph.eigenvalues[1]:.4g}"),
        "fiedler": np.rint(100 * graph.fiedler / size).astype(int).tolist(),
        "clusters": graph.clusters.tolist(),
        "xy": _placed(graph.embedding).tolist(),
        "edges": graph.edges.tolist(),
        "weights": np.rint(100 * graph.weights / strongest).astype(int).tolist(),
        "size": np.rint(100 * graph.degrees / graph.degrees.max()).astype(int).tolist(),
        "named": np.sort(np.argsort(-graph.degrees, kind="stable")[:LABELLED]).tolist(),
        "histogram": _histogram(graph.eigenvalues, top).tolist(),
        "quantiles": [round(float(q), 4) for q in np.quantile(graph.eigenvalues, levels)]
        if levels else [],
        "valid": [_pair(float(low[at or 0]), float(high[at or 0])) for low, high in bands],
    }


def _histogram(eigenvalues: Array, top: float) -> NDArray[np.int64]:
    return np.histogram(np.clip(eigenvalues, 0, top), BINS, (0, top))[0].astype(np.int64)


def _placed(points: Array) -> NDArray[np.int64]:
    """(T, 2) coordinates as whole numbers in [0, 1000], each axis by its own range."""
    low, reach = points.min(axis=0), np.ptp(points, axis=0)
    return np.asarray(np.rint(1000 * (points - low) / np.where(reach > 0, reach, 1.0)), np.int64)


def _pair(low: float, high: float) -> list[float] | None:
    return None if np.isnan(low) or np.isnan(high) else [round(float(low), 4),
                                                        round(float(high), 4)]
