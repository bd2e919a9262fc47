"""Whether P(valid) means what it says, and what is gained by answering only when it is high."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from validator.errors import ParameterError
from validator.metrics.inputs import as_labels, as_probabilities, as_scores

__all__ = ["aurc", "brier", "ece"]


def brier(labels: ArrayLike, probs: ArrayLike) -> float:
    """Mean squared error of P(valid), in [0, 1], lower is better (Brier 1950).

    ``labels`` (N,) 0 / 1, ``probs`` (N,) in [0, 1]; one class alone is allowed.
    """
    y = as_labels(labels)
    return float(np.mean((as_probabilities(probs, y.size) - y) ** 2))


def ece(labels: ArrayLike, probs: ArrayLike, bins: int = 10) -> float:
    """Expected calibration error of P(valid), in [0, 1] (Naeini et al. 2015; Guo et al. 2017).

    The mean over traces of |share valid - mean P(valid)| in the trace's bin; ``bins`` intervals
    ((m-1)/bins, m/bins] of equal width, with 0 in the first. It is the probability of *valid* that
    is judged, not the confidence in the likelier class. ``labels``, ``probs`` (N,).
    """
    if bins < 1:
        raise ParameterError(f"bins must be at least 1, got {bins}")
    y = as_labels(labels)
    p = as_probabilities(probs, y.size)
    where = np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], p, side="left")
    gaps = np.bincount(where, weights=y - p, minlength=bins)
    return float(np.abs(gaps).sum() / y.size)


def aurc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Area under the risk-coverage curve, in [0, 1], lower is better (Geifman and El-Yaniv 2017).

    The mean over k = 1..N of the share of invalid traces among the k with the highest scores.
    Tied scores are averaged over their orders. ``labels``, ``scores`` (N,).
    """
    y = as_labels(labels)
    s = as_scores(scores, y.size)
    tied, sizes = np.unique(-s, return_inverse=True, return_counts=True)[1:]
    # inside a tie every place holds the tie's mean number of errors
    errors = np.cumsum(np.repeat(np.bincount(tied, weights=1 - y) / sizes, sizes))
    return float(np.mean(errors / np.arange(1, y.size + 1)))
