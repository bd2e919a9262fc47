"""Validator: a feature extractor and a classifier as one thing that scores traces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from validator.classifier import Artifact, ValidityClassifier, load_artifact, save_artifact
from validator.classifier.venn_abers import CALIBRATION, merged_probability, venn_abers
from validator.errors import ArtifactError, FeatureMismatchError, ModelError, TraceError
from validator.families import learned_names, read_by_artifact
from validator.features.encoding import encode_readable, max_positions
from validator.features.extractor import SpectralFeatureExtractor
from validator.types import FeatureMatrix, Progress, Provenance, Trace, ValidityScore
from validator.unsupervised import score_label_free

__all__ = ["Validator", "shipped_artifact"]

Scores = NDArray[np.float64] | None


class Validator:
    """Scores traces: label-free scores always, P(valid) where there is a classifier.

    Args:
        extractor: for the model and feature set the classifier was trained on.
        classifier: fitted on the extractor's columns, all of them or those that are neither
            baselines nor hidden states; None for label-free scores alone.
        calibration: ``margins`` and ``labels`` of traces the classifier was not fitted to, e.g.
            out of fold; P(valid) then comes with Venn-Abers bounds.
    """

    def __init__(
        self, extractor: SpectralFeatureExtractor, classifier: ValidityClassifier | None = None, *,
        calibration: Mapping[str, Sequence[float]] | None = None,
    ) -> None:
        self.extractor = extractor
        self.classifier = classifier
        self.calibration = calibration
        self._artifact: Artifact | None = None

    @classmethod
    def load(
        cls, path: str | Path, *, model: Any = None, feature_set: str | Path | None = None,
        solver: Any = None, **options: Any,
    ) -> Validator:
        """A validator from the folder of an artifact.

        Args:
            path: folder written by :meth:`save` or ``validator train``.
            model: in place of the name in the artifact, e.g. a folder or a loaded pair; its
                weights must be those the artifact was trained on.
            feature_set: the YAML file, where the artifact was trained on a set of one's own.
            solver: the solver, where the artifact was trained with settings of its own.
            options: of :class:`SpectralFeatureExtractor`, e.g. ``device``, ``store``.

        Raises:
            ArtifactError: damaged, or no artifact.
            FeatureMismatchError: a set of one's own without its file; or another model, revision,
                feature set or solver than the artifact's, found when the first trace is scored.
        """
        artifact = load_artifact(path)
        p = artifact.provenance
        if feature_set is None and "@" in p.feature_set:
            raise FeatureMismatchError(
                f"{path} was trained on a feature set of its user's own, {p.feature_set!r}; pass "
                "its YAML file as feature_set (`--features`)")
        extractor = SpectralFeatureExtractor(
            p.model if model is None else model,
            feature_set=p.feature_set if feature_set is None else feature_set,
            solver=p.solver.partition("(")[0] if solver is None else solver,
            layers=_parsed(p.layers), heads=_parsed(p.heads), dtype=p.dtype, **options)
        found = cls(extractor, artifact.classifier,
                    calibration=artifact.manifest.get("metadata", {}).get(CALIBRATION))
        found._artifact = artifact
        return found

    def save(self, path: str | Path, metadata: Mapping[str, Any] | None = None) -> Path:
        """Write the classifier and what it needs to the folder ``path``; returns it.

        Raises ArtifactError without a classifier, and before the extractor has read a trace.
        """
        if self.classifier is None:
            raise ArtifactError("a validator without a classifier has nothing to save; fit a "
                                "ValidityClassifier on the extractor's features first")
        if not hasattr(self.extractor, "feature_names_"):
            raise ArtifactError("the extractor has not read a trace yet, so its columns are not "
                                "known; call fit_transform first")
        names = self.classifier_columns(self.extractor.feature_names_)
        notes = dict(metadata or {})
        if self.calibration is not None:
            notes[CALIBRATION] = {k: list(v) for k, v in self.calibration.items()}
        provenance = read_by_artifact(self.extractor.provenance_)
        return save_artifact(path, self.classifier, provenance, names, notes)

    @property
    def trained_on(self) -> Provenance | None:
        """Model and feature set of the artifact this came from; None where it came from none."""
        return None if self._artifact is None else self._artifact.provenance

    @property
    def trained_on_problems(self) -> frozenset[str]:
        """Problem ids, and hashes of prompts, that the artifact says it was trained on."""
        metadata = {} if self._artifact is None else self._artifact.manifest.get("metadata", {})
        return frozenset(metadata.get("training_problems", ())) | frozenset(
            metadata.get("training_prompts", ()))

    @property
    def of_steps(self) -> bool:
        """Whether the classifier was trained on steps; it then says P(valid) of each."""
        metadata = {} if self._artifact is None else self._artifact.manifest.get("metadata", {})
        return metadata.get("rows") == "steps"

    def prepare(self) -> Validator:
        """Load the model, unless it is, and refuse one that the classifier was not trained on.

        :meth:`score` does so itself; this is for failing before hours of other work. Returns self.
        Raises FeatureMismatchError naming what differs.
        """
        if not hasattr(self.extractor, "model_"):
            self.extractor.fit()
            self._require_own_model()
        return self

    def score(
        self, traces: Sequence[Trace], *, progress: Progress | None = None
    ) -> list[ValidityScore]:
        """A score for each trace, in input order.

        A classifier of steps needs traces with steps: ``steps`` then holds P(valid) of each, and
        ``learned`` and ``interval`` are those of the step least likely to be valid.

        Raises:
            FeatureMismatchError: the model or feature set is not the classifier's.
            TraceError: as :meth:`SpectralFeatureExtractor.transform`.
        """
        self.prepare()
        if not self.of_steps:
            return self.score_features(self.extractor.transform(traces, progress=progress))
        steps = self.score_features(self.extractor.transform_steps(traces, progress=progress))
        features = self.extractor.transform(traces, progress=progress)
        return _of_traces(score_label_free(features), features, steps)

    def score_each(
        self, traces: Sequence[Trace], *, progress: Progress | None = None
    ) -> tuple[dict[str, ValidityScore], dict[str, str]]:
        """Scores by id of the traces that can be scored, and by id why each of the others cannot.

        For those who go on where one trace is empty, too long, or breaks the model.

        Raises:
            FeatureMismatchError: the model or feature set is not the classifier's.
            ModelError: none of several traces can be read.
        """
        self.prepare()
        encoded, reasons = encode_readable(
            traces, self.extractor.tokenizer_, max_positions(self.extractor.model_.config))
        todo = [e.trace for e in encoded]
        try:
            scores = self.score(todo, progress=progress) if todo else []
        except (TraceError, ModelError) as error:
            scores, failed = self._one_by_one(todo)
            if len(failed) == len(todo) > 1:
                raise error
            reasons |= failed
        return {s.trace_id: s for s in scores}, reasons

    def _one_by_one(
        self, traces: Sequence[Trace]
    ) -> tuple[list[ValidityScore], dict[str, str]]:
        scores: list[ValidityScore] = []
        reasons: dict[str, str] = {}
        for trace in traces:
            try:
                scores += self.score([trace])
            except (TraceError, ModelError) as error:
                reasons[trace.id] = str(error)
        return scores, reasons

    def score_features(self, features: FeatureMatrix) -> list[ValidityScore]:
        """The same for traces whose features are there already."""
        free = score_label_free(features)
        learned, bounds, margins = self._learned(features)
        return [
            ValidityScore(
                trace.id, {name: float(values[i]) for name, values in free.items()},
                None if learned is None else float(learned[i]),
                None if bounds is None else (float(bounds[i, 0]), float(bounds[i, 1])),
                nan_reason=features.nan_reasons.get(trace.id),
                margin=None if margins is None else float(margins[i]))
            for i, trace in enumerate(features.traces)
        ]

    def _learned(self, features: FeatureMatrix) -> tuple[Scores, Scores, Scores]:
        """P(valid) (N,), its bounds (N, 2) and margins (N,), each None where there is none."""
        if self.classifier is None:
            return None, None, None
        if self._artifact is not None:
            self._artifact.provenance.require_equal(
                read_by_artifact(features.provenance), "features for this artifact")
        X = features.select(self.classifier_columns(features.names))
        margins = np.asarray(self.classifier.decision_function(X), dtype=np.float64)
        if self.calibration is None:
            chances = np.asarray(self.classifier.predict_proba(X)[:, 1], dtype=np.float64)
            return chances, None, margins
        bounds = venn_abers(self.calibration["margins"], self.calibration["labels"], margins)
        return merged_probability(bounds), bounds, margins

    def classifier_columns(self, names: Sequence[str]) -> tuple[str, ...]:
        """Which of the extractor's columns the classifier reads, in its order.

        Raises FeatureMismatchError for a classifier that was fitted on another number of columns.
        """
        if self._artifact is not None:
            return self._artifact.feature_names
        assert self.classifier is not None
        count = self.classifier.n_features_in_
        for candidate in (tuple(names), learned_names(names)):
            if len(candidate) == count:
                return candidate
        raise FeatureMismatchError(
            f"the classifier was fitted on {count} columns; the extractor has {len(names)}, of "
            f"which {len(learned_names(names))} are neither baselines nor hidden states. Fit it on "
            "`features.values`, or on `features.select(learned_names(features.names))`.")

    def _require_own_model(self) -> None:
        if self._artifact is not None:
            self._artifact.provenance.require_equal(
                read_by_artifact(self.extractor.provenance_), "this artifact's model")


def _of_traces(
    free: Mapping[str, NDArray[np.float64]], features: FeatureMatrix,
    steps: Sequence[ValidityScore],
) -> list[ValidityScore]:
    """Scores of steps, in order -> one score per trace."""
    own = iter(steps)
    scores = []
    for i, trace in enumerate(features.traces):
        parts = [next(own) for _ in trace.steps or ()]
        chances = [p.learned for p in parts if p.learned is not None]
        worst = min(parts, key=lambda p: p.learned or 0.0)
        scores.append(ValidityScore(
            trace.id, {name: float(values[i]) for name, values in free.items()}, worst.learned,
            worst.interval, tuple(chances), worst.nan_reason, worst.margin))
    return scores


def shipped_artifact(model: str) -> Path | None:
    """The folder of the artifact that ships for a known model, or None."""
    # Compared by name: joined to the folder, the path of a model would lead out of it.
    shipped = Path(str(files("validator.data").joinpath("artifacts")))
    return next((f for f in shipped.iterdir() if f.is_dir() and f.name == model), None)


def _parsed(chosen: str) -> tuple[int, ...] | None:
    return None if chosen == "all" else tuple(int(i) for i in chosen.split(","))
