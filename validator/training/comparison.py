"""Out-of-sample scores -> a table of numbers with intervals, and what they mean in a sentence."""

from __future__ import annotations

import json
from collections.abc import Mapping
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
    within_problem_statistic,
)
from validator.training.answers import answer_key
from validator.training.evaluate import FAMILIES, CrossValidated

__all__ = ["Comparison", "ScoreRow", "compare"]

INCREMENTS = {
    "spectra over length + log-prob": ("length+logprob+learned", "length+logprob"),
    "spectra over length + log-prob + surface": ("baselines+learned", "baselines"),
}


@dataclass(frozen=True, slots=True)
class ScoreRow:
    """One score: how well it ranks, pooled, within problems, at equal length, and as a chooser."""

    key: str
    name: str
    auroc: Interval
    within: Interval | None
    """None where no problem holds a valid and an invalid answer."""
    length_matched: Interval | None
    """None where no bin of lengths holds a valid and an invalid trace."""
    best_of_n: Interval | None
    """None where problems have one answer each."""


@dataclass(frozen=True)
class Comparison:
    """Everything the demo, ``train`` and ``evaluate`` report."""

    rows: tuple[ScoreRow, ...]
    increments: Mapping[str, Mapping[str, Interval]]
    """increment -> {"auroc", "within"} -> paired difference."""
    choosing: Mapping[str, Interval]
    """First answer, majority vote and oracle accuracy."""
    learned_calibration: Mapping[str, float]
    """ECE and Brier score of the learned score's out-of-fold probabilities."""
    facts: Mapping[str, Any]
    """Numbers of traces, problems, share valid, folds, seed, resamples, most chosen columns."""

    @property
    def verdict(self) -> str:
        """Whether spectra add to log-prob and length on these traces, in plain words."""
        return " ".join(_sentence(name, parts) for name, parts in self.increments.items())

    def to_json(self) -> dict[str, Any]:
        """The same as plain JSON values."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return {**plain, "verdict": self.verdict}


def compare(oof: CrossValidated, *, n_resamples: int = 1000, seed: int = 0) -> Comparison:
    """Metrics of each out-of-fold score with 95% intervals clustered by problem.

    Args:
        oof: scores to compare.
        n_resamples: bootstrap resamples, shared by all scores, so that differences are paired.
        seed: of the resamples.
    """
    features = oof.features
    y, groups = features.labels, features.problem_ids
    resampler = Resampler(groups, n_resamples, seed)
    judge = _Judge(oof, resampler)
    chances = 1 / (1 + np.exp(-oof.scores["learned"]))
    names, counts = np.unique(oof.chosen_columns, return_counts=True)
    return Comparison(
        rows=tuple(judge.row(key) for key in FAMILIES if key in oof.scores),
        increments={name: judge.increment(*pair) for name, pair in INCREMENTS.items()},
        choosing=judge.choosing(),
        learned_calibration={"ece": ece(y, chances), "brier": brier(y, chances)},
        facts={
            "traces": len(y), "problems": len(np.unique(groups)), "valid": float(y.mean()),
            "mixed_problems": judge.mixed, "folds": oof.n_splits, "seed": oof.seed,
            "resamples": n_resamples, "provenance": asdict(features.provenance),
            "single_columns": {str(names[i]): int(counts[i]) for i in np.argsort(-counts)},
            "classifier": dict(oof.classifier),
        },
    )


class _Judge:
    """The metrics of one set of traces, on one set of resamples."""

    def __init__(self, oof: CrossValidated, resampler: Resampler) -> None:
        self.scores, self.resampler = oof.scores, resampler
        self.y, self.groups = oof.features.labels, oof.features.problem_ids
        self.lengths = oof.features.lengths[:, 1]
        self.answers = [
            None if t.answer is None else answer_key(t.answer) for t in oof.features.traces]
        sums = np.bincount(resampler.index, self.y)
        sizes = np.bincount(resampler.index)
        self.mixed = int(((sums > 0) & (sums < sizes)).sum())
        self.repeated = bool(sizes.max() > 1)

    def row(self, key: str) -> ScoreRow:
        scores = self.scores[key]
        return ScoreRow(
            key, FAMILIES[key],
            self._interval(auroc_statistic(self.y, scores, self.resampler)),
            self._interval(self._within(key)) if self.mixed else None,
            self._length_matched(scores),
            self._mean(best_of_n(self.y, scores, self.groups)) if self.repeated else None,
        )

    def increment(self, above: str, below: str) -> dict[str, Interval]:
        pair = [auroc_statistic(self.y, self.scores[k], self.resampler) for k in (above, below)]
        result = {"auroc": paired_difference(pair[0], pair[1], self.resampler)}
        if self.mixed:
            result["within"] = paired_difference(
                self._within(above), self._within(below), self.resampler)
        return result

    def choosing(self) -> dict[str, Interval]:
        if not self.repeated:
            return {}
        result = {"first answer": self._mean(first_answer(self.y, self.groups))}
        if any(a is not None for a in self.answers):
            result["majority vote"] = self._mean(majority_vote(self.y, self.answers, self.groups))
        return {**result, "oracle": self._mean(oracle(self.y, self.groups))}

    def _length_matched(self, scores: NDArray[np.float64]) -> Interval | None:
        try:
            return self._interval(
                length_matched_statistic(self.y, scores, self.lengths, self.resampler))
        except LabelError:
            return None

    def _within(self, key: str) -> Statistic:
        return within_problem_statistic(self.y, self.scores[key], self.resampler)

    def _interval(self, statistic: Statistic) -> Interval:
        return clustered_interval(statistic, self.resampler)

    def _mean(self, values: PerProblem) -> Interval:
        return self._interval(mean_statistic(values, self.resampler))


def _sentence(name: str, parts: Mapping[str, Interval]) -> str:
    pooled = parts["auroc"]
    numbers = _signed("AUROC", pooled)
    if "within" in parts:
        numbers += ", " + _signed("within problems", parts["within"])
    if pooled.low > 0:
        verb = "Here spectra add information beyond"
    elif pooled.high < 0:
        verb = "Here adding spectra makes the score worse than"
    else:
        verb = "Here it cannot be shown that spectra add to"
    return f"{verb} {name.removeprefix('spectra over ')}: {numbers}."


def _signed(what: str, i: Interval) -> str:
    return f"{what} {i.estimate:+.3f} [{i.low:+.3f}, {i.high:+.3f}]"
