"""Out-of-fold P(step valid), problem by problem, of spectra and of everything they must beat."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone

from validator.audit import SurfaceBaseline
from validator.classifier import ValidityClassifier
from validator.columns import Column
from validator.errors import ParameterError, ScoreError
from validator.families import column_families
from validator.metrics.localization import NO_ERROR, best_threshold
from validator.splits import problem_folds
from validator.training.evaluate import bounded, stack
from validator.training.principal import PrincipalAxes
from validator.training.step_table import StepTable
from validator.types import FeatureMatrix, Progress

__all__ = ["RULES", "SPECTRAL", "STEP_FAMILIES", "CrossValidatedSteps", "cross_validate_steps"]

Rows = NDArray[np.int64]
Scores = NDArray[np.float64]

STEP_FAMILIES = {
    "position": "position of the step",
    "length": "step length",
    "logprob": "step log-prob (mean, min)",
    "position+length+logprob": "position + length + log-prob",
    "surface": "surface (step, text before)",
    "baselines": "all four baselines",
    "probe": "hidden states",
    "baselines+probe": "all four + hidden states",
    "spectra": "attention spectra",
    "learned": "spectra + token signals",
    "baselines+learned": "all four + spectra",
    "baselines+probe+learned": "all four + states + spectra",
}
"""Every P(step valid) and its name in tables; those of hidden states only where columns hold
them."""
SPECTRAL = ("spectra", "learned", "baselines+learned", "baselines+probe+learned")
"""The families that read a spectrum; all others are baselines."""
RULES = {"lowest_logprob": "lowest mean log-prob", "longest": "longest step"}
"""Scores that nothing is fitted to but a threshold: they only locate errors."""

_SIMPLE = ("position", "length", "logprob")
_SURFACE = ("step text", "text before")
_STACKS: Mapping[str, tuple[str, ...]] = {
    **{key: (key,) for key in _SIMPLE},
    "position+length+logprob": _SIMPLE,
    "baselines": (*_SIMPLE, *_SURFACE),
    "baselines+probe": (*_SIMPLE, *_SURFACE, "probe"),
    "baselines+learned": (*_SIMPLE, *_SURFACE, "learned"),
    "baselines+probe+learned": (*_SIMPLE, *_SURFACE, "probe", "learned"),
}
"""What each logistic regression reads: columns as they are, inner out-of-fold scores of models."""

TEXT_BEFORE = 200
"""Characters before the step that the surface baseline reads, as a text of their own. One text of
the step and all before it ranks steps worse (AUROC 0.71 against 0.80 on PRMBench, 0.82 against 0.84
on BIG-Bench Mistake) and takes several times as long."""


@dataclass(frozen=True)
class CrossValidatedSteps:
    """Out-of-fold scores: every step was scored by models that never saw its problem."""

    table: StepTable
    scores: Mapping[str, Scores]
    """Key of :data:`STEP_FAMILIES` -> (N,) log-odds of valid, unlabelled steps included; key of
    :data:`RULES` -> (N,) raw score. NaN where the step's problem has no labelled step."""
    thresholds: Mapping[str, Scores]
    """Key -> (n_splits,) the score below which a step counts as wrong, chosen on each fold's
    training problems; NaN where no training trace has a known first error."""
    usual_error: NDArray[np.int64]
    """(n_splits,) the most frequent first error of each fold's training traces; NO_ERROR if none
    has one."""
    fold: NDArray[np.int64]
    """(N,) the fold in which the step was scored, -1 where it was not."""
    n_splits: int
    seed: int
    components: int | None
    """Principal axes the classifier read in place of the columns."""
    classifier: Mapping[str, Any] = field(default_factory=dict)
    """Parameters of the classifier of the spectral families."""

    def probability(self, key: str) -> Scores:
        """(N,) P(step valid) of a family, NaN where it was not scored; a rule has no log-odds."""
        if key not in STEP_FAMILIES or key not in self.scores:
            raise ParameterError(f"{key!r} is no P(step valid); there are "
                                 f"{', '.join(k for k in STEP_FAMILIES if k in self.scores)}")
        chances = np.full(self.fold.size, np.nan)
        scored = self.fold >= 0
        chances[scored] = np.exp(-np.logaddexp(0, -self.scores[key][scored]))
        return chances


def cross_validate_steps(
    features: FeatureMatrix,
    classifier: ValidityClassifier,
    *,
    n_splits: int = 5,
    n_inner: int = 3,
    seed: int = 0,
    components: int | None = None,
    progress: Progress | None = None,
) -> CrossValidatedSteps:
    """Out-of-fold scores of every family under problem-grouped folds.

    Models are fitted to labelled steps only; they score all steps of the held-out problems, since
    who looks for the first error does not know where the labels end. Stacks are logistic
    regressions on inner out-of-fold scores of their parts, and thresholds are chosen on them: the
    outer test problems touch neither.

    Args:
        features: one row per step, as ``transform_steps`` gives them; at least ``n_splits``
            problems with labelled steps.
        classifier: unfitted; cloned for every fit of the spectral families and of the probe.
        n_splits: outer folds.
        n_inner: folds inside each training part.
        seed: of the folds.
        components: let the classifier read so many principal axes in place of the columns
            (:class:`PrincipalAxes`, a power of 2); None for all columns. Not for trees.
        progress: called with (done, total) folds.

    Raises:
        FeatureMismatchError: rows that are no steps, or lack the log-probability columns.
        LabelError: one class only, or too few problems.
        ParameterError: a number of components that cannot be.
    """
    if components is not None and classifier.kind == "xgboost":
        raise ParameterError("components are mixtures of columns, which trees cannot cut well; "
                             "leave them out for xgboost")
    table = StepTable.of(features)
    blocks, models = _blocks(table), _models(table, classifier, components)
    keys = [k for k in STEP_FAMILIES if {*_STACKS.get(k, (k,))} <= {*blocks, *models, "surface"}]
    keys += RULES
    scores = {key: np.full(len(table.labels), np.nan) for key in keys}
    thresholds: dict[str, list[float]] = {key: [] for key in keys}
    fold, usual = np.full(len(table.labels), -1), []
    for i, (train, labelled) in enumerate(_folds(table, table.labelled, n_splits, seed)):
        test = table.rows_of_problems(table.problem_ids[labelled])
        inner, judged = _folds(table, train, n_inner, seed), _judged(table, train)
        for key, (inside, outside) in _fold_scores(
                keys, blocks, models, table.labels, train, test, inner).items():
            scores[key][test] = outside
            thresholds[key].append(_threshold(table, judged, train, inside))
        fold[test] = i
        usual.append(_most_frequent(table.first_errors[judged]))
        if progress is not None:
            progress(i + 1, n_splits)
    return CrossValidatedSteps(
        table, scores, {key: np.array(values) for key, values in thresholds.items()},
        np.array(usual, dtype=np.int64), fold, n_splits, seed, components,
        classifier.get_params())


Model = Callable[[Rows, Rows], Scores]
"""(train rows, test rows) -> scores of the test rows by a model fitted on the training rows."""


def _folds(table: StepTable, rows: Rows, n_splits: int, seed: int) -> list[tuple[Rows, Rows]]:
    folds = problem_folds(table.problem_ids[rows], table.labels[rows], n_splits, seed)
    return [(rows[train], rows[test]) for train, test in folds]


def _blocks(table: StepTable) -> dict[str, NDArray[np.float64]]:
    """The columns that need no model: (N, 3) position, (N, 1) length, (N, 2) log-prob."""
    read = table.features.select([str(Column(b)) for b in ("mean_logprob", "min_logprob")])
    bad = np.flatnonzero(~np.isfinite(read).all(axis=1))
    if bad.size:
        raise ScoreError(f"{bad.size} steps have no finite log-probability, first: "
                         f"{table.features.traces[bad[0]].id!r}; extract them again")
    return {
        "position": table.positions(),
        "length": table.features.lengths[:, 1:].astype(np.float64),
        "logprob": read.astype(np.float64),
    }


def _models(
    table: StepTable, classifier: ValidityClassifier, components: int | None
) -> dict[str, Model]:
    y, traces = table.labels, table.features.traces
    families = column_families(table.features.names)

    def surface(texts: Sequence[str]) -> Model:
        def model(train: Rows, test: Rows) -> Scores:
            fitted = SurfaceBaseline().fit([texts[i] for i in train], y[train])
            return fitted.decision_function([texts[i] for i in test])

        return model

    def spectral(family: str) -> Model:
        X = table.features.values[:, families[family]]

        def model(train: Rows, test: Rows) -> Scores:
            below, above = X[train], X[test]
            if components is not None:
                axes = PrincipalAxes(components).fit(below)
                below, above = axes.transform(below), axes.transform(above)
            fitted = clone(classifier).fit(below, y[train], groups=table.problem_ids[train])
            return np.asarray(fitted.decision_function(above), dtype=np.float64)

        return model

    models = {"step text": surface([t.completion for t in traces]),
              "text before": surface([t.prompt[-TEXT_BEFORE:] for t in traces])}
    used = [key for key in FITTED if families[key].size]
    return models | {key: spectral(key) for key in used}


FITTED = ("spectra", "learned", "probe")
"""Scores of the classifier; the log-odds of two texts may rightly be large."""


def _fold_scores(
    keys: Sequence[str], blocks: Mapping[str, NDArray[np.float64]], models: Mapping[str, Model],
    y: NDArray[np.int64], train: Rows, test: Rows, inner: Sequence[tuple[Rows, Rows]],
) -> dict[str, tuple[Scores, Scores]]:
    """Key -> scores of the training rows by models of the other inner folds, and of the test rows.

    A stack's training scores are its own fit: it has ten coefficients at most.
    """
    above = {key: b[test] for key, b in blocks.items()}
    below = {key: b[train] for key, b in blocks.items()}
    for key, model in models.items():
        held = np.full(len(y), np.nan)
        for fit, held_out in inner:
            held[held_out] = model(fit, held_out)
        below[key], above[key] = held[train, None], model(train, test)[:, None]
    found = {}
    for key in keys:
        if key in _STACKS:
            both = [np.hstack([bounded(side[c]) if c in FITTED else side[c]
                               for c in _STACKS[key]]) for side in (below, above)]
            joint = stack(both[0], y[train], np.vstack(both))
            found[key] = joint[: len(train)], joint[len(train):]
        else:
            found[key] = _plain(key, below), _plain(key, above)
    return found


def _plain(key: str, columns: Mapping[str, NDArray[np.float64]]) -> Scores:
    """A score that no stack is fitted for; the two texts' log-odds of one label add."""
    if key == "surface":
        return np.asarray(columns["step text"] + columns["text before"])[:, 0]
    if key in RULES:
        return columns["logprob"][:, 0] if key == "lowest_logprob" else -columns["length"][:, 0]
    return columns[key][:, 0]


def _judged(table: StepTable, train: Rows) -> NDArray[np.int64]:
    """The traces among the training rows whose first error is known."""
    return np.intersect1d(np.unique(table.trace[train]), table.judged)


def _threshold(
    table: StepTable, judged: NDArray[np.int64], train: Rows, inside: Scores
) -> float:
    if not judged.size:
        return float("nan")
    scores = np.full(len(table.labels), np.nan)
    scores[train] = inside
    return best_threshold([scores[table.rows[m]] for m in judged], table.first_errors[judged])


def _most_frequent(truth: NDArray[np.int64]) -> int:
    errors = truth[truth >= 0]
    return int(np.bincount(errors).argmax()) if errors.size else NO_ERROR
