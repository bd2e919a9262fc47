"""A classifier of steps that was judged -> fitted to all labelled steps and saved."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sklearn.base import clone

from validator.classifier import ValidityClassifier, save_artifact
from validator.classifier.venn_abers import CALIBRATION
from validator.families import learned_names, read_by_artifact
from validator.training.step_comparison import StepComparison
from validator.training.steps import CrossValidatedSteps

__all__ = ["save_step_classifier"]


def save_step_classifier(
    output: Path,
    oof: CrossValidatedSteps,
    comparison: StepComparison,
    classifier: ValidityClassifier,
    metadata: Mapping[str, Any] | None = None,
) -> Path:
    """Fit to the learned columns of all labelled steps and write the artifact; returns its folder.

    The manifest says ``"rows": "steps"``, and keeps the out-of-fold numbers, the ids of the
    training problems and the out-of-fold margins, as :func:`validator.training.fit.train` does.
    Judged on principal axes, the classifier is fitted with as many exact components: the same
    model less the approximation, in one fit of N^3 operations.

    Args:
        output: folder of the artifact.
        oof: the judgement.
        comparison: its numbers.
        classifier: unfitted, the one that was judged.
        metadata: further JSON values for the manifest, e.g. the command.
    """
    table, rows = oof.table, oof.table.labelled
    features, problems = table.features, table.problem_ids[rows]
    names = learned_names(features.names)
    fitted = clone(classifier)
    if oof.components is not None:
        fitted.set_params(n_components=oof.components)
    fitted.fit(features.select(names)[rows], table.labels[rows], groups=problems)
    notes = {
        **(metadata or {}),
        "rows": "steps",
        "evaluation": comparison.to_json(),
        "training_problems": sorted(set(problems.tolist())),
        CALIBRATION: {"margins": oof.scores["learned"][rows].tolist(),
                      "labels": table.labels[rows].tolist()},
    }
    return save_artifact(output, fitted, read_by_artifact(features.provenance), names, notes)
