"""Best of N in one place: a model's samples, scored by what it left behind while drawing them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from validator.errors import FeatureMismatchError, ModelError, NoAttentionError, TraceError
from validator.features.encoding import EncodedTrace, encode_readable, encode_trace, max_positions
from validator.features.extractor import SpectralFeatureExtractor
from validator.features.generation import Decoded, decode, read_prompt
from validator.features.plan import ReadPlan, View
from validator.features.reading import TraceFeatures
from validator.features.rowset import RowSet
from validator.features.solvers import make_solver
from validator.plugins.rerank.choose import Rule, choose
from validator.plugins.rerank.stream import VALIDITY, Reranked, Reranker, make_validator
from validator.scoring import Validator
from validator.training.answers import AnswerStyle
from validator.training.decoding import Drawing, Sampling
from validator.types import FeatureMatrix, Trace

__all__ = ["Generation", "generate_best_of_n", "sample_and_read"]


@dataclass(frozen=True)
class Generation:
    """N samples of one prompt and their features."""

    traces: tuple[Trace, ...]
    """All of them, in the order drawn, ids ``<problem id>#0``, ``#1``, ...; one that ended at once
    has an empty completion. ``status`` is ``truncated`` where the token limit cut it off."""
    features: FeatureMatrix | None
    """Of those that have features, in the same order; None where none has."""
    unread: Mapping[str, str]
    """Trace id -> why it has no features; of all others there is a row."""
    reread: int
    """Samples that were read again, teacher-forced: those whose text, tokenised, is not the tokens
    drawn, so that features are always those of the text."""
    reason: str | None
    """Why nothing could be read while decoding; None where it could."""
    tokens: int
    """Drawn, those that ended a sample included."""


def sample_and_read(
    extractor: SpectralFeatureExtractor, prompt: str, sampling: Sampling,
    stop: Sequence[str] = (), *, problem_id: str = "prompt",
) -> Generation:
    """Sample N continuations of a prompt and read their features while they are decoded.

    The features are those of ``extractor.transform`` on the same texts, up to rounding. The prompt
    is read once; at most ``sampling.batch_size`` samples are decoded together. The extractor's
    store is used for samples that are read again, and for no others.

    Args:
        extractor: fitted, or it is fitted here; its model does both the writing and the reading.
        prompt: what is continued.
        sampling: how tokens are drawn.
        stop: strings that end a sample; not part of it.
        problem_id: of the traces.

    Raises:
        TraceError: a prompt without tokens.
        ContextLengthError: a prompt that leaves no room.
        NoAttentionError: the model has no attention that can be read at all.
    """
    if not hasattr(extractor, "model_"):
        extractor.fit()
    drawing = Drawing(extractor.model_, extractor.tokenizer_, sampling, stop)
    # A stand-in completion, so that the prompt's tokens are those a trace of it has.
    encoded = encode_trace(
        Trace(problem_id, problem_id, prompt, "."), extractor.tokenizer_, None)
    ids = encoded.ids[: encoded.prompt_length]
    drawing.require_room(len(ids))
    sampler = _Samples(extractor, drawing, ids, Trace("", problem_id, prompt, ""))
    return sampler.draw()


class _Samples:
    """Draws the samples of one prompt group by group and collects their features."""

    def __init__(self, extractor: SpectralFeatureExtractor, drawing: Drawing,
                 ids: tuple[int, ...], blank: Trace) -> None:
        self.extractor, self.drawing, self.ids, self.blank = extractor, drawing, ids, blank
        solver = make_solver(extractor.solver, extractor.random_state)
        self.plan: ReadPlan = dataclasses.replace(extractor.plan_, solver=solver)
        self.read: list[tuple[EncodedTrace, TraceFeatures]] = []
        self.traces: list[Trace] = []
        self.todo: list[Trace] = []
        """To be read again."""
        self.unread: dict[str, str] = {}
        self.reason: str | None = None
        self.tokens = 0

    def draw(self) -> Generation:
        n, size = self.drawing.sampling.n, self.drawing.sampling.batch_size
        seed = self.drawing.seed([self.ids])
        try:
            prompt = read_prompt(self.extractor.model_, self.ids, self.plan)
        except NoAttentionError as error:
            prompt, self.reason = None, str(error)
        for group, first in enumerate(range(0, n, size)):
            count = min(size, n - first)
            if prompt is None:
                tokens = self.drawing.draw(self._prompts(count), None, seed + group)
                self._take(tokens, None)
                continue
            decoded = decode(self.extractor.model_, prompt, self.plan, count,
                             partial(self.drawing.draw, seed=seed + group))
            self._take(decoded.tokens, decoded)
        return self._result()

    def _prompts(self, count: int) -> torch.Tensor:
        return torch.tensor([self.ids] * count, device=self.extractor.model_.device)

    def _take(self, tokens: torch.Tensor, decoded: Decoded | None) -> None:
        """The texts of drawn tokens; their features, or their place among those to read again."""
        drawn = [self.drawing.continuation(row) for row in tokens]
        self.tokens += sum(d.tokens for d in drawn)
        first = len(self.traces)
        own = [
            dataclasses.replace(
                self.blank, id=f"{self.blank.problem_id}#{first + k}", completion=d.text,
                source=self.extractor.provenance_.model,
                status="ok" if d.finished else "truncated")
            for k, d in enumerate(drawn)]
        self.traces += own
        model = self.extractor.model_
        encoded, empty = encode_readable(
            own, self.extractor.tokenizer_, max_positions(model.config))
        self.unread |= empty
        row = {trace.id: k for k, trace in enumerate(own)}
        same = {row[e.trace.id]: e for e in encoded if self._drew(tokens[row[e.trace.id]], e)}
        found = {} if decoded is None else self._read(decoded, same)
        self.read += [(same[k], features) for k, features in sorted(found.items())]
        self.todo += [e.trace for e in encoded if row[e.trace.id] not in found]

    def _drew(self, tokens: torch.Tensor, encoded: EncodedTrace) -> bool:
        """Whether the text, tokenised, begins the tokens that were drawn."""
        wanted = encoded.ids[len(self.ids) :]
        return encoded.ids[: len(self.ids)] == self.ids and (
            tuple(tokens[: len(wanted)].tolist()) == wanted)

    def _read(
        self, decoded: Decoded, traces: Mapping[int, EncodedTrace]
    ) -> dict[int, TraceFeatures]:
        try:
            return decoded.read(traces, self.extractor.max_batch_tokens)
        except ModelError as error:  # reading them again says which sample it is
            self.reason = str(error)
            return {}

    def _result(self) -> Generation:
        parts = [self._decoded_features()] if self.read else []
        again = list(self.todo)
        parts += self._read_again()
        return Generation(
            tuple(self.traces), _joined(parts, self.traces), self.unread, len(again),
            self.reason, self.tokens)

    def _decoded_features(self) -> FeatureMatrix:
        views = [View.of(encoded, by_step=False) for encoded, _ in self.read]
        rows = RowSet(views, None)
        for own, (_, features) in zip(views, self.read, strict=True):
            rows.add(own, [features])
        return rows.matrix(self.extractor.provenance_)

    def _read_again(self) -> list[FeatureMatrix]:
        if not self.todo:
            return []
        try:
            return [self.extractor.transform(self.todo)]
        except NoAttentionError:
            raise
        except (TraceError, ModelError):
            pass
        parts = []
        for trace in self.todo:
            try:
                parts.append(self.extractor.transform([trace]))
            except (TraceError, ModelError) as error:
                self.unread[trace.id] = str(error)
        return parts


def _joined(parts: Sequence[FeatureMatrix], traces: Sequence[Trace]) -> FeatureMatrix | None:
    """Rows of several matrices in the order of the traces."""
    if not parts:
        return None
    if any(p.names != parts[0].names for p in parts):
        raise FeatureMismatchError("samples of one prompt have different columns")
    whole = FeatureMatrix(
        np.concatenate([p.values for p in parts]), parts[0].names,
        tuple(t for p in parts for t in p.traces), np.concatenate([p.lengths for p in parts]),
        parts[0].provenance, {k: v for p in parts for k, v in p.nan_reasons.items()})
    place = {trace.id: i for i, trace in enumerate(traces)}
    return whole.take(np.argsort([place[i] for i in whole.trace_ids], kind="stable"))


def generate_best_of_n(
    model: Any, prompt: str, n: int = 8, *, artifact: str | Path | None = None,
    rule: Rule = "best", score: str = VALIDITY, keep: float = 0.5, k: int = 4,
    temperature: float = 0.8, top_p: float = 1.0, max_new_tokens: int = 256,
    stop: Sequence[str] = (), seed: int = 0, batch_size: int = 64,
    answer_style: AnswerStyle = "math", problem_id: str = "prompt",
) -> Reranked:
    """Sample n continuations of a prompt, score them without a second pass, choose one.

    The scores are those of ``Validator.score`` on the same texts, up to rounding; see
    :func:`sample_and_read`. A sample that ended at once, or cannot be scored, ranks last and says
    why.

    Args:
        model: known name, hub id, folder, loaded ``(model, tokenizer)`` pair or ``LoadedModel``;
            or a :class:`validator.scoring.Validator`, so that the model is loaded once.
        prompt: what is continued; nothing is inserted.
        n: samples.
        artifact: folder of a classifier trained on this model (default: the one that ships for
            it); not with a validator.
        rule: ``best``, ``majority``, ``weighted``, ``filtered`` or ``top-k``.
        score: ``validity``, or the name of a label-free score, e.g. ``mean_logprob``.
        keep: share that ``filtered`` keeps.
        k: how many vote under ``top-k``.
        temperature: 0 is greedy, which makes all samples the same.
        top_p: of nucleus sampling.
        max_new_tokens: of each sample.
        stop: strings that end a sample; not part of it.
        seed: of the drawing.
        batch_size: most samples decoded together.
        answer_style: how final answers are read from the texts.
        problem_id: of the candidates, whose ids are ``<problem id>#0``, ``#1``, ...

    Raises:
        ParameterError: settings out of range, or no classifier and none asked to do without.
        FeatureMismatchError: an artifact of another model, of steps, or no such score.
        ContextLengthError: a prompt that leaves no room.
        NoAttentionError: the model has no attention that can be read.
    """
    sampling = Sampling(n, temperature, top_p, max_new_tokens, seed, batch_size)
    choose([0.0], [None], rule, keep=keep, k=k)  # settings are refused before sampling
    validator = _validator(model, artifact, score)
    reranker = Reranker(validator, rule, score, keep, k, answer_style)
    drawn = sample_and_read(validator.extractor, prompt, sampling, stop, problem_id=problem_id)
    found = [] if drawn.features is None else validator.score_features(drawn.features)
    scores = {s.trace_id: s for s in found}
    own = tuple(
        reranker.candidate(t, scores.get(t.id), drawn.unread.get(t.id), {})
        for t in drawn.traces)
    choice = choose([c.score for c in own], [c.answer for c in own], rule, keep=keep, k=k)
    return Reranked(
        problem_id, prompt, drawn.traces[choice.index].completion, own, choice, rule)


def _validator(model: Any, artifact: str | Path | None, score: str) -> Validator:
    """A prepared validator that can give the score from features of whole traces."""
    if isinstance(model, Validator) and artifact is not None:
        raise FeatureMismatchError("a validator brings its own classifier; give no artifact")
    found = model if isinstance(model, Validator) else make_validator(model, artifact, score)
    if found.of_steps:
        raise FeatureMismatchError(
            "this artifact scores steps, and samples have none; give one trained on whole traces")
    if score == VALIDITY and found.classifier is None:
        raise FeatureMismatchError(
            "there is no classifier, so no P(valid) to rank by; give an artifact, or the name of a "
            "label-free score, e.g. score='mean_logprob'")
    return found.prepare()
