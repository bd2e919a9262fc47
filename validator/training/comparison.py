"""Out-of-sample scores -> a table of numbers with intervals, and what they mean in a sentence."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from validator.metrics import Interval, brier, ece, paired_difference
from validator.training.evaluate import FAMILIES, CrossValidated
from validator.training.judge import Judge, Verdict

__all__ = ["Comparison", "ScoreRow", "compare"]

INCREMENTS = {
    "spectra over length + log-prob": ("length+logprob+learned", "length+logprob"),
    "spectra over length + log-prob + surface": ("baselines+learned", "baselines"),
}


@dataclass(frozen=True, slots=True)
class ScoreRow(Verdict):
    """One score and its verdict."""

    key: str
    name: str


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
    judge = Judge(y, groups, features.lengths[:, 1], [t.answer for t in features.traces],
                  n_resamples, seed)
    chances = 1 / (1 + np.exp(-oof.scores["learned"]))
    names, counts = np.unique(oof.chosen_columns, return_counts=True)
    return Comparison(
        rows=tuple(_row(judge, key, oof.scores[key]) for key in FAMILIES if key in oof.scores),
        increments={name: _increment(judge, oof.scores[above], oof.scores[below])
                    for name, (above, below) in INCREMENTS.items()},
        choosing={name: judge.interval(s) for name, s in judge.choosing().items()},
        learned_calibration={"ece": ece(y, chances), "brier": brier(y, chances)},
        facts={
            "traces": len(y), "problems": len(np.unique(groups)), "valid": float(y.mean()),
            "mixed_problems": judge.mixed, "folds": oof.n_splits, "seed": oof.seed,
            "resamples": n_resamples, "provenance": asdict(features.provenance),
            "single_columns": {str(names[i]): int(counts[i]) for i in np.argsort(-counts)},
            "classifier": dict(oof.classifier),
        },
    )


def _row(judge: Judge, key: str, scores: NDArray[np.float64]) -> ScoreRow:
    found = judge.verdict(scores)
    return ScoreRow(found.auroc, found.within, found.length_matched, found.best_of_n, key,
                    FAMILIES[key])


def _increment(judge: Judge, above: NDArray[np.float64],
               below: NDArray[np.float64]) -> dict[str, Interval]:
    """Paired differences, pooled and, where there are mixed problems, within."""
    found = {"auroc": paired_difference(judge.auroc(above), judge.auroc(below), judge.resampler)}
    if judge.mixed:
        found["within"] = paired_difference(
            judge.within(above), judge.within(below), judge.resampler)
    return found


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
