"""Certifying that a bounded mean is small, for one threshold after another."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from validator.errors import ParameterError, ScoreError

__all__ = ["betting_p_values", "fallback_rejections"]

Array = NDArray[np.float64]

MAX_BET = 0.99
"""Largest bet as a share of the one that a value of 1 would ruin."""


def betting_p_values(values: Array, mean: float, level: float) -> Array:
    """(M,) p-values of the M hypotheses E[value] >= ``mean``, from values (M, P) in [0, 1].

    A gambler bets against the hypothesis, so that under it the wealth
    prod_i (1 - b_i (value_i - mean)) is a supermartingale and 1 / (its maximum) a p-value (Ville
    1939; Waudby-Smith and Ramdas 2023). The bets are their predictable plug-in as in the WSR bound
    of Bates et al. 2021, b_i = sqrt(2 log(1/level) / (P s_{i-1}^2)) with s^2 the running variance
    that starts from 1/4, at most :data:`MAX_BET` / (1 - mean). The columns must be independent
    draws in an order that does not depend on their values. ``mean``, ``level`` in (0, 1);
    ``level`` only tunes the bets: the p-value is valid at every level.
    """
    if not 0 < mean < 1 or not 0 < level < 1:
        raise ParameterError(f"mean and level must lie in (0, 1), got {mean} and {level}")
    if values.ndim != 2 or values.size == 0 or not (values.min() >= 0 and values.max() <= 1):
        raise ScoreError("expected values (M, P) in [0, 1], with P > 0")
    drawn = np.arange(1, values.shape[1] + 1)
    means = (0.5 + np.cumsum(values, axis=1)) / (drawn + 1)
    variances = (0.25 + np.cumsum((values - means) ** 2, axis=1)) / (drawn + 1)
    before = np.column_stack([np.full(len(values), 0.25), variances[:, :-1]])
    bets = np.minimum(np.sqrt(2 * np.log(1 / level) / (values.shape[1] * before)),
                      MAX_BET / (1 - mean))
    wealth = np.cumsum(np.log1p(-bets * (values - mean)), axis=1)
    smallest: Array = np.exp(-wealth.max(axis=1, initial=0.0))
    return smallest


def fallback_rejections(p_values: Array, levels: Array) -> NDArray[np.bool_]:
    """(M,) hypotheses rejected by the fallback procedure (Wiens 2003; Wiens and Dmitrienko 2005).

    They are tested in order. Each has its own part of the error budget, ``levels`` (M,) >= 0, and
    inherits all that its predecessor was rejected at: fixed-sequence testing is the case where the
    first has everything. The chance of any false rejection is at most ``levels.sum()``, however
    the p-values depend on each other.
    """
    rejected = np.zeros(p_values.size, dtype=np.bool_)
    inherited = 0.0
    for i, (p, own) in enumerate(zip(p_values.tolist(), levels.tolist(), strict=True)):
        level = own + inherited
        rejected[i] = level > 0 and p <= level
        inherited = level if rejected[i] else 0.0
    return rejected
