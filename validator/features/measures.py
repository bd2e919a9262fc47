"""Descriptors of spectral measures: eigenvalues known as nodes with masses, not one by one.

A measure comes from a subspace of the graph's n-dimensional space: its nodes are Ritz values, the
mass of a node says how much of the spectrum it stands for, and its energy how much of a signal.
Within a node's mass the spectrum is taken as evenly spread between the neighbouring nodes (the
midpoint rule on the Chebyshev-Markov-Stieltjes bounds of a Gauss quadrature's distribution
function); where every eigenvalue is a node of mass 1/n, each function equals its namesake in
:mod:`validator.features.descriptors`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["distribution_error", "entropy_of_measure", "node_masses", "quantiles_of_measure",
           "share_above"]

Array = NDArray[np.float64]

CERTAIN, UNCERTAIN = 1e-4, 1e-2
"""Residuals, in units of the mean eigenvalue, of nodes that surely are single eigenvalues and
that surely are not; between them the two readings are blended, so that masses are continuous."""
SAME = 1e-4
"""Nodes this close, in the same units, count as copies of one eigenvalue."""


def node_masses(
    values: Array, residuals: Array, weights: Array, nodes: int, width: int, mean: Array
) -> Array:
    """Mass of each node, as each random probe sees it.

    A probe z that is uniform in direction has E (y^T z)^2 = ||z||^2 / n (stochastic Lanczos
    quadrature, Ubaru, Chen and Saad 2017, section 3). Nodes that are eigenvalues beyond doubt need
    no estimate: each has mass 1 / n. A multiple eigenvalue that fills the whole width of the
    Krylov block may have more copies than nodes, and keeps its estimate.

    Args:
        values: (G, m) ascending, without the known eigenvalue 0 of the null vector.
        residuals: (G, m).
        weights: (G, m, P) squared coordinates of the probes.
        nodes: n, the graph's size.
        width: start vectors of the Krylov block.
        mean: (G,) eigenvalue.

    Returns:
        (G, m, P), over m each sums to (n - 1) / n.
    """
    scale = np.maximum(mean, np.finfo(float).tiny)[:, None]
    log = np.log(np.maximum(residuals / scale, 1e-300))
    certain = np.clip((np.log(UNCERTAIN) - log) / np.log(UNCERTAIN / CERTAIN), 0.0, 1.0)
    certain[_copies(values, SAME * scale) >= width] = 0.0
    known = (certain / nodes)[..., None]
    estimated = weights * (1.0 - certain)[..., None]
    total = estimated.sum(1, keepdims=True)
    left = (nodes - 1) / nodes - known.sum(1, keepdims=True)
    return np.asarray(known + estimated * np.maximum(left, 0.0) / np.where(total > 0, total, 1.0))


def _copies(values: Array, distance: Array) -> Array:
    counts = [np.searchsorted(v, v + d, "right") - np.searchsorted(v, v - d, "left")
              for v, d in zip(values, distance, strict=True)]
    return np.array(counts)


def distribution_error(masses: Array) -> Array:
    """Largest standard error, over the nodes, of the distribution function.

    Args:
        masses: (G, m, P) as each of P >= 2 independent probes sees them.

    Returns:
        (G,) in [0, 1]: of the mean over the probes.
    """
    spread = masses.cumsum(1).std(-1, ddof=1).max(1)
    return np.asarray(spread / np.sqrt(masses.shape[-1]))


def quantiles_of_measure(values: Array, masses: Array, q: Array, nodes: int) -> Array:
    """Quantiles, type 7 (see :func:`validator.features.descriptors.quantiles`).

    Args:
        values: (G, m) ascending.
        masses: (G, m), over m sum to 1.
        q: (Q,) in [0, 1].
        nodes: n, how many eigenvalues the measure stands for.

    Returns:
        (Q, G).
    """
    middle = masses.cumsum(-1) - masses / 2
    level = (np.asarray(q) * (nodes - 1) + 0.5) / nodes
    found = [np.interp(level, m, v) for m, v in zip(middle, values, strict=True)]
    return np.stack(found, axis=-1)


def entropy_of_measure(values: Array, masses: Array, nodes: int, trace: Array) -> Array:
    """Entropy in nats of the eigenvalues normalised to sum 1.

    The sum of the eigenvalues is known exactly; what the nodes miss of it corrects the estimate to
    first order (a control variate with the slope of x log x at the mean eigenvalue).

    Args:
        values: (G, m).
        masses: (G, m), over m sum to 1.
        nodes: n.
        trace: (G,) the sum of the eigenvalues.

    Returns:
        (G,) at most log n; NaN where the trace is not positive.
    """
    defined = trace > 0
    total = np.where(defined, trace, 1.0)
    positive = np.maximum(values, 0.0)
    terms = positive * np.log(np.where(positive > 0, positive, 1.0))
    slope = 1.0 + np.log(total / nodes)
    missed = total - nodes * (masses * positive).sum(-1)
    entropy = np.log(total) - (nodes * (masses * terms).sum(-1) + slope * missed) / total
    return np.where(defined, entropy, np.nan)


def share_above(masses: Array, energy: Array, level: float) -> Array:
    """Share of a signal's energy in the modes above a level of the distribution function.

    Args:
        masses: (G, m), over m sum to 1; nodes in ascending order.
        energy: (G, m) of the signal at each node.
        level: in [0, 1]; a node whose mass lies on both sides counts by its share above.

    Returns:
        (G,) in [0, 1]; NaN where there is no energy.
    """
    top = masses.cumsum(-1)
    inside = np.where(masses > 0, (top - level) / np.where(masses > 0, masses, 1.0), top > level)
    total = energy.sum(-1)
    above = (energy * np.clip(inside, 0.0, 1.0)).sum(-1)
    return np.where(total > 0, above / np.where(total > 0, total, 1.0), np.nan)
