"""Columns of many short traces at once: those of equal lengths are read as one.

:class:`validator.features.extractor.SpectralFeatureExtractor` describes traces one by one, whatever
their lengths, and for a model of a few thousand parameters that takes far longer than the model
itself. Traces of equal prompt and completion length have the same spans, so here B of them are
described by the same functions as if they were further layers of one trace: the same numbers, at a
fraction of the time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from validator.columns import BASELINES, Column
from validator.features.attention import attention_rows, captured_forward
from validator.features.blocks import Block
from validator.features.describe_graphs import GraphReading, graph_blocks
from validator.features.describe_heads import HeadReading, head_blocks
from validator.features.encoding import EncodedTrace, encode_trace
from validator.features.featureset import FeatureSet
from validator.features.reduction import LayerSums, Request, reduce_rows
from validator.features.spans import Range
from validator.features.spectra import ExactSolver
from validator.features.tokens import TokenScores, baselines, token_scores
from validator.models.loading import LoadedModel
from validator.types import Progress, Trace

__all__ = ["Columns", "read_columns", "step_windows"]

WINDOW = 4
"""A graph needs three nodes and a step is one token: steps are read four at a time."""


@dataclass(frozen=True, eq=False)
class Columns:
    """What was read of N traces."""

    columns: tuple[Column, ...]
    """(F,) as the extractor has them."""
    values: NDArray[np.float64]
    """(N, F); NaN where a descriptor is undefined."""


def read_columns(
    model: LoadedModel, traces: Sequence[Trace], features: FeatureSet, *, batch_size: int = 256,
    progress: Progress | None = None,
) -> Columns:
    """Describe traces by a feature set; its span ``step`` is every :data:`WINDOW` tokens in a row.

    Args:
        model: a causal LM with attention in every layer.
        traces: of any lengths; quick where many have the same.
        features: of heads and of each head's graphs, without nulls, deltas and last tokens.
        batch_size: traces of equal lengths read together.
        progress: called with (traces done, all).

    Raises:
        TraceError: a trace without tokens.
    """
    encoded = [encode_trace(replace(t, steps=None, step_labels=None), model.tokenizer, None)
               for t in traces]
    groups: dict[tuple[int, int], list[int]] = defaultdict(list)
    for i, trace in enumerate(encoded):
        groups[trace.prompt_length, len(trace.ids)].append(i)
    columns: tuple[Column, ...] = ()
    rows: dict[int, NDArray[np.float64]] = {}
    for _, members in sorted(groups.items()):
        for first in range(0, len(members), batch_size):
            chosen = members[first:first + batch_size]
            columns, values = _read(model.model, [encoded[i] for i in chosen], features)
            rows |= dict(zip(chosen, values, strict=True))
            if progress is not None:
                progress(len(rows), len(traces))
    return Columns(columns, np.stack([rows[i] for i in range(len(traces))]))


def step_windows(first: int, last: int) -> list[Range]:
    """Each :data:`WINDOW` tokens in a row of first..last-1; all of them where they are fewer."""
    return [(i, min(i + WINDOW, last)) for i in range(first, max(first, last - WINDOW) + 1)]


def _read(
    model: Any, traces: Sequence[EncodedTrace], features: FeatureSet
) -> tuple[tuple[Column, ...], NDArray[np.float64]]:
    """Columns of traces of equal lengths."""
    prompt, total = traces[0].prompt_length, len(traces[0].ids)
    ids = torch.tensor([trace.ids for trace in traces], device=model.device)
    forward = captured_forward(model, ids, keep_logits=total - prompt + 1)
    scores = _scores(forward.logits[:, :-1], ids[:, prompt:])
    spans: dict[str, list[Range]] = {
        "whole": [(0, total)], "completion": [(prompt, total)],
        "completion_from_prompt": [(0, total)], "step": step_windows(prompt, total)}
    borders = tuple(sorted({last for ranges in spans.values() for _, last in ranges}))
    request = _request(scores, features, borders, total)
    sums = [reduce_rows(attention, request) for attention in attention_rows(forward)]
    read = _graph_reading(sums, scores, prompt)
    blocks = [block for entry in features.graphs for block in graph_blocks(
        read, spans, entry, features.last_tokens, ExactSolver())]
    blocks += _head_blocks(sums, features, spans, borders)
    first = np.stack([baselines(own, prompt) for own in scores])
    columns = [Column(name) for name in BASELINES]
    values = [first]
    for block in blocks:
        columns += _columns(block, [s.layer for s in sums])
        values.append(block.values.reshape(len(traces), -1))
    return tuple(columns), np.hstack(values)


def _columns(block: Block, layers: Sequence[int]) -> list[Column]:
    return [replace(block.column, layer=layer, head=head)
            for layer in layers for head in range(block.values.shape[1])]


def _scores(logits: Tensor, targets: Tensor) -> list[TokenScores]:
    flat = token_scores(logits.flatten(0, 1), targets.flatten())
    size = targets.shape[1]
    return [flat.part(i * size, (i + 1) * size) for i in range(len(targets))]


def _signals(scores: Sequence[TokenScores]) -> Mapping[str, Tensor]:
    """name -> (B, C)."""
    return {"surprisal": torch.stack([s.surprisal for s in scores]),
            "token_entropy": torch.stack([s.entropy for s in scores])}


def _request(
    scores: Sequence[TokenScores], features: FeatureSet, borders: Sequence[int], total: int
) -> Request:
    signals = _signals(scores)
    size = signals["surprisal"].shape[1]
    attended = features.heads.attended if features.heads else ()
    received = torch.zeros(len(scores), len(borders), total, dtype=torch.bool)
    for e, border in enumerate(borders):
        received[:, e, :border] = True
    looked = torch.zeros(len(scores), 1, total, dtype=torch.bool)
    looked[..., :total - size] = True
    averaged = [signals[name] for name in attended]
    return Request(
        received, torch.stack(averaged, -1) if averaged else torch.zeros(len(scores), size, 0),
        looked, renyi=True, graph="each")


def _merged(parts: Sequence[Tensor]) -> Tensor:
    """(B, ...) of each of L layers -> (B L, ...), the layers of a trace side by side."""
    return torch.stack(list(parts), 1).flatten(0, 1)


def _head_blocks(
    sums: Sequence[LayerSums], features: FeatureSet, spans: Mapping[str, Sequence[Range]],
    borders: tuple[int, ...],
) -> list[Block]:
    if features.heads is None:
        return []
    renyi = [s.renyi_entropy for s in sums if s.renyi_entropy is not None]
    lookback = [s.lookback[..., 0] for s in sums if s.lookback is not None]
    read = HeadReading(
        _merged([s.column_sums for s in sums]), borders, _merged([s.self_attention for s in sums]),
        _merged([s.row_entropy for s in sums]), _merged(renyi),
        _merged([s.attended for s in sums]), _merged(lookback))
    return head_blocks(read, spans, features.heads, features.last_tokens)


def _graph_reading(
    sums: Sequence[LayerSums], scores: Sequence[TokenScores], prompt: int
) -> GraphReading:
    graphs = [s.graph for s in sums if s.graph is not None]
    signals = {"hidden": _merged([s.hidden.float() for s in sums])}
    for name, values in _signals(scores).items():
        padded = torch.nn.functional.pad(values, (prompt, 0))[..., None]
        signals[name] = _merged([padded] * len(sums))
    return GraphReading(_merged(graphs), 0, prompt, signals, graphs[0].shape[1])
