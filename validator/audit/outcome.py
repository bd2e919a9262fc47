"""Everything an audit found, and what it means in plain words."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from validator.audit.correlation import FamilyCorrelation
from validator.audit.duplicates import DuplicatePair
from validator.audit.judge import Difference, Increment, ScoreMetrics
from validator.audit.leaks import Leak
from validator.audit.sample import Composition
from validator.metrics import Interval

__all__ = ["AloneRow", "Audit", "PermutationTest"]


@dataclass(frozen=True, slots=True)
class AloneRow:
    """One thing alone as a score, signed: below one half, more of it means invalid."""

    name: str
    auroc: Interval | None
    within: Interval | None
    p_value: float
    """Two-sided, of AUROC = 1/2."""
    test: str
    """``permutation`` for a number read off the trace, ``bootstrap`` for a fitted score."""


@dataclass(frozen=True, slots=True)
class PermutationTest:
    """A whole cross-validated score, fitted anew to shuffled labels."""

    score: str
    scheme: str
    """How labels were shuffled: ``problems`` or ``within``."""
    statistic: str
    """``pooled`` AUROC, or mean AUROC ``within`` problems."""
    observed: float
    """On the real labels."""
    null: tuple[float, ...]
    """On each shuffle."""
    p_value: float
    """One-sided."""

    @property
    def null_mean(self) -> float:
        """Mean over the shuffles."""
        return sum(self.null) / len(self.null)


@dataclass(frozen=True)
class Audit:
    """One sample of labelled traces, and the scores of it, audited."""

    composition: Composition
    alone: tuple[AloneRow, ...]
    formatting: tuple[AloneRow, ...]
    """Numbers of the formatting that are not the same for all traces, furthest from chance
    first."""
    correlations: tuple[FamilyCorrelation, ...]
    """Of features with completion length; empty for text alone."""
    offenders: Mapping[str, float]
    """The columns that follow length most -> Spearman's rho."""
    scores: tuple[ScoreMetrics, ...]
    transfer_missing: str
    """Why no score was carried over to unseen sources; empty if some were."""
    increments: tuple[Increment, ...]
    permutations: tuple[PermutationTest, ...]
    duplicates: tuple[DuplicatePair, ...]
    leaks: tuple[Leak, ...]
    facts: Mapping[str, Any]
    """Unit of length, folds, seed, resamples, shuffles, caliper, provenance, classifier."""

    @property
    def verdict(self) -> tuple[str, ...]:
        """Whether the score is more than its baselines, and what to worry about."""
        return (*self._answers(), *self._worries())

    def to_json(self) -> dict[str, Any]:
        """The same as plain JSON values."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        for test, row in zip(self.permutations, plain["permutations"], strict=True):
            row["null_mean"] = test.null_mean
        for leak, row in zip(self.leaks, plain["leaks"], strict=True):
            row["sentence"] = leak.sentence
        return {"verdict": list(self.verdict), **plain}

    def _answers(self) -> list[str]:
        found = [_increment(i) for i in self.increments] or [self._to_beat()]
        return [*found, *(s for test in self.permutations if (s := _shuffled(test)))]

    def _to_beat(self) -> str:
        """The three strongest scores that need no reading."""
        known = [(max(r.auroc.estimate, 1 - r.auroc.estimate), r.name)
                 for r in self.alone if r.auroc is not None]
        best = sorted(known, reverse=True)[:3]
        named = ", ".join(f"{value:.2f} ({name})" for value, name in best)
        return ("Only text was given, so no score is judged. A score of these traces has to beat "
                f"an AUROC of {named}.")

    def _worries(self) -> list[str]:
        flagged = [leak for leak in self.leaks if leak.flagged]
        worries = [_sentence(f"Worry: {leak.sentence}") for leak in flagged]
        if not flagged:
            worries.append("No leak of length, question length, formatting, source or text was "
                           "found at the 5% level.")
        if self.duplicates:
            pairs = "1 pair" if len(self.duplicates) == 1 else f"{len(self.duplicates)} pairs"
            worries.append(
                f"Worry: {pairs} of nearly equal questions under different problem ids, which "
                "folds do not part; audit with near duplicates merged (--merge-duplicates).")
        movable = self.facts["movable"]
        if movable < 0.5:
            worries.append(
                f"Worry: labels of only {100 * movable:.0f}% of the traces can be shuffled (others "
                "are in problems that hold one class and have no equal in size), so the tests "
                "see little.")
        return worries


def _increment(found: Increment) -> str:
    question = f"Does the {found.name} score carry information beyond {found.base}?"
    pooled = found.auroc
    if pooled is None:
        return f"{question} It cannot be said: too few problems hold both classes."
    i = pooled.interval
    answer = "Yes" if i.low > 0 else "No, adding it makes the score worse" if i.high < 0 \
        else "No, that is not shown"
    parts = (("AUROC", pooled), ("within problems", found.within),
             ("at nearest length", found.length_pairs))
    return f"{question} {answer}: " + "; ".join(
        f"{what} {_signed(part)}" for what, part in parts if part is not None) + "."


def _signed(part: Difference) -> str:
    i = part.interval
    return f"{i.estimate:+.3f} [{i.low:+.3f}, {i.high:+.3f}], p = {part.p_value:.2g}"


def _shuffled(test: PermutationTest) -> str:
    """What a permutation test adds to the answer; nothing where another says it already."""
    numbers = f"{test.observed:.2f}, shuffled {test.null_mean:.2f}, p = {test.p_value:.2g}"
    if (test.scheme, test.statistic) == ("within", "within"):
        verb = "tells" if test.p_value <= 0.05 else "was not shown to tell"
        return (f"Inside problems the {test.score} {verb} valid from invalid: "
                f"AUROC {numbers}.")
    if (test.scheme, test.statistic) == ("within", "pooled"):
        return (f"Of its pooled AUROC of {test.observed:.2f}, {test.null_mean:.2f} is left when "
                "labels are shuffled inside problems: that much is which problems are hard.")
    return ""


def _sentence(text: str) -> str:
    return text if text.endswith(".") else text + "."
