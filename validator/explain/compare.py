"""One trace beside the reference: deviations, neighbours, baselines."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from validator.classifier.design import fit_design
from validator.columns import BASELINES
from validator.explain.data import BaselineView, Deviations, Neighbour
from validator.explain.reference import Reference
from validator.metrics import auroc
from validator.types import Trace

__all__ = ["FAR", "baseline_views", "deviations", "nearest", "quantile_bands"]

Array = NDArray[np.float64]

FAR = 3.0
"""Robust standard deviations from which on a cell is counted as beyond the band."""


def deviations(reference: Reference, own: NDArray[np.float32]) -> Deviations:
    """How far a trace's (R, L) grid lies from the band of the valid reference traces."""
    band = reference.valid_band()
    shares = beyond_shares(band.z(reference.grid))
    invalid = shares[reference.where(0)]
    z = band.z(own)
    return Deviations(
        reference.rows, reference.layers, own, band.center, band.scale, z,
        float(beyond_shares(z[None])[0]), float(np.median(shares[reference.where(1)])),
        float(np.median(invalid)) if len(invalid) else None)


def beyond_shares(z: Array) -> Array:
    """(N, R, L) -> (N,) share of the defined cells beyond 3; 0 where none is defined."""
    flat = z.reshape(len(z), -1)
    defined = (~np.isnan(flat)).sum(axis=1)
    return np.asarray((np.abs(flat) > FAR).sum(axis=1) / np.maximum(defined, 1))


def nearest(
    reference: Reference, trace: Trace, own: NDArray[np.float32], k: int
) -> tuple[dict[int, tuple[Neighbour, ...]], tuple[float, float]]:
    """The k nearest valid and invalid reference traces, and what distances are usual.

    Columns are standardised over the reference as the classifier does it: a gap becomes the median,
    with a 0 / 1 column that says where. The distance is Euclidean, over the root of the number of
    columns.

    Args:
        reference: N >= 2 traces.
        trace: the one explained.
        own: its (R, L) grid.
        k: how many of each label.

    Returns:
        Label -> neighbours, nearest first; median and 95th percentile over the reference of the
        distance from each trace to its nearest other.
    """
    rows = reference.grid.reshape(len(reference), -1).astype(np.float64)
    known = ~np.isnan(rows).all(axis=0)  # not every descriptor is there at every layer
    design = fit_design(rows[:, known], np.ones(len(rows)))
    Z = design.transform(rows[:, known])
    z = design.transform(own.reshape(1, -1)[:, known].astype(np.float64))
    width = np.sqrt(Z.shape[1])
    distance = np.linalg.norm(Z - z, axis=1) / width
    found = {}
    for label in (1, 0):
        where = reference.where(label)
        order = where[np.argsort(distance[where], kind="stable")][:k]
        found[label] = tuple(
            Neighbour(reference.traces[i], float(distance[i]),
                      reference.traces[i].problem_id == trace.problem_id) for i in order)
    square = (Z**2).sum(axis=1)
    between = square[:, None] + square - 2 * Z @ Z.T
    np.fill_diagonal(between, np.inf)
    usual = np.sqrt(np.maximum(between.min(axis=1), 0.0)) / width
    return found, (float(np.median(usual)), float(np.quantile(usual, 0.95)))


def baseline_views(reference: Reference, own: NDArray[np.float32]) -> tuple[BaselineView, ...]:
    """Length, log-probabilities and token entropy of a trace among those of the reference.

    Args:
        reference: labelled traces.
        own: (5,) of :data:`validator.columns.BASELINES`.
    """
    labels = np.array([-1 if t.label is None else t.label for t in reference.traces])
    views = []
    for i, name in enumerate(BASELINES):
        if name == "prompt_length":
            continue  # of the question, not of the answer
        values = reference.baselines[:, i].astype(np.float64)
        valid, invalid = values[labels == 1], values[labels == 0]
        chance = None
        if len(valid) and len(invalid):
            one = auroc(labels[labels >= 0], values[labels >= 0])
            chance = float(max(one, 1 - one))
        views.append(BaselineView(
            name, float(own[i]), _percentile(values, float(own[i])),
            float(np.median(valid)), float(np.median(invalid)) if len(invalid) else None, chance))
    return tuple(views)


def _percentile(values: Array, own: float) -> float:
    """Share of the values below, ties half, in percent."""
    return float(100 * ((values < own).mean() + (values == own).mean() / 2))


def quantile_bands(reference: Reference, span: str) -> dict[float, tuple[Array, Array]]:
    """Level -> (L,) 5th and 95th percentile, over the valid traces, of an eigenvalue quantile.

    Of the head-mean normalized graph of the span; empty where the features do not hold it.
    """
    form = re.compile(rf"eigenvalue_quantile_q([0-9.]+) {re.escape(span)} \(head-mean\)")
    levels = {float(m[1]): i for i, row in enumerate(reference.rows) if (m := form.fullmatch(row))}
    valid = reference.grid[reference.where(1)].astype(np.float64)
    bands = {}
    for level, i in sorted(levels.items()):
        low, high = np.nanquantile(valid[:, i], [0.05, 0.95], axis=0)
        bands[level] = (np.asarray(low), np.asarray(high))
    return bands
