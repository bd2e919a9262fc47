"""ValidityMonitor: P(valid so far) of what a model writes, while it writes it.

``generate`` is left as it is. The monitor is one of its stopping criteria, which is how it learns
the tokens that were drawn, and while it is attached it is shown what each attention call was given.
The model computes with its usual kernel, so the tokens are those it would have drawn anyway.

A token's attention row is there once the token has been fed, one step after it was drawn: scores
are about the tokens that have been fed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import StoppingCriteria

from validator.classifier import load_artifact
from validator.columns import BASELINES
from validator.errors import NoAttentionError, ParameterError
from validator.features.extractor import SpectralFeatureExtractor
from validator.features.featureset import FeatureSet
from validator.features.plan import ReadPlan
from validator.features.spectra import Solver
from validator.models.loading import LoadedModel, load_model
from validator.plugins.monitor.describe import Describer, require_followable
from validator.plugins.monitor.events import Anomaly, StepSeen, TokenSeen
from validator.plugins.monitor.following import Following
from validator.plugins.monitor.running import RunningRows
from validator.plugins.monitor.score import (
    LearnedScore,
    RunningScore,
    label_free_score,
    shipped_prefix_artifact,
)
from validator.plugins.monitor.written import Written
from validator.scoring import Validator
from validator.unsupervised import DiagnosticScore

__all__ = ["ValidityMonitor"]


class ValidityMonitor(StoppingCriteria):  # type: ignore[misc]
    """Follows ``model.generate`` token by token.

    Args:
        model: a known name, hub id, folder, loaded ``(model, tokenizer)`` pair or ``LoadedModel``.
        artifact: folder of :func:`fit_prefix_classifier` (default: the one that ships for the
            model, if any does); not with ``score``.
        score: a label-free score in its place: the name of a preset of
            :data:`validator.unsupervised.PRESETS`, e.g. ``mean_logprob``, or a ``DiagnosticScore``.
        feature_set: without an artifact, which columns are followed; with one, the file of a set of
            one's own.
        layers: without an artifact, true indices of the layers that are followed; None for all.
        heads: without an artifact, heads that are followed; None for all.
        solver: of symmetric graphs, where the feature set has any: ``exact`` or ``lanczos``.
        graph_every: tokens between two decompositions of symmetric graphs.
        score_every: tokens between two scores.
        min_tokens: no score is formed of fewer.
        anomaly_below: a score below it is an anomaly; None for none.
        stop_on_anomaly: stop the sequence then.
        step_end: text that ends a step.
        on_token: called with :class:`TokenSeen` for each token.
        on_step: called with :class:`StepSeen` at each end of a step.
        on_anomaly: called with :class:`Anomaly`, once for each sequence.

    Attributes:
        sequences_: the sequences of the last ``generate``.
        due: in the place of ``score_every``, whether to score so many tokens, given the token that
            was drawn after them; or None.
        model_, tokenizer_: once :meth:`prepare` has been called.
    """

    def __init__(
        self,
        model: Any = "smollm2-135m-instruct",
        *,
        artifact: str | Path | None = None,
        score: str | DiagnosticScore | None = None,
        feature_set: str | Path | FeatureSet | None = None,
        layers: Sequence[int] | None = None,
        heads: Sequence[int] | None = None,
        solver: str | Solver = "exact",
        graph_every: int = 16,
        score_every: int = 1,
        min_tokens: int = 4,
        anomaly_below: float | None = None,
        stop_on_anomaly: bool = False,
        step_end: str = "\n",
        on_token: Callable[[TokenSeen], object] | None = None,
        on_step: Callable[[StepSeen], object] | None = None,
        on_anomaly: Callable[[Anomaly], object] | None = None,
    ) -> None:
        self.model, self.artifact, self.score = model, artifact, score
        self.feature_set, self.layers, self.heads = feature_set, layers, heads
        self.solver, self.graph_every, self.score_every = solver, graph_every, score_every
        self.min_tokens, self.anomaly_below = min_tokens, anomaly_below
        self.stop_on_anomaly, self.step_end = stop_on_anomaly, step_end
        self.on_token, self.on_step, self.on_anomaly = on_token, on_step, on_anomaly
        self.due: Callable[[int, int], bool] | None = None
        self.sequences_: list[Written] = []
        self._active: list[Written] = []
        self._following: Following | None = None

    def prepare(self) -> ValidityMonitor:
        """Load the model and the artifact, unless they are, and refuse what cannot be followed.

        Raises:
            ParameterError: settings out of range, or an artifact and a label-free score.
            FeatureMismatchError: an artifact of another model, or of no prefixes; columns that
                cannot be followed.
            NoAttentionError: the architecture does not use the attention interface.
        """
        if hasattr(self, "model_"):
            return self
        self._require_settings()
        loaded = load_model(self.model)
        extractor, scorer = self._extractor(loaded)
        require_followable(extractor.plan_.features)
        if not loaded.model._can_set_attn_implementation():
            raise NoAttentionError(
                f"attention of {type(loaded.model).__name__} cannot be followed while it decodes: "
                "it does not use the transformers attention interface")
        self.extractor_: SpectralFeatureExtractor = extractor
        self.plan_: ReadPlan = extractor.plan_
        self.scorer_: RunningScore | None = scorer
        self.model_: Any = loaded.model
        self.tokenizer_: Any = loaded.tokenizer
        self.ends_: frozenset[int] = _ends(loaded.model, loaded.tokenizer)
        return self

    @contextmanager
    def attached(self) -> Iterator[ValidityMonitor]:
        """While this is open, what the model writes is followed; the model is left as found.

        Pass the monitor to ``generate`` too: ``stopping_criteria=[monitor]``. What was followed
        before is forgotten.
        """
        self.prepare()
        self._following = Following(self.model_, self.plan_)
        self._describer = Describer(self.plan_, self.graph_every)
        self.sequences_, self._active = [], []
        with self._following.attached():
            yield self

    def __call__(self, input_ids: Tensor, scores: Any, **options: Any) -> Tensor:
        """Called by ``generate`` after each token that was drawn; (B,) True ends a sequence.

        Raises:
            ParameterError: the monitor is not attached.
            NoAttentionError: sequences were reordered, as beam search does, or more than one token
                was fed in a step.
        """
        following = self._require_attached()
        if not self.sequences_:
            self.sequences_ = [Written(i) for i in range(len(input_ids))]
            self._active = list(self.sequences_)
        following.drawn(input_ids)
        self._tell()
        for sequence, token in zip(self._active, input_ids[:, -1].tolist(), strict=True):
            sequence.ended |= token in self.ends_
        return torch.tensor([s.stopped for s in self._active], device=input_ids.device)

    def finish(self) -> None:
        """Feed the token that was drawn last, so that it is scored too; inside :meth:`attached`.

        Without this, a sequence that ends by its number of tokens is scored up to the last but
        one. One more forward pass.
        """
        following = self._require_attached()
        if any(s.live for s in self._active) and following.feed():
            self._tell()

    def columns(self, sequence: int = 0) -> tuple[NDArray[np.float64], tuple[str, ...]]:
        """Values (F,) and names of the columns of a sequence's tokens so far, baselines first.

        Raises ParameterError before a token has been fed.
        """
        following = self._following
        if following is None or following.count == 0:
            raise ParameterError("no token has been fed yet, so there are no columns")
        return self._describer.values(following.running, sequence, following.layers)

    def mean_logprob(self, sequence: int = 0) -> float | None:
        """Mean log-probability of a sequence's tokens so far, nats; None before one was fed."""
        following = self._following
        if following is None or following.count == 0:
            return None
        surprisal = following.running.signals[sequence, : following.count, 0]
        return -float(surprisal.double().mean())

    def keep(self, rows: Sequence[int]) -> None:
        """Follow only some of the sequences from here on, by their place in the batch."""
        index = list(rows)
        self._active = [self._active[i] for i in index]
        self._require_attached().keep(index)
        self._describer.keep(index)

    @property
    def cache(self) -> Any:
        """What the model returned in its last step, cut down to the sequences kept."""
        return self._require_attached().cache

    def _require_attached(self) -> Following:
        if self._following is None or not self._following.open:
            raise ParameterError(
                "the monitor is not attached: call generate inside `with monitor.attached():`")
        return self._following

    def _require_settings(self) -> None:
        for name in ("graph_every", "score_every", "min_tokens"):
            if getattr(self, name) < 1:
                raise ParameterError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.artifact is not None and self.score is not None:
            raise ParameterError("give an artifact or a label-free score, not both")

    def _extractor(
        self, loaded: LoadedModel
    ) -> tuple[SpectralFeatureExtractor, RunningScore | None]:
        artifact = self.artifact
        own = (self.score, self.feature_set, self.layers, self.heads)
        if artifact is None and all(x is None for x in own):
            artifact = shipped_prefix_artifact(loaded.name)
        if artifact is None:
            extractor = SpectralFeatureExtractor(
                loaded, feature_set=self.feature_set or "monitor", solver=self.solver,
                layers=self.layers, heads=self.heads).fit()
            return extractor, None if self.score is None else label_free_score(self.score)
        if isinstance(self.feature_set, FeatureSet):
            raise ParameterError("with an artifact, give the feature set as its YAML file")
        validator = Validator.load(artifact, model=loaded, feature_set=self.feature_set)
        return validator.prepare().extractor, LearnedScore(load_artifact(artifact))

    def _tell(self) -> None:
        """Of each sequence that goes on: the token that was fed last, if one was."""
        following = self._require_attached()
        for row, token in enumerate(following.fed()):
            sequence = self._active[row]
            if sequence.live:
                sequence.tokens.append(token)
                self._tell_token(row, sequence, following.running, following.last(row))

    def _due(self, t: int, drawn: int) -> bool:
        if self.due is not None:
            return self.due(t, drawn)
        return (t - self.min_tokens) % self.score_every == 0

    def _tell_token(
        self, row: int, sequence: Written, running: RunningRows, drawn: int
    ) -> None:
        t, values = running.count, None
        if self.scorer_ is not None and t >= self.min_tokens and self._due(t, drawn):
            values, _ = found = self.columns(row)
            sequence.scores[t] = self.scorer_.score(*found)
        if self.on_token is not None or self.on_step is not None:
            self._tell_text(sequence, t, running.signals[row, t - 1])
        if values is not None and self.anomaly_below is not None and not sequence.told and (
                sequence.scores[t] < self.anomaly_below):
            self._tell_anomaly(sequence, t, self.anomaly_below, values)

    def _tell_text(self, sequence: Written, t: int, signals: Tensor) -> None:
        piece = sequence.add_text(self._decode)
        if self.on_token is not None:
            surprisal, entropy = signals.tolist()
            self.on_token(TokenSeen(
                sequence.number, t - 1, sequence.tokens[-1], piece, surprisal, entropy,
                sequence.scores.get(t)))
        step = sequence.finished_step(self.step_end)
        if step is not None and self.on_step is not None:
            self.on_step(step)

    def _tell_anomaly(
        self, sequence: Written, t: int, threshold: float, values: NDArray[np.float64]
    ) -> None:
        sequence.told, sequence.stopped = True, self.stop_on_anomaly
        if self.on_anomaly is not None:
            self.on_anomaly(Anomaly(
                sequence.number, t - 1, sequence.scores[t], threshold,
                dict(zip(BASELINES, values[: len(BASELINES)].tolist(), strict=True)),
                self.stop_on_anomaly))

    def _decode(self, tokens: list[int]) -> str:
        return str(self.tokenizer_.decode(tokens, skip_special_tokens=True))


def _ends(model: Any, tokenizer: Any) -> frozenset[int]:
    """Tokens that end a sequence, and the one that fills it up afterwards."""
    found: set[int] = set()
    settings = (model.generation_config.eos_token_id, model.generation_config.pad_token_id,
                tokenizer.eos_token_id, tokenizer.pad_token_id)
    for ids in settings:
        if ids is not None:
            found |= set(ids) if isinstance(ids, Collection) else {ids}
    return frozenset(found)
