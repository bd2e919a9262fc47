"""What the study found, as plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from validator.metrics import Interval
from validator.training.reranking import RerankingReport
from validator.windtunnels.study_draws import Draws
from validator.windtunnels.study_judging import INCREMENTS, Judged

__all__ = ["ContestResult", "Over", "RegressionResult", "Study", "pooled_contest"]


@dataclass(frozen=True, slots=True)
class Over:
    """A number over several models."""

    mean: Interval
    """The mean over models; its interval is over their problems."""
    each: tuple[Interval, ...]
    """Of each model, in the order of the seeds."""

    @classmethod
    def models(cls, draws: Sequence[Draws]) -> Over:
        """The mean over models, and each."""
        return cls(Draws.mean(draws).interval(), tuple(d.interval() for d in draws))


@dataclass(frozen=True, slots=True)
class ContestResult:
    """Right against wrong traces of one kind, over all models of a subject."""

    subject: str
    comparison: str
    """A corruption, or the model's own answers."""
    auroc: Mapping[str, Over]
    """Score -> AUROC over pairs of exactly equal prompt and completion length and depth."""
    within: Mapping[str, Over]
    """Score -> mean AUROC inside problems."""
    increments: Mapping[str, Over]
    """``a over b`` -> AUROC of a less that of b, paired."""
    constant: tuple[str, ...]
    """Scores that are equal wherever traces are compared: 0.5 by definition."""
    traces: tuple[tuple[int, int, int], ...]
    """Of each model: right traces, wrong traces, problems."""


@dataclass(frozen=True, slots=True)
class RegressionResult:
    """How well each predictor tells the posterior's entropy at one position, out of fold."""

    subject: str
    position: int
    spread: float
    """Standard deviation of the entropy at this position, bits, mean over models."""
    r2: Mapping[str, Over]
    """Predictor -> R2; 0 is what the mean entropy tells, below it is worse than that."""


@dataclass(frozen=True)
class Study:
    """All that was found."""

    contests: tuple[ContestResult, ...]
    regressions: tuple[RegressionResult, ...]
    reranking: Mapping[str, Sequence[RerankingReport | None]]
    """Subject -> of each model, what choosing among its early answers is worth."""
    models: Mapping[str, Sequence[Mapping[str, Any]]]
    """Subject -> of each model its seed, exact accuracy at its end and early, CPU seconds."""
    settings: Mapping[str, Any]
    """Sizes and seeds."""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "settings": dict(self.settings),
            "models": {name: [dict(m) for m in found] for name, found in self.models.items()},
            "contests": [asdict(c) for c in self.contests],
            "regressions": [asdict(r) for r in self.regressions],
            "reranking": {name: [_plain_reranking(r) for r in found]
                          for name, found in self.reranking.items()}}

    def contest(self, subject: str, comparison: str) -> ContestResult:
        """One of the contests. Raises KeyError where there is none."""
        for found in self.contests:
            if (found.subject, found.comparison) == (subject, comparison):
                return found
        raise KeyError(f"no contest {comparison!r} of {subject!r}")


def pooled_contest(subject: str, comparison: str, judged: Sequence[Judged]) -> ContestResult:
    """One contest over all models."""
    first = judged[0]
    shared = [name for name in first.within if all(name in j.within for j in judged)]
    return ContestResult(
        subject, comparison,
        {name: Over.models([j.auroc[name] for j in judged]) for name in first.auroc},
        {name: Over.models([j.within[name] for j in judged]) for name in shared},
        {f"{a} over {b}": Over.models([j.auroc[a] - j.auroc[b] for j in judged])
         for a, b in INCREMENTS},
        tuple(sorted(frozenset.intersection(*(j.constant for j in judged)))),
        tuple((j.right, j.wrong, j.problems) for j in judged))


def _plain_reranking(report: RerankingReport | None) -> dict[str, Any] | None:
    """Accuracy of every rule with all answers, what the last score gains, AUROC inside problems."""
    if report is None:
        return None
    return {
        "answers": report.at, "facts": dict(report.facts),
        "accuracy": {rule: asdict(curve[report.sizes.index(report.at)])
                     for rule, curve in report.curves.items()},
        "gains": {rule: asdict(gain) for rule, gain in report.gains.items()},
        "within": {score: asdict(found) for score, found in report.within.items()}}
