"""One audit: labelled features, or traces alone, against everything they must be more than."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone

from validator.audit.alone import formatting_scores, source_scores, text_scores
from validator.audit.baselines import surface_texts
from validator.audit.correlation import family_correlations, spearman
from validator.audit.duplicates import merge_near_duplicates, near_duplicates
from validator.audit.formatting import FORMATTING, formatting_features
from validator.audit.judge import Increment, Judge, ScoreMetrics
from validator.audit.leaks import find_leaks, standardised
from validator.audit.matching import CALIPER
from validator.audit.ngrams import NgramTable
from validator.audit.outcome import AloneRow, Audit, PermutationTest
from validator.audit.permutation import (
    blind_folds,
    label_aurocs,
    permutation_p_value,
    shuffled_labels,
    within_aurocs,
)
from validator.audit.pipeline import FoldedLogistic
from validator.audit.sample import Sample, composition
from validator.audit.transfer import source_groups, transfer_scores, transfer_splits
from validator.classifier import ValidityClassifier
from validator.columns import BASELINES, Column
from validator.errors import LabelError, ParameterError
from validator.metrics import auroc
from validator.splits import problem_folds
from validator.training.evaluate import FAMILIES, column_families, cross_validate
from validator.types import FeatureMatrix, Progress, Trace

__all__ = ["audit", "merged"]

Array = NDArray[np.float64]
Rows = NDArray[np.int64]

INCREMENTS = (
    ("length + log-prob", "length+logprob+learned", "length+logprob"),
    ("length + log-prob + surface", "baselines+learned", "baselines"),
)
"""(base, stack with the learned score, stack without)."""

OFFENDERS = 10
"""Columns named as those that follow length most."""


def audit(
    subject: FeatureMatrix | Sequence[Trace],
    classifier: ValidityClassifier | None = None,
    *,
    n_splits: int = 5,
    n_permutations: int = 200,
    n_resamples: int = 1000,
    n_leak_permutations: int = 499,
    caliper: float = CALIPER,
    seed: int = 0,
    progress: Progress | None = None,
) -> Audit:
    """Audit labelled features and the score learned from them, or traces as text alone.

    Args:
        subject: features, or traces; those without a label are counted and left out.
        classifier: unfitted, of the learned score; default logistic. Ignored for text alone.
        n_splits: problem-grouped folds.
        n_permutations: shuffles to which the whole cross-validated score is fitted anew: the
            logistic one (whatever the classifier), or for text the nearest-mean n-gram score.
        n_resamples: bootstrap resamples of the problems, shared by all scores.
        n_leak_permutations: shuffles of the leak tests.
        caliper: largest relative difference of matched lengths.
        seed: of folds, resamples and shuffles.
        progress: called with (done, total) steps of unequal length.

    Raises:
        LabelError: one class only, or too few problems for the folds.
        ParameterError: an argument out of range.
    """
    if n_permutations < 1:
        raise ParameterError(f"n_permutations must be at least 1, got {n_permutations}")
    sample = (Sample.of_features(subject) if isinstance(subject, FeatureMatrix)
              else Sample.of_traces(subject))
    run = _Run(sample, classifier or ValidityClassifier(), n_splits, n_permutations, seed,
               Judge(sample, n_resamples, seed, caliper), progress)
    scores = run.scores()
    transferred, missing = run.transfer()
    alone, formatting = run.alone(scores["surface"])
    rho = run.correlations()
    leaks = find_leaks(sample, run.judge, n_permutations=n_leak_permutations, n_splits=n_splits,
                       seed=seed, table=run.table)
    run.tick()
    return Audit(
        composition=composition(sample), alone=alone, formatting=formatting,
        correlations=family_correlations(list(rho), np.array(list(rho.values()))),
        offenders=_offenders(rho), scores=run.metrics(scores, transferred),
        transfer_missing=missing, increments=run.increments(scores),
        permutations=run.permutations(), duplicates=near_duplicates(sample.traces), leaks=leaks,
        facts=run.facts(n_resamples, n_leak_permutations, caliper))


def merged(traces: Sequence[Trace]) -> tuple[Trace, ...]:
    """The traces with one problem id for nearly equal questions."""
    ids = merge_near_duplicates(traces)
    return tuple(dataclasses.replace(t, problem_id=p) for t, p in zip(traces, ids, strict=True))


class _Ticker:
    """Turns steps done here and there into calls of (done, total)."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self.progress, self.done, self.total = progress, 0, total

    def __call__(self) -> None:
        self.done += 1
        if self.progress is not None:
            self.progress(self.done, max(self.done, self.total))


class _Run:
    """The parts of one audit, which share folds, resamples and n-gram counts."""

    def __init__(self, sample: Sample, classifier: ValidityClassifier, n_splits: int,
                 n_permutations: int, seed: int, judge: Judge, progress: Progress | None
                 ) -> None:
        self.sample, self.classifier, self.judge = sample, classifier, judge
        self.n_splits, self.n_permutations, self.seed = n_splits, n_permutations, seed
        self.y, self.problems = sample.labels, sample.problems
        self.folds = problem_folds(self.problems, self.y, n_splits, seed)
        self.groups = source_groups(sample.sources)
        self.table = NgramTable("char").fit(surface_texts(sample.traces))
        where = sample.features
        self.learned = None if where is None else where.values[
            :, column_families(where.names)["learned"]]
        fitted = 1 if self.learned is None else 2  # scores carried over to unseen sources
        able = judge.several and judge.sources
        carried = fitted * len(np.unique(self.groups)) if able else 0
        self.tick = _Ticker(progress, n_splits * (1 + carried) + 3)

    def scores(self) -> Mapping[str, Array]:
        """Out-of-fold scores by key of FAMILIES; of text alone, length and surface."""
        if self.sample.features is None:
            surface = text_scores(self.table, self.y, self.folds, self.tick)
            return {"length": self.sample.lengths, "surface": surface}
        return cross_validate(
            self.sample.features, self.classifier, n_splits=self.n_splits, seed=self.seed,
            progress=lambda *_: self.tick()).scores

    def metrics(self, scores: Mapping[str, Array], transferred: Mapping[str, Array]
                ) -> tuple[ScoreMetrics, ...]:
        return tuple(self.judge.metrics(key, FAMILIES[key], values, transferred.get(key))
                     for key, values in scores.items())

    def transfer(self) -> tuple[dict[str, Array], str]:
        """Scores of surface and the learned one on unseen sources, or why there are none."""
        if not self.judge.several:
            return {}, "all traces have one source"
        if not self.judge.sources:
            return {}, "every source wrote traces of one class only: source decides the label"
        try:
            splits = transfer_splits(self.problems, self.y, self.groups, self.n_splits, self.seed)
        except LabelError as error:
            return {}, str(error)

        def surface(train: Rows, test: Rows) -> Array:
            return self.table.fit_score(train, test, self.y)

        parts: dict[str, Callable[[Rows, Rows], Array]] = {"surface": surface}
        if self.learned is not None:
            parts["learned"] = self._fit_learned
        return {key: transfer_scores(splits, part, len(self.y), self.tick)
                for key, part in parts.items()}, ""

    def _fit_learned(self, train: Rows, test: Rows) -> Array:
        assert self.learned is not None
        model = clone(self.classifier).fit(
            self.learned[train], self.y[train], groups=self.problems[train])
        return np.asarray(model.decision_function(self.learned[test]), dtype=np.float64)

    def alone(self, surface: Array) -> tuple[tuple[AloneRow, ...], tuple[AloneRow, ...]]:
        """What each thing alone says, and each number of the formatting."""
        s = self.sample
        columns = {f"completion length ({s.unit})": s.lengths, "completion length (words)": s.words,
                   f"question length ({s.unit})": s.question_lengths, "steps": s.steps,
                   **self._logprobs()}
        looks = formatting_features([t.completion for t in s.traces])
        words = text_scores(NgramTable("word").fit(surface_texts(s.traces)), self.y, self.folds)
        fitted = {
            "formatting, all together": formatting_scores(looks, self.y, self.folds),
            "text: words": words,
            "text: character 1-5-grams": surface,
        }
        if self.judge.several:
            fitted["source"] = source_scores(s.sources, self.y, self.folds)
        rows = [AloneRow(name, self.judge.auroc(v), self.judge.within(v), self.judge.p_value(v),
                         "bootstrap") for name, v in fitted.items()]
        varied = {name: column for name, column in zip(FORMATTING, looks.T, strict=True)
                  if np.ptp(column) > 0}
        formatting = sorted(self._scalars(varied), key=_from_chance, reverse=True)
        self.tick()
        return (*self._scalars(columns), *rows), tuple(formatting)

    def _logprobs(self) -> dict[str, Array]:
        known = self.sample.features
        if known is None:
            return {}
        names = {str(Column(b)): b.replace("_", " ").replace("logprob", "log-prob")
                 for b in BASELINES if "length" not in b}
        return {title: known.select([name])[:, 0].astype(np.float64)
                for name, title in names.items() if name in known.names}

    def _scalars(self, columns: Mapping[str, Array]) -> list[AloneRow]:
        if not columns:
            return []
        labels = np.vstack([self.y, shuffled_labels(self.y, self.problems, 999, seed=self.seed)])
        z = standardised(label_aurocs(np.column_stack(list(columns.values())), labels))
        return [AloneRow(name, self.judge.auroc(v), self.judge.within(v),
                         permutation_p_value(z[0, k], z[1:, k]), "permutation")
                for k, (name, v) in enumerate(columns.items())]

    def correlations(self) -> dict[str, float]:
        """Column name -> Spearman's rho with completion length, baselines left out."""
        known = self.sample.features
        if known is None:
            return {}
        where = [i for i, n in enumerate(known.names) if not Column.parse(n).is_baseline]
        rho = spearman(known.values[:, where], self.sample.lengths)
        return {known.names[i]: float(r) for i, r in zip(where, rho, strict=True)}

    def increments(self, scores: Mapping[str, Array]) -> tuple[Increment, ...]:
        return tuple(self.judge.increment("learned", base, scores[above], scores[below])
                     for base, above, below in INCREMENTS if above in scores)

    def permutations(self) -> tuple[PermutationTest, ...]:
        """The logistic or n-gram score fitted anew to shuffled labels, under both schemes."""
        name, fit = self._refitted()
        found = [*self._shuffle(name, fit, "problems", ("pooled",))]
        if self.judge.within(np.zeros(len(self.y))) is not None:
            found += self._shuffle(name, fit, "within", ("within", "pooled"))
        self.tick()
        return tuple(found)

    def _refitted(self) -> tuple[str, Callable[[NDArray[np.int64]], Array]]:
        """A score's name, and labellings (B, N) -> its out-of-fold scores (B, N)."""
        if self.learned is None:
            folds = blind_folds(self.problems, self.n_splits, self.seed)
            return ("nearest-mean n-gram score",
                    lambda labels: self.table.centroid_scores(labels, folds))
        C = self.classifier.C if self.classifier.kind == "logistic" else None
        model = FoldedLogistic(self.n_splits, C, self.seed).fit(self.learned, self.problems)
        return "logistic learned score", model.scores

    def _shuffle(self, name: str, fit: Callable[[NDArray[np.int64]], Array], scheme: str,
                 statistics: Sequence[str]) -> list[PermutationTest]:
        drawn = shuffled_labels(self.y, self.problems, self.n_permutations, scheme, self.seed)
        labels = np.vstack([self.y, drawn])
        scores = fit(labels)
        found = []
        for statistic in statistics:
            values = (within_aurocs(scores, labels, self.problems) if statistic == "within"
                      else np.array([auroc(*pair) for pair in zip(labels, scores, strict=True)]))
            found.append(PermutationTest(
                name, scheme, statistic, float(values[0]), tuple(values[1:].tolist()),
                permutation_p_value(float(values[0]), values[1:])))
        return found

    def facts(self, n_resamples: int, n_leak_permutations: int, caliper: float) -> dict[str, Any]:
        known = self.sample.features
        drawn = shuffled_labels(self.y, self.problems, 99, seed=self.seed)
        return {
            "unit": self.sample.unit, "folds": self.n_splits, "seed": self.seed,
            "resamples": n_resamples, "permutations": self.n_permutations,
            "leak_permutations": n_leak_permutations, "caliper": caliper,
            "movable": float((drawn.min(axis=0) < drawn.max(axis=0)).mean()),
            "provenance": {} if known is None else dataclasses.asdict(known.provenance),
            "classifier": {} if known is None else self.classifier.get_params(),
        }


def _from_chance(row: AloneRow) -> float:
    return 0.0 if row.auroc is None else abs(row.auroc.estimate - 0.5)


def _offenders(rho: Mapping[str, float]) -> dict[str, float]:
    known = {name: r for name, r in rho.items() if not np.isnan(r)}
    worst = sorted(known, key=lambda name: -abs(known[name]))[:OFFENDERS]
    return {name: known[name] for name in worst}
