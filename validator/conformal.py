"""Answers with a promise: prediction sets, a threshold of certified risk, a selection of known FDR.

Problems are taken as exchangeable, their traces are not: traces of one problem share its
difficulty, so a thousand traces of ten problems are ten observations. Everything here counts
problems; a "random trace of a new problem" is drawn in two steps, so every problem weighs the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from validator.errors import LabelError, ParameterError
from validator.metrics.bootstrap import Interval, Resampler, clustered_interval
from validator.metrics.bounded_mean import betting_p_values, fallback_rejections
from validator.metrics.effects import benjamini_hochberg
from validator.metrics.inputs import as_groups, as_labels, as_probabilities, as_scores
from validator.metrics.selective import selective_coverage_statistic, selective_risk_statistic

__all__ = ["AbstentionReport", "ConformalLabels", "RiskThreshold", "Selection",
           "conformal_selection", "report"]

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
Groups = Sequence[Any] | NDArray[Any]

_HAIR = 1e-9  # above the rounding of a sum of weights, below any difference that matters

STEP, LAXEST = 0.1, -8.0
STARTS = {2.0: 0.1, 1.0: 0.1, 0.0: 0.8}
"""Log-odds above those of 1 - max_risk -> its part of the error budget of :class:`RiskThreshold`.

Where P(valid) is calibrated, the answers above P = 1 - max_risk have less risk than that, so the
certificate is looked for there first; the stricter two are for probabilities too close to 1."""


class ConformalLabels(BaseEstimator):  # type: ignore[misc]
    """Sets of labels that hold the true one with probability 1 - alpha: {1}, {0}, both or none.

    Hierarchical split conformal prediction (HCP; Lee, Barber and Willett 2023): the score of a
    label is 1 - its probability; each of K calibration problems has weight 1 / (K + 1), spread
    evenly over its traces, and the rest lies at infinity. A label is in the set if its score is at
    most the (1 - alpha) quantile. Nothing is randomised: ties only make sets larger. With one trace
    for each problem this is split conformal prediction (Vovk et al. 2005; Sadinle et al. 2019).

    The promise: for a random trace of a new problem exchangeable with those of calibration,
    P(label in set) >= 1 - alpha, whatever the classifier, on average over calibration sets; it is
    not a promise for each P(valid), for one calibration set, or for sets of one label alone.

    Parameters
    ----------
    alpha : float in (0, 1), probability of missing the true label.
    class_conditional : bool, a threshold for each class from the traces of that class, so that the
        promise holds among valid and among invalid traces. The random trace is then drawn among the
        traces of its class, of a problem that has one.

    Attributes
    ----------
    thresholds_ (2,) largest score admitted for labels 0 and 1, infinite where calibration has fewer
    than 1 / alpha - 1 problems; n_problems_ (2,) problems each comes from.
    """

    def __init__(self, alpha: float = 0.1, *, class_conditional: bool = False) -> None:
        self.alpha = alpha
        self.class_conditional = class_conditional

    def fit(self, probs: ArrayLike, labels: ArrayLike, groups: Groups) -> ConformalLabels:
        """Calibrate on P(valid), labels and problem ids (N,) that the classifier has not seen.

        Raises LabelError where ``class_conditional`` finds a class without a trace.
        """
        if not 0 < self.alpha < 1:
            raise ParameterError(f"alpha must lie in (0, 1), got {self.alpha}")
        y = as_labels(labels)
        p, index = as_probabilities(probs, y.size), as_groups(groups, y.size)[1]
        scores = np.where(y == 1, 1 - p, p)
        parts = [y == c if self.class_conditional else np.ones(y.size, np.bool_) for c in (0, 1)]
        if not all(part.any() for part in parts):
            raise LabelError("a threshold for each class needs valid and invalid traces")
        self.n_problems_ = np.array([np.unique(index[part]).size for part in parts])
        self.thresholds_ = np.array(
            [_hierarchical_quantile(scores[part], index[part], 1 - self.alpha) for part in parts])
        return self

    def predict_sets(self, probs: ArrayLike) -> Mask:
        """(N,) P(valid) -> (N, 2), whether the set holds label 0 and whether it holds label 1."""
        check_is_fitted(self)
        p = as_probabilities(probs, np.size(probs))
        return np.column_stack([p, 1 - p]) <= self.thresholds_


class RiskThreshold(BaseEstimator):  # type: ignore[misc]
    """The lowest threshold on P(valid) above which at most ``max_risk`` of the answers are invalid.

    With probability ``confidence`` over calibration sets, the answers of new problems have a risk
    E[share answered and invalid] / E[share answered] <= ``max_risk``, each problem weighing the
    same. Learn then Test (Angelopoulos et al. 2021): for each threshold t of a grid, the hypothesis
    that the risk is too high is E[Z_g(t)] > 0, with Z_g(t) the mean over the traces of problem g of
    1{P >= t} (1{invalid} - max_risk), independent over problems and in [-max_risk, 1 - max_risk].
    Its p-value is that of betting: a problem without answers is Z = 0 and costs a bettor nothing,
    while a Hoeffding-Bentkus bound pays for the whole range of Z.

    The thresholds are tested from strict to lax by the fallback procedure, whose error budget is
    :data:`STARTS`. Their grid is fixed, in log-odds around 1 - max_risk, so scores must be
    probabilities: quantiles of the calibration scores would condition on what has to be random.

    Parameters
    ----------
    max_risk : float in (0, 1).
    confidence : float in (0, 1).
    seed : int, of the order in which problems are bet on. Another seed is another valid test;
        trying several and keeping the best is not.

    Attributes
    ----------
    threshold_ : float, answer where P(valid) >= it; infinite, answer nothing, where none is
        certified. certified_ : bool. risk_ (NaN if there is no answer), coverage_ : float, of the
        calibration traces, problems weighing the same. thresholds_, p_values_,
        certified_thresholds_ : (M,) the grid, descending. n_problems_ : int.
    """

    def __init__(self, max_risk: float = 0.1, confidence: float = 0.9, *, seed: int = 0) -> None:
        self.max_risk = max_risk
        self.confidence = confidence
        self.seed = seed

    def fit(self, probs: ArrayLike, labels: ArrayLike, groups: Groups) -> RiskThreshold:
        """Calibrate on P(valid), labels and problem ids (N,) that the classifier has not seen."""
        for name in ("max_risk", "confidence"):
            if not 0 < getattr(self, name) < 1:
                raise ParameterError(f"{name} must lie in (0, 1), got {getattr(self, name)}")
        y = as_labels(labels)
        p, index = as_probabilities(probs, y.size), as_groups(groups, y.size)[1]
        self.thresholds_, parts = _grid(self.max_risk)
        kept = p >= self.thresholds_[:, None]
        wrong, given = _problem_means(kept & (y == 0), index), _problem_means(kept, index)
        order = np.random.default_rng(self.seed).permutation(given.shape[1])
        losses = (wrong + self.max_risk * (1 - given))[:, order]  # Z + max_risk, in [0, 1]
        budget = 1 - self.confidence
        self.p_values_ = betting_p_values(losses, self.max_risk, budget)
        self.certified_thresholds_ = fallback_rejections(self.p_values_, budget * parts)
        self.n_problems_ = int(given.shape[1])
        self._choose(wrong.mean(axis=1), given.mean(axis=1))
        return self

    def decide(self, probs: ArrayLike) -> Mask:
        """(N,) P(valid) -> (N,) whether to answer."""
        check_is_fitted(self)
        return as_probabilities(probs, np.size(probs)) >= self.threshold_

    def _choose(self, wrong: Array, given: Array) -> None:
        passed = np.flatnonzero(self.certified_thresholds_)
        self.certified_ = bool(passed.size)
        if not self.certified_:
            self.threshold_, self.coverage_, self.risk_ = np.inf, 0.0, np.nan
            return
        laxest = passed[-1]
        self.threshold_ = float(self.thresholds_[laxest])
        self.coverage_ = float(given[laxest])
        self.risk_ = float(wrong[laxest] / given[laxest])


class Selection(NamedTuple):
    """Which traces of a batch are kept."""

    selected: Mask
    """(M,)"""
    p_values: Array
    """(M,) conformal p-values of "this trace is invalid"."""
    n_calibration: int
    """Calibration traces, one of each problem; no p-value is below 1 / (n_calibration + 1)."""


def conformal_selection(cal_scores: ArrayLike, cal_labels: ArrayLike, cal_groups: Groups,
                        test_scores: ArrayLike, max_fdr: float, *,
                        test_groups: Groups | None = None, seed: int = 0) -> Selection:
    """Traces of a batch such that E[share of invalid ones among those selected] <= ``max_fdr``.

    Selection by prediction with conformal p-values (Jin and Candes 2023, alg. 1, with their clipped
    score, and ties counted against selection): p_j = (1 + number of invalid calibration
    traces that score at least as high) / (n + 1), then Benjamini and Hochberg. Calibration uses one
    trace of each problem, drawn by ``seed``: n traces of n problems are independent, and so is a
    trace of another one. The promise is for the batch as a whole and on average over calibration
    sets and batches; a batch where nothing is selected counts as 0.

    ``test_groups``: where a problem has several traces in the batch, their p-values depend on each
    other in a way the theorem does not allow, and the correction of Benjamini and Yekutieli (2001)
    for any dependence is used, which costs a factor 1 + 1/2 + ... + 1/M. Left out, the test traces
    are taken to be of M different problems. ``cal_*`` (N,), ``test_*`` (M,); any real scores.
    """
    if not 0 < max_fdr < 1:
        raise ParameterError(f"max_fdr must lie in (0, 1), got {max_fdr}")
    y = as_labels(cal_labels)
    drawn = _one_per_problem(as_groups(cal_groups, y.size)[1], seed)
    invalid = np.sort(as_scores(cal_scores, y.size)[drawn][y[drawn] == 0])
    scores = as_scores(test_scores, np.size(test_scores))
    above = invalid.size - np.searchsorted(invalid, scores, side="left")
    p_values = (1 + above) / (drawn.size + 1)
    level = max_fdr
    if test_groups is not None and as_groups(test_groups, scores.size)[0].size < scores.size:
        level /= float(np.sum(1 / np.arange(1, scores.size + 1)))
    return Selection(benjamini_hochberg(p_values) <= level + _HAIR, p_values, int(drawn.size))


@dataclass(frozen=True)
class AbstentionReport:
    """What a threshold and prediction sets did on traces they have not seen.

    Every share is the mean over problems of the share of a problem's traces.
    """

    traces: int
    problems: int
    answered: Interval
    risk: float | None
    """Invalid share of the answers; None where there are none."""
    risk_interval: Interval | None
    """None where there are no answers, or in too few problems to resample."""
    base_risk: Interval
    """Invalid share of all traces."""
    set_coverage: Interval
    """Share of sets that hold the true label."""
    set_sizes: tuple[float, float, float]
    """Share of sets with no label, one, and both."""

    def to_json(self) -> dict[str, Any]:
        """The same as plain JSON values."""
        return {**asdict(self), "set_sizes": list(self.set_sizes)}


def report(rule: RiskThreshold, sets: ConformalLabels, probs: ArrayLike, labels: ArrayLike,
           groups: Groups, *, n_resamples: int = 1000, seed: int = 0) -> AbstentionReport:
    """Coverage, realised risk and set sizes on held-out P(valid), labels and problem ids (N,).

    Intervals are 95% bootstrap intervals over problems.
    """
    y = as_labels(labels)
    answered, held = rule.decide(probs), sets.predict_sets(probs)
    resampler = Resampler(groups, n_resamples, seed)

    def share(mask: Mask) -> Interval:
        return clustered_interval(selective_coverage_statistic(mask, resampler), resampler)

    risk, interval = _realised_risk(y, answered, resampler)
    sizes = [share(held.sum(axis=1) == k).estimate for k in (0, 1, 2)]
    return AbstentionReport(
        y.size, resampler.problems.size, share(answered), risk, interval, share(y == 0),
        share(held[np.arange(y.size), y]), (sizes[0], sizes[1], sizes[2]))


def _realised_risk(y: NDArray[np.int64], answered: Mask, resampler: Resampler
                   ) -> tuple[float | None, Interval | None]:
    statistic = selective_risk_statistic(y, answered, resampler)
    if not answered.any():
        return None, None
    estimate = float(statistic(np.ones((1, resampler.problems.size), dtype=np.int64))[0])
    try:
        return estimate, clustered_interval(statistic, resampler)
    except LabelError:
        return estimate, None


def _hierarchical_quantile(scores: Array, index: NDArray[np.int64], level: float) -> float:
    """Smallest score t with sum over problems of (share of scores <= t) / (K + 1) >= level."""
    problem = np.unique(index, return_inverse=True)[1]
    sizes = np.bincount(problem)
    order = np.argsort(scores, kind="stable")
    reached = np.cumsum(1 / sizes[problem[order]]) / (sizes.size + 1) >= level - _HAIR
    return float(scores[order][np.argmax(reached)]) if reached.any() else np.inf


def _grid(max_risk: float) -> tuple[Array, Array]:
    """Thresholds (M,) from strict to lax, the last of which is 0, and parts of the budget (M,)."""
    steps = np.arange(round(max(STARTS) / STEP), round(LAXEST / STEP) - 1, -1)
    parts = np.zeros(steps.size + 1)
    for offset, part in STARTS.items():
        parts[np.flatnonzero(steps == round(offset / STEP))] = part
    log_odds = np.log1p(-max_risk) - np.log(max_risk) + steps * STEP
    return np.append(1 / (1 + np.exp(-log_odds)), 0.0), parts


def _problem_means(masks: Mask, index: NDArray[np.int64]) -> Array:
    """(M, N) masks -> (M, P) share of each problem's rows."""
    means: Array = np.stack([np.bincount(index, weights=mask) for mask in masks])
    means /= np.bincount(index)  # a quotient of integers: never above 1
    return means


def _one_per_problem(index: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """One row of each problem, drawn evenly."""
    shuffled = np.random.default_rng(seed).permutation(index.size)
    return shuffled[np.unique(index[shuffled], return_index=True)[1]].astype(np.int64)
