"""The learned score: features to P(valid), and a saved form that is checked before it is used."""

from __future__ import annotations

from validator.classifier.artifact import Artifact, load_artifact, save_artifact
from validator.classifier.estimator import ValidityClassifier

__all__ = ["Artifact", "ValidityClassifier", "load_artifact", "save_artifact"]
