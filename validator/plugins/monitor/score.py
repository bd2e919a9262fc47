"""One number from the columns of a completion so far: learned on prefixes, or label-free."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from validator.classifier import Artifact
from validator.errors import FeatureMismatchError, ParameterError
from validator.unsupervised import PRESETS, DiagnosticScore

__all__ = ["LabelFreeScore", "LearnedScore", "RunningScore", "label_free_score",
           "shipped_prefix_artifact"]

ROWS = "prefixes"
"""What ``metadata["rows"]`` of an artifact says that was trained on prefixes."""


class RunningScore(Protocol):
    """Columns of one prefix -> its score; higher is more valid."""

    def score(self, values: NDArray[np.float64], names: tuple[str, ...]) -> float:
        """Values (F,) and their names."""


class LearnedScore:
    """P(valid so far) by a classifier trained on prefixes.

    Args:
        artifact: written by :func:`validator.plugins.monitor.fit_prefix_classifier`.

    Raises:
        FeatureMismatchError: an artifact that was trained on whole traces or on steps.
    """

    def __init__(self, artifact: Artifact) -> None:
        rows = artifact.manifest.get("metadata", {}).get("rows", "traces")
        if rows != ROWS:
            raise FeatureMismatchError(
                f"this artifact was trained on {rows}, not on prefixes: its P(valid) of a "
                "completion that is still being written means nothing; fit one with "
                "fit_prefix_classifier")
        self.artifact = artifact
        self._names: tuple[str, ...] | None = None
        self._index = np.empty(0, dtype=np.intp)

    def score(self, values: NDArray[np.float64], names: tuple[str, ...]) -> float:
        """P(valid) in (0, 1)."""
        if names is not self._names:
            where = {name: i for i, name in enumerate(names)}
            missing = [n for n in self.artifact.feature_names if n not in where]
            if missing:
                raise FeatureMismatchError(
                    f"{len(missing)} columns of the artifact are not followed, first: "
                    f"{missing[0]!r}")
            self._index = np.array([where[n] for n in self.artifact.feature_names])
            self._names = names
        row = values.astype(np.float32)[None, self._index]
        return float(self.artifact.classifier.predict_proba(row)[0, 1])


class LabelFreeScore:
    """One stated diagnostic with its stated direction; nothing is fitted."""

    def __init__(self, diagnostic: DiagnosticScore) -> None:
        self.diagnostic = diagnostic
        self._names: tuple[str, ...] | None = None
        self._index: list[NDArray[np.intp]] = []

    def score(self, values: NDArray[np.float64], names: tuple[str, ...]) -> float:
        """As :meth:`validator.unsupervised.DiagnosticScore.score`."""
        if names is not self._names:
            self._index = [np.array(i) for i in self.diagnostic.columns(names).values()]
            self._names = names
        row = values.astype(np.float32).astype(np.float64)
        return float(self.diagnostic.direction * np.mean([row[i].mean() for i in self._index]))


def label_free_score(name: str | DiagnosticScore) -> LabelFreeScore:
    """A score by the name of a preset, or of a diagnostic of one's own.

    Raises:
        ParameterError: there is no such preset.
    """
    if isinstance(name, DiagnosticScore):
        return LabelFreeScore(name)
    if name not in PRESETS:
        raise ParameterError(f"unknown label-free score {name!r}; known: {', '.join(PRESETS)}")
    return LabelFreeScore(PRESETS[name])


def shipped_prefix_artifact(model: str) -> Path | None:
    """The folder of the prefix classifier that ships for a known model, or None."""
    from importlib.resources import files

    shipped = Path(str(files("validator.data").joinpath("prefix_artifacts")))
    return next((f for f in shipped.iterdir() if f.is_dir() and f.name == model), None)
