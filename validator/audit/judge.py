"""Every metric of a score that an audit reports, on one set of resamples."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from validator.audit.matching import (
    CALIPER,
    Strata,
    length_pairs,
    source_strata,
    strata_statistic,
)
from validator.audit.permutation import bootstrap_p_value
from validator.audit.sample import Sample
from validator.errors import LabelError
from validator.metrics import (
    Interval,
    Resampler,
    Statistic,
    auroc_statistic,
    clustered_interval,
    length_matched_statistic,
    within_problem_statistic,
)

__all__ = ["Difference", "Increment", "Judge", "ScoreMetrics"]

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ScoreMetrics:
    """AUROC of one score, over all pairs and over pairs that are alike in one respect.

    None where no pair is alike in it, or too few resamples hold one.
    """

    key: str
    name: str
    auroc: Interval | None
    within: Interval | None
    """Of one problem."""
    length_bins: Interval | None
    """Of the same tenth of lengths."""
    length_pairs: Interval | None
    """Of nearest length (:func:`validator.audit.matching.length_pairs`)."""
    within_source: Interval | None
    """Of one source; a source weighs as many pairs as it has."""
    transfer: Interval | None = None
    """Of one source, by a model that was not trained on that source; None for scores that are
    not fitted, which have nothing to carry over."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A paired difference and its two-sided bootstrap p-value."""

    interval: Interval
    p_value: float


@dataclass(frozen=True, slots=True)
class Increment:
    """What a score gains by being told one thing more, by metric; None as in ScoreMetrics."""

    name: str
    base: str
    """What it was told before."""
    auroc: Difference | None
    within: Difference | None
    length_pairs: Difference | None


class Judge:
    """Metrics of scores of one sample with 95% intervals over problems.

    Args:
        sample: labelled traces.
        n_resamples: bootstrap resamples, shared by all scores, so that differences are paired.
        seed: of the resamples.
        caliper: largest relative difference of matched lengths.
    """

    def __init__(self, sample: Sample, n_resamples: int = 1000, seed: int = 0,
                 caliper: float = CALIPER) -> None:
        self.y, self.lengths = sample.labels, sample.lengths
        self.resampler = Resampler(sample.problems, n_resamples, seed)
        self.pairs = length_pairs(self.y, self.lengths, caliper)
        self.sources = source_strata(self.y, sample.sources)
        self.several = len(set(sample.sources.tolist())) > 1

    def metrics(self, key: str, name: str, scores: Array, transfer: Array | None = None
                ) -> ScoreMetrics:
        """All metrics of (N,) scores; ``transfer`` (N,) are the scores of unseen sources."""
        return ScoreMetrics(
            key, name, self.auroc(scores), self.within(scores),
            self.interval(self._bins(scores)), self.interval(self._pairs(scores)),
            self.interval(self._by_source(scores)) if self.several else None,
            None if transfer is None else self.interval(self._by_source(transfer)))

    def auroc(self, scores: Array) -> Interval | None:
        """Pooled AUROC of (N,) scores."""
        return self.interval(auroc_statistic(self.y, scores, self.resampler))

    def within(self, scores: Array) -> Interval | None:
        """Mean AUROC inside the problems that hold both classes."""
        return self.interval(self._within(scores))

    def p_value(self, scores: Array) -> float:
        """Bootstrap p-value of a pooled AUROC of one half."""
        statistic = auroc_statistic(self.y, scores, self.resampler)
        return bootstrap_p_value(statistic, self.resampler, 0.5)

    def increment(self, name: str, base: str, above: Array, below: Array) -> Increment:
        """Metrics of the scores ``above`` less those of ``below``, both (N,)."""
        a, b = ([auroc_statistic(self.y, s, self.resampler), self._within(s), self._pairs(s)]
                for s in (above, below))
        return Increment(name, base, *(self._difference(*pair) for pair in zip(a, b, strict=True)))

    def interval(self, statistic: Statistic | None) -> Interval | None:
        """The 95% interval, or None where the data hold too little for one."""
        if statistic is None:
            return None
        try:
            return clustered_interval(statistic, self.resampler)
        except LabelError:
            return None

    def _difference(self, a: Statistic | None, b: Statistic | None) -> Difference | None:
        if a is None or b is None:
            return None

        def both(counts: NDArray[np.int64]) -> Array:
            return a(counts) - b(counts)

        interval = self.interval(both)
        if interval is None:
            return None
        return Difference(interval, bootstrap_p_value(both, self.resampler, 0.0))

    def _within(self, scores: Array) -> Statistic | None:
        try:
            return within_problem_statistic(self.y, scores, self.resampler)
        except LabelError:
            return None

    def _bins(self, scores: Array) -> Statistic:
        return length_matched_statistic(self.y, scores, self.lengths, self.resampler)

    def _pairs(self, scores: Array) -> Statistic | None:
        return self._strata(scores, self.pairs)

    def _by_source(self, scores: Array) -> Statistic | None:
        return self._strata(scores, self.sources)

    def _strata(self, scores: Array, strata: Strata) -> Statistic | None:
        return strata_statistic(self.y, scores, strata, self.resampler) if strata else None
