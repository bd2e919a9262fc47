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
    Resampler,
    auroc_statistic,
    brier,
    ece,
    paired_difference,
)
from validator.splits import problem_folds
from validator.training.evaluate import stack
from validator.training.judge import Judge, Verdict

__all__ = ["GivenComparison", "GivenRow", "judge_scores"]

FOLDS = 5


@dataclass(frozen=True, slots=True)
class GivenRow(Verdict):
    """One score and its verdict."""

    key: str


@dataclass(frozen=True)
class GivenComparison:
    """What given scores are worth."""

    rows: tuple[GivenRow, ...]
    choosing: Mapping[str, Interval]
    """First answer, majority vote, vote weighted by P(valid), oracle; empty for one each."""
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
    judge = Judge(labels, problems, lengths, answers, n_resamples, seed)
    ranked = {name: np.where(np.isnan(s), -np.inf, s) for name, s in scores.items()}
    rows = tuple(_row(judge, name, s) for name, s in ranked.items())
    chances = scores.get(learned)
    known = None if chances is None else ~np.isnan(chances)
    base = [b for b in beside if b in scores]
    choosing = judge.choosing(None if chances is None else np.nan_to_num(chances))
    over = None
    if chances is not None and "majority vote" in choosing:
        over = paired_difference(
            judge.best(ranked[learned]), choosing["majority vote"], judge.resampler)
    return GivenComparison(
        rows=rows, choosing={n: judge.interval(s) for n, s in choosing.items()},
        increment=None if chances is None or not base else _increment(
            labels, np.asarray(problems), [scores[b] for b in base], chances, n_resamples, seed),
        over_majority=over,
        calibration={} if known is None or chances is None or not known.any() else {
            "ece": ece(labels[known], chances[known]),
            "brier": brier(labels[known], chances[known])},
        facts={"traces": len(labels), "problems": len(judge.resampler.problems),
               "valid": float(labels.mean()), "mixed_problems": judge.mixed, "seed": seed,
               "resamples": n_resamples, "beside": base,
               "unscored": {n: int(np.isnan(s).sum()) for n, s in scores.items()
                            if np.isnan(s).any()}})


def _row(judge: Judge, key: str, scores: NDArray[np.float64]) -> GivenRow:
    found = judge.verdict(scores)
    return GivenRow(found.auroc, found.within, found.length_matched, found.best_of_n, key)


def _increment(labels: NDArray[np.int64], problems: NDArray[np.str_],
               beside: Sequence[NDArray[np.float64]], learned: NDArray[np.float64],
               n_resamples: int, seed: int) -> Interval | None:
    """AUROC that ``learned`` adds to ``beside``: stacks fitted under problem-grouped folds.

    On the responses that have every score. None for too few problems, or one class in a fold.
    """
    columns = np.column_stack([*beside, _log_odds(learned)])
    rows = np.flatnonzero(~np.isnan(columns).any(axis=1))
    y, groups, columns = labels[rows], problems[rows], columns[rows]
    below, above = np.full(len(rows), np.nan), np.full(len(rows), np.nan)
    try:
        for train, test in problem_folds(groups, y, FOLDS, seed):
            below[test] = stack(columns[train, :-1], y[train], columns[test, :-1])
            above[test] = stack(columns[train], y[train], columns[test])
        resampler = Resampler(groups, n_resamples, seed)
        return paired_difference(auroc_statistic(y, above, resampler),
                                 auroc_statistic(y, below, resampler), resampler)
    except LabelError:
        return None


def _log_odds(chances: NDArray[np.float64]) -> NDArray[np.float64]:
    kept = np.clip(chances, 1e-6, 1 - 1e-6)
    return np.asarray(np.log(kept / (1 - kept)), dtype=np.float64)


def _over_baselines(gain: Interval | None, beside: Sequence[str]) -> str:
    if gain is None:
        return ""
    names = " and ".join(b.replace("_", " ") for b in beside)
    return _sentence(gain, f"The learned score adds information beyond {names}: AUROC ",
                     f"Adding the learned score makes a score of {names} worse: AUROC ",
                     f"It cannot be shown that the learned score adds to {names}: AUROC ")


def _over_majority(gain: Interval) -> str:
    return _sentence(gain, "Choosing by it beats majority vote: ",
                     "Choosing by it is worse than majority vote: ",
                     "It cannot be shown that choosing by it beats majority vote: ")


def _sentence(gain: Interval, above: str, below: str, neither: str) -> str:
    said = above if gain.low > 0 else below if gain.high < 0 else neither
    return f"{said}{gain.estimate:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]."
