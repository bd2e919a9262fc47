"""What each way of choosing among N answers is worth, as a curve over N, and whether it pays."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from validator.errors import LabelError, ParameterError
from validator.metrics import (
    Interval,
    PerProblem,
    Resampler,
    SelectionCurves,
    Statistic,
    clustered_interval,
    mean_statistic,
    paired_difference,
    within_problem_statistic,
)
from validator.training.judge import answer_classes

__all__ = ["FIRST", "MAJORITY", "ORACLE", "RANDOM", "RerankingReport", "best_by", "judge_reranking"]

FIRST, RANDOM, MAJORITY, ORACLE = "first answer", "random answer", "majority vote", "oracle"
WEIGHTED, FILTERED = "vote weighted by P(valid)", "vote of the better half by P(valid)"
LARGEST = 16


def best_by(score: str) -> str:
    """The name of best of N by a score."""
    return f"best of N by {score}"


@dataclass(frozen=True)
class RerankingReport:
    """Accuracy of every rule at every number of answers, and the learned score against each."""

    sizes: tuple[int, ...]
    curves: Mapping[str, tuple[Interval, ...]]
    """Rule -> accuracy at each size."""
    at: int
    """The number of answers that the differences are of."""
    learned: str | None
    """Best of N by the learned score, as it is named in ``curves``; None where there is none."""
    gains: Mapping[str, Interval]
    """Rule -> accuracy of the learned score less that rule's at ``at``, paired."""
    vote_gains: Mapping[str, Interval]
    """Votes by the learned score less majority vote at ``at``, paired."""
    gap_closed: Interval | None
    """(learned - majority) / (oracle - majority) at ``at``; None without a gap or a score."""
    within: Mapping[str, Interval]
    """Score -> mean AUROC inside the problems that hold valid and invalid answers."""
    facts: Mapping[str, Any]
    """Numbers of answers, problems, share valid, seed, resamples, scores that are missing."""

    @property
    def verdict(self) -> str:
        """Whether choosing by the learned score beats majority vote and the rest, in words."""
        if self.learned is None or MAJORITY not in self.gains:
            return "There is no learned score, or nothing to vote on: nothing to decide."
        gain, n = self.gains[MAJORITY], self.at
        said = [_sentence(gain, f"At N = {n} choosing by the learned score", "majority vote")]
        if self.gap_closed is not None:
            g = self.gap_closed
            said.append(f"It closes {100 * g.estimate:.0f}% [{100 * g.low:.0f}, "
                        f"{100 * g.high:.0f}] of the way from majority vote to the oracle.")
        others = {r: g for r, g in self.gains.items() if r.startswith("best of N by ")}
        beaten = [r for r, g in others.items() if g.low > 0]
        if others and len(beaten) == len(others):
            said.append("It beats best of N by every other score that was tried.")
        elif others:
            rest = [r.removeprefix("best of N by ") for r in others if r not in beaten]
            said.append(f"It is not shown to beat best of N by {', '.join(rest)}.")
        return " ".join(said)

    def to_json(self) -> dict[str, Any]:
        """The same as plain JSON values."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return {**plain, "verdict": self.verdict}


def judge_reranking(
    labels: NDArray[np.int64], problems: Sequence[str] | NDArray[np.str_],
    answers: Sequence[str | None], scores: Mapping[str, NDArray[np.float64]], *,
    learned: str = "validity", chances: NDArray[np.float64] | None = None, at: int = 8,
    sizes: Sequence[int] | None = None, n_resamples: int = 1000, n_orders: int = 64, seed: int = 0,
) -> RerankingReport:
    """Judge every way of choosing on the same problems, with intervals over problems.

    Args:
        labels: (N,) 1 valid, 0 invalid.
        problems: (N,) ids; at least two, some with several answers.
        answers: (N,) as parsed; None does not vote. Equal ones, as mathematics, vote together.
        scores: name -> (N,), higher is more valid; NaN, an answer without a score, ranks last.
        learned: the name of the score that is compared with all others.
        chances: (N,) P(valid) in [0, 1] for the votes; default: the learned score, where it lies
            in [0, 1]. NaN counts as 0.
        at: number of answers that differences are taken at, at most the largest there is.
        sizes: numbers of answers of the curve (default: 1, 2, ... up to 16 or the most there are).
        n_resamples: bootstrap resamples of problems.
        n_orders: random orders of a problem's answers, for votes of fewer than all.
        seed: of both.

    Raises:
        LabelError: one problem, or one answer to each.
        ParameterError: ``at`` is no number of answers that can be had.
    """
    resampler = Resampler(problems, n_resamples, seed)
    most = int(np.bincount(resampler.index).max())
    if most < 2:
        raise LabelError("every problem has one answer, so there is nothing to choose among; "
                         "sample several answers to each")
    shown = tuple(range(1, min(most, LARGEST) + 1)) if sizes is None else tuple(sizes)
    at = min(at, shown[-1])
    if at not in shown:
        raise ParameterError(f"at = {at} is not among the sizes {list(shown)}")
    ranked = {n: np.where(np.isnan(s), -np.inf, s) for n, s in scores.items()}
    curves = _curves(labels, problems, answer_classes(answers, resampler.index), ranked,
                     _chances(scores.get(learned), chances),
                     SelectionCurves(labels, problems, shown, n_orders, seed))
    parts = {rule: [mean_statistic(PerProblem(resampler.problems, c), resampler) for c in curve.T]
             for rule, curve in curves.items()}
    own = best_by(learned) if learned in scores else None
    there = {rule: p[shown.index(at)] for rule, p in parts.items()}
    return RerankingReport(
        sizes=shown,
        curves={rule: tuple(clustered_interval(s, resampler) for s in p)
                for rule, p in parts.items()},
        at=at, learned=own, gains=_gains(there, own, resampler),
        vote_gains={r: paired_difference(there[r], there[MAJORITY], resampler)
                    for r in (WEIGHTED, FILTERED) if r in there},
        gap_closed=_gap_closed(there, own, resampler), within=_within(labels, ranked, resampler),
        facts={"answers": len(labels), "problems": len(resampler.problems),
               "most_answers": most, "valid": float(np.mean(labels)), "seed": seed,
               "resamples": n_resamples, "orders": n_orders,
               "unscored": {n: int(np.isnan(s).sum()) for n, s in scores.items()
                            if np.isnan(s).any()}})


def _chances(
    learned: NDArray[np.float64] | None, given: NDArray[np.float64] | None
) -> NDArray[np.float64] | None:
    if given is not None:
        return np.nan_to_num(given)
    if learned is None:
        return None
    known = learned[~np.isnan(learned)]
    usable = bool(known.size and known.min() >= 0 and known.max() <= 1)
    return np.nan_to_num(learned) if usable else None


def _curves(
    labels: NDArray[np.int64], problems: Sequence[str] | NDArray[np.str_],
    classes: Sequence[str | None], scores: Mapping[str, NDArray[np.float64]],
    chances: NDArray[np.float64] | None, curves: SelectionCurves,
) -> dict[str, NDArray[np.float64]]:
    """Rule -> (P, S), in the order of the table."""
    found = {FIRST: curves.first(), RANDOM: curves.random()}
    voting = any(c is not None for c in classes)
    if voting:
        found[MAJORITY] = curves.vote(classes)
    found |= {best_by(name): curves.best(s) for name, s in scores.items()}
    if voting and chances is not None:
        found[WEIGHTED] = curves.vote(classes, chances)
        found[FILTERED] = curves.filtered_vote(classes, chances)
    return {**found, ORACLE: curves.oracle()}


def _gains(there: Mapping[str, Statistic], own: str | None,
           resampler: Resampler) -> dict[str, Interval]:
    if own is None:
        return {}
    return {rule: paired_difference(there[own], s, resampler)
            for rule, s in there.items() if rule != own}


def _gap_closed(there: Mapping[str, Statistic], own: str | None,
                resampler: Resampler) -> Interval | None:
    if own is None or MAJORITY not in there:
        return None
    learned, majority, oracle = there[own], there[MAJORITY], there[ORACLE]

    def closed(counts: NDArray[np.int64]) -> NDArray[np.float64]:
        base = majority(counts)
        gap = oracle(counts) - base
        share: NDArray[np.float64] = np.full(base.shape, np.nan)
        np.divide(learned(counts) - base, gap, out=share, where=gap > 0)
        return share

    try:
        return clustered_interval(closed, resampler)
    except LabelError:  # majority vote is the oracle
        return None


def _within(labels: NDArray[np.int64], scores: Mapping[str, NDArray[np.float64]],
            resampler: Resampler) -> dict[str, Interval]:
    try:
        return {name: clustered_interval(within_problem_statistic(labels, s, resampler), resampler)
                for name, s in scores.items()}
    except LabelError:  # no problem holds both classes
        return {}


def _sentence(gain: Interval, what: str, than: str) -> str:
    verb = ("beats" if gain.low > 0 else "is worse than" if gain.high < 0
            else "is not shown to beat")
    return f"{what} {verb} {than}: {gain.estimate:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]."
