"""Entropies of all problems of a run at once, by the amount of evidence that came before."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["curve_mae", "position_mae"]

Floats = NDArray[np.float64]


def curve_mae(exact: Floats, found: Floats, counts: NDArray[Any]) -> Floats:
    """Mean over positions of |mean model entropy - mean posterior entropy|, bits.

    Errors of either sign cancel inside a position: the figure that arXiv 2512.22471 publishes, as
    :attr:`validator.windtunnels.entropy.EntropyReport.curve_mae_bits`.

    Args:
        exact: (P, Q) posterior entropies of P problems at Q positions.
        found: (P, Q) the model's.
        counts: (B, P) how often each problem counts, one row a resample.

    Returns:
        (B,)
    """
    error: Floats = np.abs(_mean(found - exact, counts)).mean(axis=1)
    return error


def position_mae(exact: Floats, found: Floats, counts: NDArray[Any]) -> Floats:
    """Mean of |posterior entropy - its mean at that position|, bits: a baseline without a model.

    The error of knowing how much evidence came and not what it was; 0 where position alone decides
    the entropy. The arguments are those of :func:`curve_mae`; ``found`` is not read.
    """
    del found
    usual = _mean(exact, counts)
    gaps = [(row @ np.abs(exact - mean)).mean() / row.sum()
            for row, mean in zip(counts, usual, strict=True)]
    return np.array(gaps)


def _mean(values: Floats, counts: NDArray[Any]) -> Floats:
    """(B, Q) the mean over the problems as often as each counts."""
    mean: Floats = counts @ values / counts.sum(axis=1, keepdims=True)
    return mean
