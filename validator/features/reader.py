"""One batch of traces through the model: forward pass, layer by layer reduction, columns."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers.cache_utils import DynamicLayer

from validator.features.attention import CapturedForward, attention_rows, captured_forward
from validator.features.describe import Block, block_names, graph_blocks, head_blocks
from validator.features.encoding import EncodedTrace
from validator.features.featureset import FeatureSet
from validator.features.reduction import LayerSums, join, reduce_rows
from validator.features.tokens import TokenScores, baselines, token_scores

__all__ = ["Prefix", "TraceFeatures", "extend_prefix", "read_batch"]

GRAPH_BYTES = 8 * 2**20
"""Head-mean graphs held before they are decomposed: many layers of short traces, few of long."""


@dataclass(frozen=True, slots=True)
class Prefix:
    """Leading tokens that several traces share, read once."""

    ids: tuple[int, ...]
    cache: Any
    sums: tuple[LayerSums, ...]


@dataclass(frozen=True, slots=True)
class TraceFeatures:
    """The columns of one trace."""

    values: NDArray[np.float64]
    names: tuple[str, ...]


def extend_prefix(model: Any, prefix: Prefix | None, ids: Sequence[int]) -> Prefix | None:
    """Read the tokens of ``ids`` after those of ``prefix``.

    Returns:
        The longer prefix, or None where the architecture's cache cannot be shared (sliding
        windows, recurrent states): the caller then reads each trace whole.
    """
    before = 0 if prefix is None else len(prefix.ids)
    tokens = torch.tensor([list(ids[before:])], device=model.device)
    past = None if prefix is None else copy.deepcopy(prefix.cache)
    forward = captured_forward(model, tokens, past=past, keep_logits=1, keep_cache=True)
    if any(type(layer) is not DynamicLayer for layer in forward.cache.layers):
        return None
    real = torch.ones(tokens.shape, dtype=torch.bool, device=tokens.device)
    none = torch.zeros(*tokens.shape, 0, device=tokens.device)
    earlier = prefix.sums if prefix else None
    return Prefix(tuple(ids), forward.cache, tuple(_layers(forward, earlier, real, none)))


def read_batch(
    model: Any, traces: Sequence[EncodedTrace], prefix: Prefix | None, features: FeatureSet
) -> list[TraceFeatures]:
    """Columns of each trace of a batch, in the order given.

    Args:
        model: a transformers causal LM.
        traces: all begin with the prefix's tokens and have a prompt longer than it.
        prefix: what they share, or None.
        features: which columns.
    """
    start = 0 if prefix is None else len(prefix.ids)
    total = max(len(t.ids) for t in traces)
    ids = torch.zeros(len(traces), total - start, dtype=torch.long)
    for row, trace in zip(ids, traces, strict=True):
        row[: len(trace.ids) - start] = torch.tensor(trace.ids[start:])
    ids = ids.to(model.device)
    keep = total - min(t.prompt_length for t in traces) + 1
    forward = captured_forward(model, ids, past=_past(prefix, len(traces)), keep_logits=keep)
    scores = [_scores(forward.logits[i], t, total) for i, t in enumerate(traces)]
    real, signals = _token_tensors(traces, scores, features, ids, start)
    readings = [_Reading(t, s, features) for t, s in zip(traces, scores, strict=True)]
    earlier = prefix.sums if prefix else None
    for sums in _layers(forward, earlier, real, signals):
        for i, reading in enumerate(readings):
            reading.add(sums, i, start)
    return [reading.finish() for reading in readings]


def _layers(
    forward: CapturedForward, earlier: tuple[LayerSums, ...] | None, real: Tensor, signals: Tensor
) -> Iterator[LayerSums]:
    for i, blocks in enumerate(attention_rows(forward)):
        yield join(earlier[i] if earlier else None, reduce_rows(blocks, real, signals))


def _past(prefix: Prefix | None, batch: int) -> Any:
    if prefix is None:
        return None
    cache = copy.deepcopy(prefix.cache)
    cache.batch_repeat_interleave(batch)
    return cache


def _scores(logits: Tensor, trace: EncodedTrace, total: int) -> TokenScores:
    """Scores of the completion's tokens from the logits of the last positions of ``total``."""
    first = trace.prompt_length - 1 - (total - logits.shape[0])
    targets = torch.tensor(trace.ids[trace.prompt_length :], device=logits.device)
    return token_scores(logits[first : first + len(targets)], targets)


def _token_tensors(
    traces: Sequence[EncodedTrace], scores: Sequence[TokenScores], features: FeatureSet,
    ids: Tensor, start: int,
) -> tuple[Tensor, Tensor]:
    real = torch.zeros(ids.shape, dtype=torch.bool, device=ids.device)
    signals = torch.zeros(*ids.shape, len(features.token_signals), device=ids.device)
    for i, (trace, score) in enumerate(zip(traces, scores, strict=True)):
        end = len(trace.ids) - start
        real[i, :end] = True
        for s, name in enumerate(features.token_signals):
            signals[i, trace.prompt_length - start : end, s] = _signal(score, name)
    return real, signals


def _signal(scores: TokenScores, name: str) -> Tensor:
    return scores.surprisal if name == "surprisal" else scores.entropy


@dataclass
class _Reading:
    """Collects one trace's layers and turns them into columns."""

    trace: EncodedTrace
    scores: TokenScores
    features: FeatureSet
    layers: list[int] = field(default_factory=list)
    heads: list[tuple[Tensor, Tensor, Tensor, Tensor]] = field(default_factory=list)
    graphs: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    held: int = 0
    chunks: list[list[Block]] = field(default_factory=list)

    def add(self, sums: LayerSums, i: int, start: int) -> None:
        n, rows = len(self.trace.ids), slice(self.trace.prompt_length - start, None)
        self.layers.append(sums.layer)
        self.heads.append((
            sums.column_sums[i, :, :n], sums.self_attention[i, :, :n], sums.row_entropy[i, :, :n],
            sums.attended[i, :, rows][:, : self.trace.completion_length],
        ))
        if self.features.spectral_spans:
            graph = (sums.head_mean[i, :n, :n], sums.hidden[i, :n])
            self.graphs.append(graph)
            self.held += sum(t.numel() * t.element_size() for t in graph)
            if self.held > GRAPH_BYTES:
                self._decompose()

    def finish(self) -> TraceFeatures:
        self._decompose()
        blocks = [
            Block(parts[0].column, np.concatenate([p.values for p in parts]))
            for parts in zip(*self.chunks, strict=True)
        ]
        stacked = [torch.stack(parts) for parts in zip(*self.heads, strict=True)]
        blocks += head_blocks(stacked, self.trace.prompt_length, self.features)
        values = [baselines(self.scores, self.trace.prompt_length)]
        values += [block.values.reshape(-1) for block in blocks]
        return TraceFeatures(np.concatenate(values), block_names(blocks, self.layers))

    def _decompose(self) -> None:
        if not self.graphs:
            return
        mean = torch.stack([g for g, _ in self.graphs])
        hidden = torch.stack([h for _, h in self.graphs]).float()
        self.graphs, self.held = [], 0
        chunk: list[Block] = []
        for span in self.features.spectral_spans:
            first = self.trace.prompt_length if span == "completion" else 0
            signals = {"hidden": hidden[:, first:]} if self.features.hidden_signal else {}
            if span == "completion":
                for name in self.features.token_signals:
                    signals[name] = _signal(self.scores, name).unsqueeze(-1)
            chunk += graph_blocks(mean[:, first:, first:], span, signals, self.features)
        self.chunks.append(chunk)
