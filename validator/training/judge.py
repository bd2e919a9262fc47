"""How scores of responses are judged: every statistic on the same resamples of problems."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from validator.errors import LabelError
from validator.metrics import (
    Interval,
    PerProblem,
    Resampler,
    Statistic,
    auroc_statistic,
    best_of_n,
    clustered_interval,
    first_answer,
    length_matched_statistic,
    majority_vote,
    mean_statistic,
    oracle,
    weighted_vote,
    within_problem_statistic,
)
from validator.training.answers import equivalence_classes

__all__ = ["Judge", "Verdict", "answer_classes"]

Scores = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Verdict:
    """One score: how well it ranks, pooled, within problems, at equal length, and as a chooser."""

    auroc: Interval
    within: Interval | None
    """None where no problem holds a valid and an invalid answer."""
    length_matched: Interval | None
    """None where no bin of lengths holds a valid and an invalid trace."""
    best_of_n: Interval | None
    """None where problems have one answer each."""


class Judge:
    """The statistics of N labelled responses to P problems, paired by construction.

    Args:
        labels: (N,) 1 valid, 0 invalid.
        problems: (N,) ids of what the responses answer.
        lengths: (N,) completion tokens.
        answers: (N,) as parsed; None does not vote. Equal ones, as mathematics, vote together.
        n_resamples: of problems.
        seed: of the resamples.

    Attributes:
        resampler: the resamples.
        mixed: problems with a valid and an invalid response.
        repeated: whether any problem has several responses.
    """

    def __init__(self, labels: NDArray[np.int64], problems: Sequence[str] | NDArray[np.str_],
                 lengths: NDArray[np.int64], answers: Sequence[str | None], n_resamples: int,
                 seed: int) -> None:
        self.resampler = Resampler(problems, n_resamples, seed)
        self._y, self._lengths, self._groups = labels, lengths, np.asarray(problems)
        sums, sizes = np.bincount(self.resampler.index, labels), np.bincount(self.resampler.index)
        self.mixed = int(((sums > 0) & (sums < sizes)).sum())
        self.repeated = bool(sizes.max() > 1)
        self._ballots = (answer_classes(answers, self.resampler.index) if self.repeated
                         else [None] * len(answers))

    def verdict(self, scores: Scores) -> Verdict:
        """Intervals of one score (N,); a score that is missing may be minus infinity."""
        return Verdict(
            self.interval(self.auroc(scores)),
            self.interval(self.within(scores)) if self.mixed else None,
            self._length_matched(scores),
            self.interval(self.best(scores)) if self.repeated else None)

    def auroc(self, scores: Scores) -> Statistic:
        """Pooled AUROC."""
        return auroc_statistic(self._y, scores, self.resampler)

    def within(self, scores: Scores) -> Statistic:
        """Mean AUROC inside the problems that hold both classes."""
        return within_problem_statistic(self._y, scores, self.resampler)

    def best(self, scores: Scores) -> Statistic:
        """Accuracy of the highest-scored response of each problem."""
        return self._mean(best_of_n(self._y, scores, self._groups))

    def choosing(self, chances: Scores | None = None) -> dict[str, Statistic]:
        """Accuracy of what needs no score, and of a vote weighted by ``chances`` (N,) in [0, 1].

        First answer, majority vote where any answer was parsed, oracle; empty where problems have
        one response each.
        """
        if not self.repeated:
            return {}
        found = {"first answer": self._mean(first_answer(self._y, self._groups))}
        if any(b is not None for b in self._ballots):
            found["majority vote"] = self._mean(
                majority_vote(self._y, self._ballots, self._groups))
            if chances is not None:
                found["vote weighted by P(valid)"] = self._mean(
                    weighted_vote(self._y, self._ballots, chances, self._groups))
        return {**found, "oracle": self._mean(oracle(self._y, self._groups))}

    def interval(self, statistic: Statistic) -> Interval:
        """The statistic's 95% interval over problems."""
        return clustered_interval(statistic, self.resampler)

    def _mean(self, values: PerProblem) -> Statistic:
        return mean_statistic(values, self.resampler)

    def _length_matched(self, scores: Scores) -> Interval | None:
        try:
            return self.interval(
                length_matched_statistic(self._y, scores, self._lengths, self.resampler))
        except LabelError:
            return None


def answer_classes(
    answers: Sequence[str | None], index: NDArray[np.int64]
) -> list[str | None]:
    """(N,) names under which equal answers of a problem vote together; None does not vote.

    Args:
        answers: (N,) as parsed.
        index: (N,) number of each one's problem, from 0 on.
    """
    found: list[str | None] = [None] * len(answers)
    order = np.argsort(index, kind="stable")
    for rows in np.split(order, np.cumsum(np.bincount(index))[:-1]):
        kinds = equivalence_classes([answers[i] for i in rows.tolist()])
        for row, kind in zip(rows.tolist(), kinds, strict=True):
            found[row] = None if kind is None else str(kind)
    return found
