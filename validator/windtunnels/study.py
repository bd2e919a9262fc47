"""Does the spectrum know? Right against wrong at exactly equal length, where truth is computed.

Each model is trained from nothing, reads right traces and their wrong twins, and, as it was early
in its training, writes answers of its own. What attention spectra tell of validity stands beside
what log-probabilities, and a count of symbols, tell of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from validator.errors import ParameterError
from validator.metrics import Resampler
from validator.training.reranking import RerankingReport
from validator.types import Progress, Trace
from validator.windtunnels.study_draws import Draws
from validator.windtunnels.study_judging import Contest, Judged, comparable, judge
from validator.windtunnels.study_regression import (
    EVIDENCE,
    EvidenceSubject,
    out_of_fold_ridge,
    prefixes_at,
    r2_statistic,
    trained_evidence,
)
from validator.windtunnels.study_reranking import rerank
from validator.windtunnels.study_results import (
    ContestResult,
    Over,
    RegressionResult,
    Study,
    pooled_contest,
)
from validator.windtunnels.study_signals import Signals, read_signals
from validator.windtunnels.study_subjects import (
    OWN,
    SUBJECTS,
    Subject,
    TrainedPair,
    own_answers,
    train_pair,
    twins,
)

__all__ = ["StudySettings", "run_study"]

Report = Callable[[str, int, int], None]
"""Called with what is being done, and how far it is."""


@dataclass(frozen=True, slots=True)
class StudySettings:
    """How large the study is."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """One model each, of every subject."""
    problems: int = 1500
    """Fresh problems of each model, to which it writes own answers."""
    twins: int = 500
    """How many of them have their right trace judged against its wrong twins."""
    samples: int = 4
    """Own answers to each problem."""
    prefixes: int = 1500
    """Problems of the regression."""
    positions: tuple[int, ...] = (5, 7)
    """Amounts of evidence at which entropy is regressed."""
    resamples: int = 1000

    def __post_init__(self) -> None:
        for name, least in (
                ("problems", 50), ("twins", 50), ("samples", 2), ("prefixes", 50),
                ("resamples", 1)):
            if getattr(self, name) < least:
                raise ParameterError(
                    f"{name} must be {least} or more, got {getattr(self, name)}")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ParameterError(f"seeds must be distinct, at least one; got {self.seeds}")


def run_study(
    settings: StudySettings, subjects: Mapping[str, Subject] | None = None,
    evidence: Mapping[str, EvidenceSubject] | None = None, report: Report = lambda *_: None,
) -> Study:
    """Train, read, judge.

    Args:
        settings: sizes and seeds.
        subjects: walks and sortings to be judged, by name; by default all.
        evidence: tunnels of the regression; by default all.
        report: follows the work.
    """
    chosen = SUBJECTS if subjects is None else subjects
    asked = EVIDENCE if evidence is None else evidence
    found = {name: _judge_subject(name, subject, settings, report)
             for name, subject in chosen.items()}
    regressions = [result for name, subject in asked.items()
                   for result in _regressions(name, subject, settings, report)]
    return Study(
        tuple(contest for part in found.values() for contest in part.contests),
        tuple(regressions), {name: part.reranking for name, part in found.items()},
        {name: part.models for name, part in found.items()}, asdict(settings))


@dataclass(frozen=True, slots=True)
class _Found:
    """What was found of one subject."""

    contests: list[ContestResult]
    reranking: list[RerankingReport | None]
    models: list[dict[str, Any]]


def _judge_subject(name: str, subject: Subject, settings: StudySettings, report: Report) -> _Found:
    """Every contest of a subject, over one model for each seed."""
    judged: list[dict[str, Judged]] = []
    found = _Found([], [], [])
    for seed in settings.seeds:
        what = f"{name}, seed {seed}"
        pair = train_pair(subject, seed, settings.problems, _follow(report, f"{what}: training"))
        contests = _twin_contests(subject, pair, settings, seed,
                                  _follow(report, f"{what}: reading twins"))
        own, answers = _own(subject, pair, settings, seed,
                            _follow(report, f"{what}: reading answers"))
        contests |= own
        judged.append({})
        for i, (kind, contest) in enumerate(contests.items()):
            report(f"{what}: judging", i, len(contests))
            judged[-1][kind] = judge(contest, seed=seed, n_resamples=settings.resamples)
        found.reranking.append(rerank(*answers, seed=seed, n_resamples=settings.resamples))
        found.models.append({
            "seed": seed, "exact": pair.reader_accuracy, "exact_early": pair.early_accuracy,
            "sampled_early": float(np.mean([t.label for t in answers[0]])),
            "cpu_seconds": round(pair.cpu_seconds, 1)})
    found.contests.extend(pooled_contest(name, kind, [j[kind] for j in judged])
                          for kind in judged[0] if all(kind in j for j in judged))
    return found


def _follow(report: Report, what: str) -> Progress:
    return lambda done, total: report(what, done, total)


def _twin_contests(
    subject: Subject, pair: TrainedPair, settings: StudySettings, seed: int, progress: Progress
) -> dict[str, Contest]:
    """Kind -> each right trace and its twin, read by the model."""
    kinds = subject.tunnel.corruptions
    problems = pair.problems[:settings.twins]
    right, _ = twins(subject, problems, kinds[0], seed)
    traces = [right, *(twins(subject, problems, kind, seed)[1] for kind in kinds)]
    signals = read_signals(pair.reader, [t for part in traces for t in part], progress=progress)
    size, found = len(right), {}
    for k, kind in enumerate(kinds, 1):
        rows = np.r_[0:size, k * size:(k + 1) * size]
        found[kind] = _contest([*right, *traces[k]], signals.take(rows))
    return found


def _own(
    subject: Subject, pair: TrainedPair, settings: StudySettings, seed: int, progress: Progress
) -> tuple[dict[str, Contest], tuple[list[Trace], Signals]]:
    """The early model's answers of the right length, each once; and all it gave that can be read.

    A right answer has the only right length of its problem; what has another needs no spectrum.
    """
    answers = [t for t in own_answers(subject, pair.early, pair.problems, settings.samples, seed)
               if t.completion]
    distinct = {(t.problem_id, t.completion): t for t in answers}
    place = {key: i for i, key in enumerate(distinct)}
    signals = read_signals(pair.early, list(distinct.values()), progress=progress)
    every = signals.take(np.array([place[t.problem_id, t.completion] for t in answers]))
    traces = list(distinct.values())
    labels = np.array([t.label for t in traces], dtype=np.int64)
    rows = comparable(labels, _strata(traces))
    found = {}
    if min(np.bincount(labels[rows], minlength=2)) >= 30:
        found[OWN] = _contest([traces[i] for i in rows], signals.take(rows))
    return found, (answers, every)


def _strata(traces: Sequence[Trace]) -> Any:
    """(N,) exact lengths of prompt and completion, and the depth of the goal."""
    return np.array([f"{len(t.prompt.split())} {len(t.completion.split())} {t.meta['depth']}"
                     for t in traces])


def _contest(traces: Sequence[Trace], signals: Signals) -> Contest:
    return Contest(signals, np.array([t.label for t in traces], dtype=np.int64),
                   np.array([t.problem_id for t in traces]), _strata(traces))


def _regressions(
    name: str, subject: EvidenceSubject, settings: StudySettings, report: Report
) -> list[RegressionResult]:
    """R2 of each predictor at each position, averaged over models."""
    draws: dict[int, dict[str, list[Draws]]] = {p: {} for p in settings.positions}
    spread: dict[int, list[float]] = {p: [] for p in settings.positions}
    for seed in settings.seeds:
        model = trained_evidence(subject, seed,
                                 _follow(report, f"{name}, seed {seed}: training"))
        for position in settings.positions:
            found = prefixes_at(model, subject, position, settings.prefixes, seed)
            spread[position].append(float(found.entropy.std()))
            resampler = Resampler(np.arange(settings.prefixes), settings.resamples, seed)
            for predictor, X in found.predictors.items():
                guess = out_of_fold_ridge(X, found.entropy, seed=seed)
                draws[position].setdefault(predictor, []).append(
                    Draws.of(r2_statistic(found.entropy, guess, resampler), resampler))
    return [RegressionResult(
        name, position, float(np.mean(spread[position])),
        {n: Over.models(parts) for n, parts in draws[position].items()})
        for position in settings.positions]
