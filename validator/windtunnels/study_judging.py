"""Right against wrong at equal length: out-of-fold scores, their AUROC, and what each adds."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from validator.audit.ngrams import NgramTable
from validator.classifier import ValidityClassifier
from validator.errors import LabelError
from validator.metrics import (
    Resampler,
    Statistic,
    stratified_statistic,
    within_problem_statistic,
)
from validator.splits import problem_folds
from validator.training.evaluate import bounded, stack
from validator.windtunnels.study_draws import Draws
from validator.windtunnels.study_signals import TEXT, Signals

__all__ = [
    "INCREMENTS", "STACKS", "Contest", "Judged", "comparable", "constant_signals",
    "cross_fitted", "judge",
]

Rows = NDArray[np.int64]
Scores = NDArray[np.float64]
Part = Callable[[Rows, Rows], Scores]
"""(training rows, test rows) -> scores of the test rows."""

BASELINES = ("log-prob", "length", "n-grams", "counts")
STACKS = {
    "log-prob + attention": ("log-prob", "attention"),
    "baselines": BASELINES,
    "baselines + attention": (*BASELINES, "attention"),
    "baselines + identity-aware": (*BASELINES, "identity-aware"),
    "baselines + both": (*BASELINES, "attention", "identity-aware"),
}
"""Combinations, by what they are told."""
INCREMENTS = (
    ("log-prob + attention", "log-prob"), ("baselines + attention", "baselines"),
    ("baselines + identity-aware", "baselines"), ("baselines + both", "baselines"))
"""(score, what it is compared with)."""
RAW = ("log-prob", "length", "counts")
"""Signals of few columns, which a stack reads as they are; of others it reads one score."""


@dataclass(frozen=True, eq=False)
class Contest:
    """Right and wrong traces, to be compared inside strata only."""

    signals: Signals
    """Of N traces."""
    labels: NDArray[np.int64]
    """(N,) 1 right, 0 wrong."""
    problems: NDArray[np.str_]
    """(N,)"""
    strata: NDArray[np.str_]
    """(N,) what must be equal of two traces for them to be compared: their exact lengths, say."""

    def statistic(self, scores: Scores, resampler: Resampler) -> Statistic:
        """AUROC over the pairs of a right and a wrong trace of one stratum."""
        return stratified_statistic(self.labels, scores, self.strata, resampler)

    def within(self, scores: Scores, resampler: Resampler) -> Statistic | None:
        """Mean AUROC inside the problems that hold both; None where none does."""
        try:
            return within_problem_statistic(self.labels, scores, resampler)
        except LabelError:
            return None


def constant_signals(contest: Contest) -> frozenset[str]:
    """Signals that are equal throughout each stratum: their AUROC is one half by definition."""
    order = np.argsort(contest.strata, kind="stable")
    same = contest.strata[order][1:] == contest.strata[order][:-1]
    return frozenset(
        name for name, values in contest.signals.values.items()
        if not (np.diff(values[order], axis=0)[same] != 0).any())


def cross_fitted(
    contest: Contest, *, seed: int, only: Collection[str] | None = None, n_splits: int = 5,
    n_inner: int = 3,
) -> dict[str, Scores]:
    """Out-of-fold scores of every signal and of every combination, under problem-grouped folds.

    A combination is a logistic regression on signals of few columns and on inner out-of-fold scores
    of the others (Wolpert 1992): the problems tested touch neither level.

    Args:
        contest: what is judged.
        seed: of the folds.
        only: the scores that are wanted; None for all.
        n_splits: outer folds.
        n_inner: folds inside each training part.

    Returns:
        name -> (N,) log-odds, higher for right.
    """
    y = contest.labels
    stacks = {n: members for n, members in STACKS.items() if only is None or n in only}
    needed = {m for members in stacks.values() for m in members}
    parts = {n: part for n, part in _parts(contest).items()
             if only is None or n in only or n in needed}
    scores = {name: np.full(len(y), np.nan) for name in (*parts, *stacks)}
    for train, test in problem_folds(contest.problems, y, n_splits, seed):
        inner = problem_folds(contest.problems[train], y[train], n_inner, seed)
        for name, part in parts.items():
            scores[name][test] = part(train, test)
        nested = {name: _nested(parts[name], train, inner) for name in sorted(needed - set(RAW))}
        for name, members in stacks.items():
            below = _beside(contest, members, train, nested)
            above = _beside(contest, members, test, {m: scores[m][test] for m in members})
            scores[name][test] = stack(below, y[train], above)
    return scores


def _beside(
    contest: Contest, members: Sequence[str], rows: Rows, fitted: Mapping[str, Scores]
) -> NDArray[np.float64]:
    """What a combination reads of some rows: columns as they are, or one bounded score."""
    return np.hstack([contest.signals.values[m][rows] if m in RAW else bounded(fitted[m])[:, None]
                      for m in members])


def _nested(part: Part, train: Rows, inner: Sequence[tuple[Rows, Rows]]) -> Scores:
    values = np.full(len(train), np.nan)
    for fit, held_out in inner:
        values[held_out] = part(train[fit], train[held_out])
    return values


def _parts(contest: Contest) -> dict[str, Part]:
    y = contest.labels
    table = NgramTable("word").fit(contest.signals.texts)

    def fitted(X: NDArray[np.float64]) -> Part:
        def part(train: Rows, test: Rows) -> Scores:
            model = ValidityClassifier("logistic").fit(X[train], y[train])
            return np.asarray(model.decision_function(X[test]), dtype=np.float64)

        return part

    constant = constant_signals(contest)
    found: dict[str, Part] = {
        name: (lambda _, test: np.zeros(len(test))) if name in constant else fitted(values)
        for name, values in contest.signals.values.items()}
    return {**found, TEXT: lambda train, test: table.fit_score(train, test, y)}


@dataclass(frozen=True, eq=False)
class Judged:
    """One contest of one model."""

    auroc: Mapping[str, Draws]
    """Score -> AUROC inside strata."""
    within: Mapping[str, Draws]
    """Score -> mean AUROC inside problems; empty where no problem holds both classes."""
    constant: frozenset[str]
    """Scores that are equal throughout each stratum."""
    right: int
    """Traces."""
    wrong: int
    problems: int


def judge(contest: Contest, *, seed: int, n_resamples: int = 1000) -> Judged:
    """Fit every score out of fold, and measure it on the same resamples of problems."""
    scores, constant = cross_fitted(contest, seed=seed), constant_signals(contest)
    resampler = Resampler(contest.problems, n_resamples, seed)
    auroc = {name: Draws.of(contest.statistic(s, resampler), resampler)
             for name, s in scores.items() if name not in constant}
    half = Draws(0.5, np.full(n_resamples, 0.5))
    within = {name: contest.within(s, resampler) for name, s in scores.items()}
    right = int(contest.labels.sum())
    return Judged(
        {name: half if name in constant else auroc[name] for name in scores},
        {name: Draws.of(s, resampler) for name, s in within.items() if s is not None},
        constant, right, len(contest.labels) - right, len(resampler.problems))


def comparable(labels: NDArray[np.int64], strata: NDArray[np.str_]) -> Rows:
    """Rows whose stratum holds right and wrong traces, ascending."""
    names, index = np.unique(strata, return_inverse=True)
    right, size = np.bincount(index, labels, len(names)), np.bincount(index)
    return np.flatnonzero(((right > 0) & (right < size))[index])
