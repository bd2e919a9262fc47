"""A fixed set of traces as read by a model whose weights are changing.

A classifier is trained on what one model's attention looks like. The attention of that model after
some fine-tuning is another thing: a shift of the reader that nothing calibrated the classifier for.
It is applied to it here all the same, because a number that moves with training is what choosing a
checkpoint needs; :func:`as_read_by_base` is where that is done, and says what is still checked.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from validator.classifier import Artifact, load_artifact
from validator.errors import FeatureMismatchError, ParameterError, TraceError
from validator.families import learned_names
from validator.features.extractor import SpectralFeatureExtractor
from validator.metrics import auroc
from validator.models.loading import LoadedModel
from validator.scoring import Validator
from validator.training.fit import prompt_hash
from validator.types import FeatureMatrix, Progress, Trace
from validator.unsupervised import score_label_free

__all__ = ["Probe", "ProbeScores", "as_read_by_base"]

Array = NDArray[np.float64]
RELATIVE = "ensemble"
"""Ranks among the traces of the probe itself: their mean is 0.5 whatever the model."""
LENGTH = "completion_length"


def as_read_by_base(features: FeatureMatrix, artifact: Artifact) -> FeatureMatrix:
    """The features of a fine-tuned reader, under the name of the model its classifier knows.

    :class:`validator.Validator` refuses features of other weights than its classifier was trained
    on. This declares that the weights, and their precision, are others and that the classifier is
    to be applied all the same: P(valid) is then no probability that anything was calibrated for,
    only a number to compare checkpoints by.

    Args:
        features: of a model that was fine-tuned from the artifact's.
        artifact: what is to be applied to them.

    Raises:
        FeatureMismatchError: another feature set, version, solver, choice of layers or heads, or
            columns of a model with other layers or heads than the artifact's.
    """
    trained_on = artifact.provenance
    found = dataclasses.replace(features, provenance=dataclasses.replace(
        features.provenance, model=trained_on.model, revision=trained_on.revision,
        dtype=trained_on.dtype))
    trained_on.require_equal(found.provenance, "features for this artifact")
    own, known = learned_names(features.names), artifact.feature_names
    if set(own) != set(known):
        raise FeatureMismatchError(
            f"the artifact was trained on {len(known)} columns of {trained_on.model!r}, this model "
            f"has {len(own)} of which {len(set(own) & set(known))} are the same: it has other "
            "layers or heads, so it was not fine-tuned from that model. Train an artifact on this "
            "model's base, or go without one")
    return found


@dataclass(frozen=True, slots=True)
class ProbeScores:
    """What one model makes of the traces of a probe."""

    traces: tuple[Trace, ...]
    score: str
    """What :attr:`validity` is: ``learned``, or the name of a label-free score."""
    learned: Array | None
    """(N,) P(valid) under the shift of the reader; None without an artifact."""
    label_free: Mapping[str, Array]
    """name -> (N,), higher is more valid; NaN where it is undefined for a trace."""

    @property
    def validity(self) -> Array:
        """(N,) the score that checkpoints are chosen by."""
        if self.learned is not None and self.score == "learned":
            return self.learned
        return self.label_free[self.score]

    def means(self) -> dict[str, float]:
        """``validity`` and each label-free score, a mean over the traces that have it.

        With labels of both classes also ``validity_auroc``. Which traces have a score depends on
        their length alone, so it is the same traces for every checkpoint.
        """
        found = {"validity": _mean(self.validity)}
        found |= {name: _mean(values) for name, values in self.label_free.items()}
        labels = [t.label for t in self.traces if t.label is not None]
        whole = len(labels) == len(self.traces) and not np.isnan(self.validity).any()
        if whole and len(set(labels)) == 2:
            found["validity_auroc"] = float(auroc(labels, self.validity))
        return found

    def valid_nll(self) -> float | None:
        """Mean negative log-likelihood of the valid traces, nats a token; None if none is valid."""
        rows = [i for i, t in enumerate(self.traces) if t.label == 1]
        return -_mean(self.label_free["mean_logprob"][rows]) if rows else None


@dataclass
class Probe:
    """Traces, and how they are scored.

    Args:
        traces: labelled or not, ids distinct; labels only add ``validity_auroc``.
        artifact: folder of a classifier trained on the model that the fine-tune began with; None
            for label-free scores alone.
        score: what ``validity`` is: ``learned`` (the default with an artifact), or a label-free
            score's name (``mean_logprob`` by default without one).
        options: of :class:`validator.SpectralFeatureExtractor`, e.g. ``feature_set`` or
            ``layers`` without an artifact (which states its own), ``max_batch_tokens``.
    """

    traces: Sequence[Trace]
    artifact: str | Path | None = None
    score: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.traces:
            raise TraceError("a probe needs at least one trace")
        self._artifact = None if self.artifact is None else load_artifact(self.artifact)
        rows = "" if self._artifact is None else self._artifact.manifest.get(
            "metadata", {}).get("rows")
        if rows == "steps":
            raise ParameterError(
                f"{self.artifact} is a classifier of steps; a probe needs one of whole traces")
        if self.score == "learned" and self._artifact is None:
            raise ParameterError("score='learned' needs an artifact; pass one, or name a "
                                 "label-free score such as 'mean_logprob'")

    @property
    def chosen(self) -> str:
        """What ``validity`` is."""
        return self.score or ("mean_logprob" if self._artifact is None else "learned")

    @property
    def base(self) -> tuple[str, str] | None:
        """Name and revision of the model the artifact was trained on; None without one."""
        p = None if self._artifact is None else self._artifact.provenance
        return None if p is None else (p.model, p.revision)

    def seen(self) -> int:
        """How many traces are of problems that the artifact was trained on: its score of them is
        memory as well as judgement."""
        if self._artifact is None:
            return 0
        metadata = self._artifact.manifest.get("metadata", {})
        known = {*metadata.get("training_problems", ()), *metadata.get("training_prompts", ())}
        return sum(t.problem_id in known or prompt_hash(t.prompt) in known for t in self.traces)

    def read(
        self, model: Any, tokenizer: Any, traces: Sequence[Trace] | None = None, *,
        progress: Progress | None = None,
    ) -> ProbeScores:
        """Score the traces with a model, which is left as it was found.

        Args:
            model: a transformers causal LM, in whatever state training has it.
            tokenizer: its tokenizer.
            traces: in place of the probe's, e.g. the model's own answers.
            progress: called with (done, total) traces.

        Raises:
            FeatureMismatchError: as :func:`as_read_by_base`.
            ParameterError: a label-free score that the feature set has no columns for.
            TraceError: as :meth:`SpectralFeatureExtractor.transform`.
        """
        own = traces is not None
        loaded = LoadedModel(model, tokenizer, "model in training", "changing")
        scorer = self._scorer(loaded)
        with torch.no_grad():  # gradient checkpointing has the embeddings require gradients
            features = scorer.extractor.fit().transform(
                list(self.traces) if traces is None else list(traces), progress=progress)
        learned = None
        if self._artifact is not None:
            scored = scorer.score_features(as_read_by_base(features, self._artifact))
            learned = np.array([s.learned for s in scored], dtype=np.float64)
        free = {name: values for name, values in score_label_free(features).items()
                if name != RELATIVE and (own or name != LENGTH)}
        if self.chosen != "learned" and self.chosen not in free:
            raise ParameterError(
                f"no label-free score {self.chosen!r} in feature set "
                f"{features.provenance.feature_set!r}; there are: {', '.join(free)}")
        return ProbeScores(features.traces, self.chosen, learned, free)

    def mean_logprob(self, model: Any, tokenizer: Any, traces: Sequence[Trace]) -> float:
        """Mean over the traces of their tokens' mean log-probability, nats a token."""
        loaded = LoadedModel(model, tokenizer, "model in training", "changing")
        extractor = SpectralFeatureExtractor(loaded, feature_set="paper", layers=[0])
        features = extractor.fit_transform(list(traces))
        return float(features.select(["mean_logprob__baseline"]).mean())

    def _scorer(self, loaded: LoadedModel) -> Validator:
        if self.artifact is None:
            return Validator(SpectralFeatureExtractor(loaded, **self.options))
        return Validator.load(self.artifact, model=loaded, **self.options)


def _mean(values: Array) -> float:
    """Mean over the defined ones; NaN where none is."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")
