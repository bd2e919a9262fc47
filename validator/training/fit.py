"""One run: features -> out-of-sample numbers -> a classifier fitted on all of them -> artifact."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone

from validator.classifier import Artifact, ValidityClassifier, save_artifact
from validator.classifier.venn_abers import CALIBRATION
from validator.errors import FeatureMismatchError, LabelError
from validator.families import learned_names, read_by_artifact
from validator.training.comparison import Comparison, compare
from validator.training.evaluate import CrossValidated, cross_validate
from validator.types import FeatureMatrix, Progress

__all__ = ["TrainingRun", "artifact_scores", "prompt_hash", "train", "unseen_rows"]


@dataclass(frozen=True)
class TrainingRun:
    """What :func:`train` did."""

    artifact: Path
    cross_validated: CrossValidated
    comparison: Comparison


def train(
    features: FeatureMatrix,
    classifier: ValidityClassifier,
    output: Path,
    *,
    n_splits: int = 10,
    seed: int = 0,
    metadata: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> TrainingRun:
    """Judge a classifier under problem-grouped folds, then fit it on everything and save it.

    The artifact's manifest keeps the out-of-fold numbers, the ids of the training problems, so that
    a later evaluation can tell which traces it has seen, and the out-of-fold margins, from which
    P(valid) gets its Venn-Abers bounds.

    Args:
        features: labelled.
        classifier: unfitted.
        output: folder of the artifact.
        n_splits: folds of the judgement.
        seed: of the folds and the bootstrap.
        metadata: further JSON values for the manifest, e.g. the command.
        progress: called with (done, total) folds.

    Raises:
        LabelError: unlabelled traces, one class only, or too few problems.
    """
    oof = cross_validate(features, classifier, n_splits=n_splits, seed=seed, progress=progress)
    comparison = compare(oof, seed=seed)
    names = learned_names(features.names)
    fitted = clone(classifier).fit(
        features.select(names), features.labels, groups=features.problem_ids)
    notes = {
        **(metadata or {}),
        "evaluation": comparison.to_json(),
        "training_problems": sorted(set(features.problem_ids.tolist())),
        "training_prompts": sorted({prompt_hash(t.prompt) for t in features.traces}),
        CALIBRATION: {"margins": oof.scores["learned"].tolist(),
                      "labels": features.labels.tolist()},
    }
    save_artifact(output, fitted, read_by_artifact(features.provenance), names, notes)
    return TrainingRun(output, oof, comparison)


def prompt_hash(prompt: str) -> str:
    """What an artifact remembers of a prompt it was trained on."""
    return f"prompt-{hashlib.sha256(prompt.encode()).hexdigest()[:16]}"


def artifact_scores(artifact: Artifact, features: FeatureMatrix) -> NDArray[np.float64]:
    """(N,) log-odds of valid, for features of the artifact's own model and feature set.

    Raises:
        FeatureMismatchError: features of another model, revision, feature set or version.
    """
    artifact.provenance.require_equal(
        read_by_artifact(features.provenance), "features for this artifact")
    values = features.select(artifact.feature_names)
    return np.asarray(artifact.classifier.decision_function(values), dtype=np.float64)


def unseen_rows(artifact: Artifact, features: FeatureMatrix) -> NDArray[np.int64]:
    """Rows whose problem the artifact was not trained on: the only ones it may be judged by.

    A problem of another id with the very prompt of a training trace counts as seen.

    Raises:
        LabelError: there is none.
        FeatureMismatchError: the artifact does not say what it was trained on.
    """
    metadata = artifact.manifest.get("metadata", {})
    seen = metadata.get("training_problems")
    if seen is None:
        raise FeatureMismatchError("the artifact's manifest does not list its training problems")
    known = set(metadata.get("training_prompts", ()))
    asked = {t.problem_id for t in features.traces if known and prompt_hash(t.prompt) in known}
    rows = np.flatnonzero(
        ~np.isin(features.problem_ids, np.array([*seen, *asked], dtype=np.str_)))
    if not rows.size:
        raise LabelError(
            "the artifact was trained on every problem of these features, so nothing here is out "
            "of sample; give traces of other problems, or --cross-validate to refit it under "
            "problem-grouped folds")
    return rows
