"""What is gained by answering only where the score is high, and whether P(valid) is what it says.

Any metric of this module that returns one number gets an interval over problems from
``row_statistic``, e.g. ``row_statistic(lambda rows: excess_aurc(y[rows], s[rows]), resampler)``.
"""

from __future__ import annotations

from statistics import NormalDist
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from validator.errors import LabelError, ParameterError, ScoreError
from validator.metrics.bootstrap import Resampler, Statistic
from validator.metrics.calibration import aurc
from validator.metrics.inputs import as_labels, as_probabilities, as_scores

__all__ = [
    "ReliabilityBins",
    "RiskCoverage",
    "coverage_at_risk",
    "excess_aurc",
    "reliability_bins",
    "risk_at_coverage",
    "risk_coverage",
    "selective_coverage_statistic",
    "selective_risk_statistic",
    "wilson_interval",
]

Array = NDArray[np.float64]


class RiskCoverage(NamedTuple):
    """Risk against coverage, answering the k highest-scored traces, k = 1..N."""

    coverage: Array
    """(N,) k / N, ascending to 1."""
    risk: Array
    """(N,) share of invalid traces among the k, in [0, 1]; its mean is :func:`aurc`."""


class ReliabilityBins(NamedTuple):
    """Predicted against observed in each bin that holds a trace, by ascending prediction."""

    mean_predicted: Array
    """(M,) mean P(valid)."""
    share_valid: Array
    """(M,)."""
    counts: NDArray[np.int64]
    """(M,) traces in the bin, at least one."""
    low: Array
    """(M,) lower end of the interval of ``share_valid``."""
    high: Array
    """(M,) upper end."""


def risk_coverage(labels: ArrayLike, scores: ArrayLike) -> RiskCoverage:
    """The risk-coverage curve (El-Yaniv and Wiener 2010; Geifman and El-Yaniv 2017).

    Tied scores are averaged over their orders: a coverage inside a tie means answering some of its
    traces at random. ``labels``, ``scores`` (N,).
    """
    y = as_labels(labels)
    s = as_scores(scores, y.size)
    tied, sizes = np.unique(-s, return_inverse=True, return_counts=True)[1:]
    errors = np.cumsum(np.repeat(np.bincount(tied, weights=1 - y) / sizes, sizes))
    answered = np.arange(1, y.size + 1)
    return RiskCoverage(answered / y.size, errors / answered)


def risk_at_coverage(labels: ArrayLike, scores: ArrayLike, coverage: float) -> float:
    """Risk when the smallest number of traces that is at least ``coverage`` of all is answered.

    ``coverage`` in (0, 1]; ``labels``, ``scores`` (N,).
    """
    if not 0 < coverage <= 1:
        raise ParameterError(f"coverage must lie in (0, 1], got {coverage}")
    curve = risk_coverage(labels, scores)
    # k / N is rounded, and 0.3 * 10 is not 3: a hair less is the same number of traces
    return float(curve.risk[np.searchsorted(curve.coverage, coverage - 1e-12)])


def coverage_at_risk(labels: ArrayLike, scores: ArrayLike, max_risk: float) -> float:
    """The largest coverage whose risk is at most ``max_risk``, in [0, 1]; 0 where there is none.

    It is chosen with the labels it is judged by, so it flatters: to promise a risk on other traces
    use :class:`validator.conformal.RiskThreshold`. ``max_risk`` in [0, 1].
    """
    if not 0 <= max_risk <= 1:
        raise ParameterError(f"max_risk must lie in [0, 1], got {max_risk}")
    curve = risk_coverage(labels, scores)
    return float(curve.coverage[curve.risk <= max_risk + 1e-12].max(initial=0.0))


def excess_aurc(labels: ArrayLike, scores: ArrayLike) -> float:
    """E-AURC (Geifman, Uziel and El-Yaniv 2019, sec. 3): AURC above that of the perfect order.

    In [0, 1], 0 where every valid trace scores above every invalid one. Unlike AURC it can be
    compared between sets with different shares of invalid traces. The perfect order's area is that
    of these N traces, not the paper's limit r + (1 - r) ln(1 - r). ``labels``, ``scores`` (N,).
    """
    y = as_labels(labels)
    return aurc(y, scores) - aurc(y, y)


def selective_risk_statistic(labels: ArrayLike, answered: ArrayLike,
                             resampler: Resampler) -> Statistic:
    """Share of invalid traces among those answered, every problem weighing the same.

    E[share answered and invalid] / E[share answered], shares of a problem's traces, expectations
    over the drawn problems; NaN where none of them has an answer. ``labels`` (N,), ``answered``
    (N,) bool.
    """
    y = as_labels(labels)
    where = _as_mask(answered, y.size)
    wrong, given = (_problem_shares(mask, resampler) for mask in (where & (y == 0), where))

    def ratio(counts: NDArray[np.int64]) -> Array:
        top, bottom = counts @ wrong, counts @ given
        risk: Array = np.full(top.shape, np.nan)
        np.divide(top, bottom, out=risk, where=bottom > 0)
        return risk

    return ratio


def selective_coverage_statistic(answered: ArrayLike, resampler: Resampler) -> Statistic:
    """Mean over the drawn problems of the share of a problem's traces that is answered.

    ``answered`` (N,) bool.
    """
    shares = _problem_shares(_as_mask(answered, resampler.index.size), resampler)
    return lambda counts: (counts @ shares) / counts.sum(axis=1)


def reliability_bins(labels: ArrayLike, probs: ArrayLike, bins: int = 10,
                     strategy: Literal["count", "width"] = "width",
                     level: float = 0.95) -> ReliabilityBins:
    """What a reliability diagram shows (DeGroot and Fienberg 1983; Guo et al. 2017).

    ``"width"`` bins are those of :func:`ece`, ((m-1)/bins, m/bins]; ``"count"`` bins are closed on
    the right too, edge m at the probability of rank ceil(m N / bins), counted from 1, so that equal
    probabilities share a bin. Bins without a trace are left out. The interval is Wilson's (1927),
    which takes the traces of a bin as independent: where they come in problems it is too narrow.
    ``labels``, ``probs`` (N,).
    """
    if bins < 1 or not 0 < level < 1:
        raise ParameterError(f"expected bins >= 1 and level in (0, 1), got {bins} and {level}")
    y = as_labels(labels)
    p = as_probabilities(probs, y.size)
    if strategy not in ("count", "width"):
        raise ParameterError(f"strategy must be 'count' or 'width', got {strategy!r}")
    ranks = -(-np.arange(1, bins) * y.size // bins)
    edges = np.linspace(0, 1, bins + 1)[1:-1] if strategy == "width" else np.sort(p)[ranks - 1]
    where = np.searchsorted(edges, p, side="left")
    bin_of, count = np.unique(where, return_inverse=True, return_counts=True)[1:]
    share = np.bincount(bin_of, weights=y) / count
    return ReliabilityBins(np.bincount(bin_of, weights=p) / count, share, count,
                           *wilson_interval(share, count, level))


def wilson_interval(share: Array, count: NDArray[np.int64], level: float = 0.95
                    ) -> tuple[Array, Array]:
    """Lower and upper ends for shares of independent rows (Wilson 1927, score interval).

    Args:
        share: (K,) in [0, 1].
        count: (K,) rows that each share is of, 1 or more.
        level: in (0, 1).
    """
    z = NormalDist().inv_cdf((1 + level) / 2)
    centre = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z * np.sqrt(share * (1 - share) / count + (z / (2 * count)) ** 2) / (1 + z**2 / count)
    # exactly 0 and 1 at shares of 0 and 1, where rounding would leave a hair
    return np.where(share == 0, 0.0, centre - half), np.where(share == 1, 1.0, centre + half)


def _problem_shares(mask: NDArray[np.bool_], resampler: Resampler) -> Array:
    """(P,) share of each problem's rows in ``mask`` (N,)."""
    if mask.size != resampler.index.size:
        raise ScoreError(f"the resampler was made for {resampler.index.size} traces, "
                         f"got {mask.size}")
    shares: Array = np.bincount(resampler.index, weights=mask) / np.bincount(resampler.index)
    return shares


def _as_mask(answered: ArrayLike, n: int) -> NDArray[np.bool_]:
    mask = np.asarray(answered)
    if mask.shape != (n,) or mask.dtype != np.bool_:
        raise LabelError(f"expected {n} booleans, one for each trace, got {mask.dtype} of shape "
                         f"{mask.shape}")
    return mask
