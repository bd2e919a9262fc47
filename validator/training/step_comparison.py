"""Out-of-fold step scores -> how well they rank steps and find the first error, with intervals."""

from __future__ import annotations

import hashlib
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
    Statistic,
    auroc_statistic,
    brier,
    clustered_interval,
    ece,
    length_matched_statistic,
    paired_difference,
    stratified_statistic,
)
from validator.metrics.localization import within_trace_statistic
from validator.metrics.ranking import within_problem_auroc
from validator.training.step_location import BLIND, LOCATION_METRICS, Location
from validator.training.steps import RULES, SPECTRAL, STEP_FAMILIES, CrossValidatedSteps

__all__ = ["RANKING_METRICS", "Difference", "MetricRow", "StepComparison", "compare_steps"]

RANKING_METRICS = {
    "auroc": "AUROC",
    "within": "within traces",
    "at_position": "at equal step index",
    "at_length": "at equal step length",
}
"""Every measure of a ranking of steps and its name in tables."""

NESTED = {
    "position + length + log-prob + surface": ("baselines+learned", "baselines"),
    "all these and hidden states": ("baselines+probe+learned", "baselines+probe"),
}
"""What spectra are added to -> (family with spectra, the same without)."""

NAMES = {**STEP_FAMILIES, **RULES, **BLIND}
MEASURES = {"at_position": "At equal step index (AUROC)", "f1": "In first-error F1"}
"""The measures of the verdict."""

LATER = 0.95
"""From this share on, the wrong step is said to be the last labelled one of its trace."""


@dataclass(frozen=True, slots=True)
class MetricRow:
    """One score or rule, and what each measure says of it."""

    key: str
    name: str
    values: Mapping[str, Interval | None]
    """None where the labels do not define the measure."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A score with spectra less one without, on the same resamples."""

    metric: str
    key: str
    baseline: str
    value: Interval


@dataclass(frozen=True)
class StepComparison:
    """Everything ``validator steps`` reports."""

    ranking: tuple[MetricRow, ...]
    location: tuple[MetricRow, ...]
    """Empty where no trace has a known first error."""
    nested: Mapping[str, Sequence[Difference]]
    """What spectra add to the same baselines: key of what they are added to -> differences."""
    against_best: Sequence[Difference]
    """Every spectral score less the best one without spectra of that measure, picked with the
    labels at hand, which favours the baseline."""
    calibration: Mapping[str, Mapping[str, float]]
    """Family -> ECE and Brier score of its out-of-fold probabilities."""
    facts: Mapping[str, Any]

    @property
    def verdict(self) -> str:
        """What spectra add to the ranking of steps and to finding the first error."""
        said = [_sentence(d, name) for name, found in self.nested.items() for d in found
                if d.metric in MEASURES]
        best = [f"{MEASURES[d.metric]}, {_signed(d.value)} over {NAMES[d.baseline]}"
                for d in self.against_best
                if d.key == "baselines+learned" and d.metric in MEASURES]
        if best:
            said.append(f"Against the best score without spectra: {'; '.join(best)}.")
        return " ".join(said)

    @property
    def notes(self) -> tuple[str, ...]:
        """What has to be known to read the numbers."""
        facts = self.facts
        said = []
        if facts["unlabelled"]:
            said.append(f"{facts['unlabelled']} of {facts['steps']} steps have no label: nothing "
                        "is fitted to them and no ranking counts them.")
        if facts["not_scored"]:
            said.append(f"{facts['not_scored']} steps are of problems without any labelled step: "
                        "they have no out-of-fold score.")
        unknown = facts["traces"] - facts["judged_traces"]
        if unknown:
            said.append(f"{unknown} of {facts['traces']} traces do not say where their first "
                        "error is and are left out of the localisation.")
        if facts["later"] is not None and facts["later"] > LATER:
            said.append(
                "Within traces the wrong step is the last labelled one, so any score that falls "
                "with the step index looks perfect there: read the column at equal step index.")
        return tuple(said)

    def to_json(self) -> dict[str, Any]:
        """The same as plain JSON values."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return {**plain, "verdict": self.verdict, "notes": list(self.notes)}


def compare_steps(
    oof: CrossValidatedSteps, *, n_resamples: int = 1000, seed: int = 0
) -> StepComparison:
    """Measures of each out-of-fold score with 95% intervals clustered by problem.

    Args:
        oof: scores to compare.
        n_resamples: bootstrap resamples, shared by all scores, so that differences are paired.
        seed: of the resamples.
    """
    rows = oof.table.labelled
    resampler = Resampler(oof.table.problem_ids[rows], n_resamples, seed)
    location = Location.of(oof)
    judge = _Judge(_ranking(oof, rows, resampler),
                   {} if location is None else location.statistics(resampler), resampler)
    return StepComparison(
        ranking=judge.table(judge.ranking, RANKING_METRICS),
        location=judge.table(judge.location, LOCATION_METRICS),
        nested={name: judge.differences(*pair) for name, pair in NESTED.items()
                if set(pair) <= set(oof.scores)},
        against_best=judge.against_best(),
        calibration={key: _calibration(oof.table.labels[rows], oof.probability(key)[rows])
                     for key in judge.ranking},
        facts=_facts(oof, rows, location) | {"resamples": n_resamples},
    )


Statistics = Mapping[str, Mapping[str, Statistic | None]]
"""Score or rule -> measure -> statistic."""


class _Judge:
    """All measures of all scores, on one set of resamples."""

    def __init__(self, ranking: Statistics, location: Statistics, resampler: Resampler) -> None:
        self.ranking, self.location, self.resampler = ranking, location, resampler
        self.statistics: dict[tuple[str, str], Statistic] = {
            (metric, key): _remembered(statistic)
            for part in (ranking, location) for key, own in part.items()
            for metric, statistic in own.items() if statistic is not None}
        self.intervals = {place: interval for place, statistic in self.statistics.items()
                          if (interval := self._interval(statistic)) is not None}

    def table(self, part: Statistics, metrics: Mapping[str, str]) -> tuple[MetricRow, ...]:
        return tuple(MetricRow(key, NAMES[key], {m: self.intervals.get((m, key)) for m in metrics})
                     for key in part)

    def differences(self, above: str, below: str) -> tuple[Difference, ...]:
        found = [self._difference(m, above, below) for m in (*RANKING_METRICS, *LOCATION_METRICS)]
        return tuple(d for d in found if d is not None)

    def against_best(self) -> tuple[Difference, ...]:
        found = []
        for metric in (*RANKING_METRICS, *LOCATION_METRICS):
            plain = {key: interval.estimate for (m, key), interval in self.intervals.items()
                     if m == metric and key not in SPECTRAL}
            if plain:
                best = max(plain, key=lambda key: plain[key])
                found += [self._difference(metric, key, best) for key in SPECTRAL]
        return tuple(d for d in found if d is not None)

    def _difference(self, metric: str, above: str, below: str) -> Difference | None:
        if not {(metric, above), (metric, below)} <= set(self.intervals):
            return None
        pair = self.statistics[metric, above], self.statistics[metric, below]
        return Difference(metric, above, below, paired_difference(*pair, self.resampler))

    def _interval(self, statistic: Statistic) -> Interval | None:
        try:
            return clustered_interval(statistic, self.resampler)
        except LabelError:  # too few resamples hold what the measure compares
            return None


def _ranking(oof: CrossValidatedSteps, rows: NDArray[np.int64], resampler: Resampler) -> Statistics:
    table = oof.table
    y, trace, step = table.labels[rows], table.trace[rows], table.step[rows]
    lengths = table.features.lengths[rows, 1]
    mixed = _mixed(y, trace)

    def of_score(scores: NDArray[np.float64]) -> dict[str, Statistic | None]:
        return {
            "auroc": auroc_statistic(y, scores, resampler),
            "within": within_trace_statistic(y, scores, trace, resampler) if mixed else None,
            "at_position": stratified_statistic(y, scores, step, resampler),
            "at_length": length_matched_statistic(y, scores, lengths, resampler),
        }

    return {key: of_score(oof.scores[key][rows]) for key in STEP_FAMILIES if key in oof.scores}


def _mixed(y: NDArray[np.int64], trace: NDArray[np.int64]) -> int:
    """How many traces hold a valid and an invalid step."""
    valid, total = np.bincount(trace, y), np.bincount(trace)
    return int(((valid > 0) & (valid < total)).sum())


def _calibration(y: NDArray[np.int64], chances: NDArray[np.float64]) -> dict[str, float]:
    return {"ece": ece(y, chances), "brier": brier(y, chances)}


def _facts(
    oof: CrossValidatedSteps, rows: NDArray[np.int64], location: Location | None
) -> dict[str, Any]:
    table, y = oof.table, oof.table.labels[rows]
    mixed = _mixed(y, table.trace[rows])
    judged = 0 if location is None else len(location.truth)
    return {
        "steps": len(table.labels), "labelled": len(rows),
        "unlabelled": len(table.labels) - len(rows), "not_scored": int((oof.fold < 0).sum()),
        "valid": float(y.mean()), "problems": len(np.unique(table.problem_ids[rows])),
        "traces": len(table.trace_ids), "mixed_traces": mixed, "judged_traces": judged,
        "with_error": 0 if location is None else int((location.truth >= 0).sum()),
        "later": within_problem_auroc(y, -table.step[rows], table.trace[rows]) if mixed else None,
        "folds": oof.n_splits, "seed": oof.seed, "components": oof.components,
        "provenance": asdict(table.features.provenance), "classifier": dict(oof.classifier),
    }


def _remembered(statistic: Statistic) -> Statistic:
    """The same, computed once for the same counts: every difference asks for them again."""
    known: dict[bytes, NDArray[np.float64]] = {}

    def value(counts: NDArray[np.int64]) -> NDArray[np.float64]:
        key = hashlib.sha256(counts.tobytes()).digest()
        if key not in known:
            known[key] = statistic(counts)
        return known[key]

    return value


def _sentence(d: Difference, added_to: str) -> str:
    if d.value.low > 0:
        verb = "spectra add to"
    elif d.value.high < 0:
        verb = "adding spectra makes the score worse than"
    else:
        verb = "it cannot be shown that spectra add to"
    return f"{MEASURES[d.metric]}, {verb} {added_to}: {_signed(d.value)}."


def _signed(i: Interval) -> str:
    return f"{i.estimate:+.3f} [{i.low:+.3f}, {i.high:+.3f}]"
