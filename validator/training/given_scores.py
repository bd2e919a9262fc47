"""Scores that are there already, judged beside length and log-prob: nothing is trained on spectra.

For responses that another run scored: what :func:`validator.training.comparison.compare` says of
scores of its own folds, as far as it can be said of given ones.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

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
    brier,
    clustered_interval,
    ece,
    first_answer,
    length_matched_statistic,
    majority_vote,
    mean_statistic,
    oracle,
    paired_difference,
    weighted_vote,
    within_problem_statistic,
)
from validator.splits import problem_folds
from validator.training.answers import equivalence_classes
from validator.training.evaluate import stack

__all__ = ["GivenComparison", "GivenRow", "judge_scores"]

FOLDS = 5


@dataclass(frozen=True, slots=True)
class GivenRow:
    """One score: its AUROC pooled, within problems and at equal length, and as a chooser."""

    key: str
    auroc: Interval
    within: Interval | None
    """None where no problem holds a valid and an invalid response."""
    length_matched: Interval | None
    """None where no bin of lengths holds a valid and an invalid response."""
    best_of_n: Interval | None
    """None where problems have one response each."""


@dataclass(frozen=True)
class GivenComparison:
    """What given scores are worth."""

    rows: tuple[GivenRow, ...]
    choosing: Mapping[str, Interval]
    """First response, majority vote, vote weighted by P(valid), oracle; empty for one each."""
    increment: Interval | None
    """AUROC of the learned score beside ``beside`` less that of these alone, paired; None where it
    cannot be had."""
    over_majority: Interval | None
    """Best of N by the learned score less majority vote, paired."""
    calibration: Mapping[str, float]
    """ECE and Brier score of P(valid)."""
    facts: Mapping[str, Any]
    """Numbers of traces, problems, share valid, seed, resamples."""

    @property
    def verdict(self) -> str:
        """What the learned score adds, in plain words."""
        said = [_over_baselines(self.increment, self.facts["beside"])]
        if self.over_majority is not None:
            said.append(_over_majority(self.over_majority))
        return " ".join(s for s in said if s) or "There is no learned score to judge."

    def to_json(self) -> dict[str, Any]:
        """The same as plain JSON values."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return {**plain, "verdict": self.verdict}


def judge_scores(
    labels: NDArray[np.int64], problems: Sequence[str], scores: Mapping[str, NDArray[np.float64]],
    lengths: NDArray[np.int64], answers: Sequence[str | None], *,
    learned: str = "validity", beside: Sequence[str] = ("completion_length", "mean_logprob"),
    n_resamples: int = 1000, seed: int = 0,
) -> GivenComparison:
    """Judge scores of N responses, on the same resamples of problems, so that they compare.

    Args:
        labels: (N,) 1 valid, 0 invalid.
        problems: (N,) ids of what the responses answer.
        scores: name -> (N,), higher is more valid; NaN, a response without a score, ranks last.
        lengths: (N,) completion tokens, 0 where unknown.
        answers: (N,) as parsed; None does not vote.
        learned: the name of P(valid) among the scores, where it is there.
        beside: names of the baselines that the learned score must add to.
        n_resamples: of problems.
        seed: of resamples and folds.

    Raises:
        LabelError: responses of one class, or of one problem, only.
    """
    resampler = Resampler(list(problems), n_resamples, seed)
    judge = _Judge(labels, list(problems), lengths, resampler)
    ranked = {name: np.where(np.isnan(s), -np.inf, s) for name, s in scores.items()}
    rows = tuple(judge.row(name, s) for name, s in ranked.items())
    chances = scores.get(learned)
    known = None if chances is None else ~np.isnan(chances)
    base = [b for b in beside if b in scores]
    choosing = judge.choosing(answers, None if chances is None else np.nan_to_num(chances))
    over = None
    if judge.repeated and chances is not None and "majority vote" in choosing:
        over = paired_difference(
            judge.mean(best_of_n(labels, ranked[learned], judge.groups)),
            judge.mean(judge.majority(answers)), resampler)
    return GivenComparison(
        rows=rows, choosing={n: judge.interval(s) for n, s in choosing.items()},
        increment=judge.increment(scores, learned, base, seed), over_majority=over,
        calibration={} if known is None or chances is None or not known.any() else {
            "ece": ece(labels[known], chances[known]),
            "brier": brier(labels[known], chances[known])},
        facts={"traces": len(labels), "problems": len(resampler.problems),
               "valid": float(labels.mean()), "mixed_problems": judge.mixed, "seed": seed,
               "resamples": n_resamples, "beside": base,
               "unscored": {n: int(np.isnan(s).sum()) for n, s in scores.items()
                            if np.isnan(s).any()}})


class _Judge:
    """Statistics of one set of responses on one set of resamples."""

    def __init__(self, labels: NDArray[np.int64], problems: list[str],
                 lengths: NDArray[np.int64], resampler: Resampler) -> None:
        self.y, self.lengths, self.resampler = labels, lengths, resampler
        self.groups = np.array(problems)
        sums, sizes = np.bincount(resampler.index, labels), np.bincount(resampler.index)
        self.mixed = int(((sums > 0) & (sums < sizes)).sum())
        self.repeated = bool(sizes.max() > 1)

    def row(self, name: str, scores: NDArray[np.float64]) -> GivenRow:
        within = within_problem_statistic(self.y, scores, self.resampler) if self.mixed else None
        return GivenRow(
            name, self.interval(auroc_statistic(self.y, scores, self.resampler)),
            None if within is None else self.interval(within), self._matched(scores),
            self.interval(self.mean(best_of_n(self.y, scores, self.groups)))
            if self.repeated else None)

    def choosing(self, answers: Sequence[str | None],
                 chances: NDArray[np.float64] | None) -> dict[str, Statistic]:
        if not self.repeated:
            return {}
        found = {"first response": self.mean(first_answer(self.y, self.groups))}
        if any(a is not None for a in answers):
            found["majority vote"] = self.mean(self.majority(answers))
            if chances is not None:
                found["vote weighted by P(valid)"] = self.mean(
                    weighted_vote(self.y, self._classes(answers), chances, self.groups))
        return {**found, "oracle": self.mean(oracle(self.y, self.groups))}

    def majority(self, answers: Sequence[str | None]) -> PerProblem:
        return majority_vote(self.y, self._classes(answers), self.groups)

    def increment(self, scores: Mapping[str, NDArray[np.float64]], learned: str,
                  beside: Sequence[str], seed: int) -> Interval | None:
        """Stacks fitted under problem-grouped folds on responses that have every score."""
        if learned not in scores or not beside:
            return None
        columns = np.column_stack([*(scores[b] for b in beside), _log_odds(scores[learned])])
        rows = np.flatnonzero(~np.isnan(columns).any(axis=1))
        try:
            y, groups = self.y[rows], self.groups[rows]
            below, above = np.full(len(rows), np.nan), np.full(len(rows), np.nan)
            for train, test in problem_folds(groups, y, FOLDS, seed):
                part, own = columns[rows][train], columns[rows][test]
                below[test] = stack(part[:, :-1], y[train], own[:, :-1])
                above[test] = stack(part, y[train], own)
            resampler = Resampler(groups, len(self.resampler.counts), seed)
            return paired_difference(auroc_statistic(y, above, resampler),
                                     auroc_statistic(y, below, resampler), resampler)
        except LabelError:
            return None  # too few problems, or one class in a fold

    def interval(self, statistic: Statistic) -> Interval:
        return clustered_interval(statistic, self.resampler)

    def mean(self, values: PerProblem) -> Statistic:
        return mean_statistic(values, self.resampler)

    def _classes(self, answers: Sequence[str | None]) -> list[str | None]:
        """Equal answers of a problem, as mathematics, get one name."""
        found: list[str | None] = [None] * len(answers)
        for problem in range(len(self.resampler.problems)):
            rows = np.flatnonzero(self.resampler.index == problem).tolist()
            for row, kind in zip(rows, equivalence_classes([answers[i] for i in rows]),
                                 strict=True):
                found[row] = None if kind is None else str(kind)
        return found

    def _matched(self, scores: NDArray[np.float64]) -> Interval | None:
        try:
            return self.interval(
                length_matched_statistic(self.y, scores, self.lengths, self.resampler))
        except LabelError:
            return None


def _log_odds(chances: NDArray[np.float64]) -> NDArray[np.float64]:
    kept = np.clip(chances, 1e-6, 1 - 1e-6)
    return np.asarray(np.log(kept / (1 - kept)), dtype=np.float64)


def _over_baselines(gain: Interval | None, beside: Sequence[str]) -> str:
    if gain is None:
        return ""
    names = " and ".join(b.replace("_", " ") for b in beside)
    numbers = f"AUROC {gain.estimate:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]"
    if gain.low > 0:
        return f"The learned score adds information beyond {names}: {numbers}."
    if gain.high < 0:
        return f"Adding the learned score makes a score of {names} worse: {numbers}."
    return f"It cannot be shown that the learned score adds to {names}: {numbers}."


def _over_majority(gain: Interval) -> str:
    numbers = f"{gain.estimate:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]"
    if gain.low > 0:
        return f"Choosing by it beats majority vote: {numbers}."
    if gain.high < 0:
        return f"Choosing by it is worse than majority vote: {numbers}."
    return f"It cannot be shown that choosing by it beats majority vote: {numbers}."
