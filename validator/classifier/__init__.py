"""The learned score: features to P(valid), and a saved form that is checked before it is used."""

from __future__ import annotations

from validator.classifier.artifact import Artifact, load_artifact, save_artifact
from validator.classifier.estimator import ValidityClassifier
from validator.classifier.importance import FeatureImportance, shap_values, top_features

__all__ = [
    "Artifact",
    "FeatureImportance",
    "ValidityClassifier",
    "load_artifact",
    "save_artifact",
    "shap_values",
    "top_features",
]
