"""A running P(valid): a classifier of prefixes, judged out of fold at every length of them.

A prefix has the label of the finished answer it is the beginning of. Prefixes are cut at numbers
of tokens, never at shares of the answer: how long an answer will be is not known while it is
written, and a cut at half of it would tell.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone

from validator.classifier import ValidityClassifier, save_artifact
from validator.columns import Column
from validator.errors import FeatureMismatchError
from validator.families import learned_names, read_by_artifact
from validator.metrics import Interval, clustered_interval
from validator.metrics.bootstrap import Resampler, auroc_statistic
from validator.plugins.monitor.score import ROWS
from validator.splits import problem_folds
from validator.training.fit import prompt_hash
from validator.types import FeatureMatrix, Progress

__all__ = ["PREFIX_TOKENS", "PrefixFit", "fit_prefix_classifier", "prefix_margins", "prefix_trace",
           "prefixes_auroc"]

PREFIX_TOKENS = (4, 6, 8, 10, 12, 16, 20, 24, 28, 32, 48, 64, 96, 128, 192, 256, 384, 512)
"""Where completions are cut unless it is said otherwise."""
FEWEST = 20
"""Prefixes of one length, of either label, below which they get no AUROC of their own."""
_PREFIX = re.compile(r"#token\d+$")

Array = NDArray[np.float64]


@dataclass(frozen=True)
class PrefixFit:
    """What :func:`fit_prefix_classifier` did."""

    artifact: Path
    margins: Array
    """(N,) out-of-fold log-odds of valid, of each prefix."""
    auroc: Mapping[int, Mapping[str, Interval]]
    """Tokens -> of ``learned``, ``mean_logprob``: AUROC among the completions that have more."""


def fit_prefix_classifier(
    features: FeatureMatrix,
    output: str | Path,
    *,
    classifier: ValidityClassifier | None = None,
    n_splits: int = 5,
    seed: int = 0,
    metadata: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> PrefixFit:
    """Judge a classifier of prefixes under problem-grouped folds, then fit it on all and save it.

    Each completion weighs the same, however many prefixes it has.

    Args:
        features: of ``extractor.transform_prefixes`` on labelled traces.
        output: folder of the artifact, for :class:`ValidityMonitor`.
        classifier: unfitted (default: boosted trees).
        n_splits: folds of the judgement.
        seed: of the folds and the bootstrap.
        metadata: further JSON values for the manifest, e.g. the command.
        progress: called with (done, total) fits.

    Raises:
        LabelError: unlabelled traces, one class only, or too few problems.
        FeatureMismatchError: no row is a prefix.
    """
    if not any(_PREFIX.search(i) for i in features.trace_ids):
        raise FeatureMismatchError(
            "these are features of whole traces; extract them with transform_prefixes")
    model = ValidityClassifier("xgboost") if classifier is None else classifier

    def advance(done: int) -> None:
        if progress is not None:
            progress(done, n_splits + 1)

    margins = prefix_margins(features, model, n_splits=n_splits, seed=seed,
                             progress=lambda done, _: advance(done))
    names = learned_names(features.names)
    fitted = _fit(model, features.select(names), features)
    auroc = prefixes_auroc(features, margins, seed=seed)
    notes = {
        **(metadata or {}), "rows": ROWS,
        "prefix_tokens": sorted(set(features.lengths[:, 1].tolist())),
        "evaluation": {str(k): {name: dataclasses.asdict(found) for name, found in row.items()}
                       for k, row in auroc.items()},
        "training_problems": sorted(set(features.problem_ids.tolist())),
        "training_prompts": sorted({prompt_hash(t.prompt) for t in features.traces}),
    }
    path = save_artifact(output, fitted, read_by_artifact(features.provenance), names, notes)
    advance(n_splits + 1)
    return PrefixFit(path, margins, auroc)


def prefix_margins(
    features: FeatureMatrix, classifier: ValidityClassifier, *, n_splits: int = 5, seed: int = 0,
    progress: Progress | None = None,
) -> Array:
    """(N,) log-odds of valid of each prefix, by models that never saw its problem."""
    X = features.select(learned_names(features.names))
    margins = np.full(len(features), np.nan)
    folds = problem_folds(features.problem_ids, features.labels, n_splits, seed)
    for i, (train, test) in enumerate(folds):
        fitted = _fit(classifier, X[train], features.take(train))
        margins[test] = fitted.decision_function(X[test])
        if progress is not None:
            progress(i + 1, n_splits)
    return margins


def prefixes_auroc(
    features: FeatureMatrix, margins: Array, *, seed: int = 0
) -> dict[int, dict[str, Interval]]:
    """AUROC at each number of tokens, with 95% intervals over problems.

    Only completions that go on are compared: among them the number of tokens says nothing. Numbers
    of tokens with fewer than 20 of either label are left out.
    """
    likely = features.select([str(Column("mean_logprob"))])[:, 0].astype(np.float64)
    tokens, found = features.lengths[:, 1], dict[int, dict[str, Interval]]()
    going_on = np.array([bool(_PREFIX.search(i)) for i in features.trace_ids])
    for k in np.unique(tokens[going_on]):
        rows = np.flatnonzero(going_on & (tokens == k))
        y = features.labels[rows]
        if min(y.sum(), (1 - y).sum()) < FEWEST:
            continue
        resampler = Resampler(features.problem_ids[rows], seed=seed)
        found[int(k)] = {
            name: clustered_interval(auroc_statistic(y, scores[rows], resampler), resampler)
            for name, scores in (("learned", margins), ("mean_logprob", likely))}
    return found


def prefix_trace(row_id: str) -> str:
    """The id of the trace that a row of ``transform_prefixes`` belongs to."""
    return _PREFIX.sub("", row_id)


def _fit(
    classifier: ValidityClassifier, X: NDArray[np.float32], features: FeatureMatrix
) -> ValidityClassifier:
    _, index, counts = np.unique(
        _traces(features.trace_ids), return_inverse=True, return_counts=True)
    fitted: ValidityClassifier = clone(classifier).fit(
        X, features.labels, groups=features.problem_ids, sample_weight=1.0 / counts[index])
    return fitted


def _traces(ids: Sequence[str]) -> list[str]:
    return [prefix_trace(i) for i in ids]
