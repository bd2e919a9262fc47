"""Collects one view's layers as they are read, and turns them into its columns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from validator.errors import FeatureMismatchError
from validator.features.blocks import Block, block_names, deltas, stack_layers, z_scores
from validator.features.describe_graphs import GraphReading, graph_blocks
from validator.features.describe_heads import HeadReading, head_blocks
from validator.features.describe_states import pooled_states, state_blocks
from validator.features.featureset import TOKEN_SIGNALS
from validator.features.null import content_free_attention
from validator.features.plan import ReadPlan, View, request_rows, token_signal
from validator.features.reduction import LayerSums, reduce_rows
from validator.features.spans import Range
from validator.features.tokens import TokenScores, baselines
from validator.types import AttentionRows, LayerAttention

__all__ = ["Reading", "TraceFeatures"]

GRAPH_BYTES = 8 * 2**20
"""Graphs held before they are decomposed: many layers of short traces, few of long."""


@dataclass(frozen=True, slots=True)
class TraceFeatures:
    """The columns of one view."""

    values: NDArray[np.float64]
    names: tuple[str, ...]
    surprisal: NDArray[np.float64]
    """(K,) of each token of the whole completion, nats."""


@dataclass
class Reading:
    """One view of the i-th trace of a batch."""

    view: View
    position: tuple[int, int]
    """Which trace of the batch, and which of its views."""
    sets: int
    """How many views the batch's traces have at most."""
    scores: TokenScores
    """Of the completion of the whole trace."""
    plan: ReadPlan
    spans: dict[str, list[Range]] = field(init=False)
    layers: list[int] = field(default_factory=list)
    heads: list[HeadReading] = field(default_factory=list)
    graphs: list[tuple[Tensor, dict[str, Tensor]]] = field(default_factory=list)
    states: list[Tensor] = field(default_factory=list)
    held: int = 0
    head_count: int = 1
    chunks: list[list[list[Block]]] = field(default_factory=list)
    """Of each group of layers, for each graph of the feature set, its blocks."""

    def __post_init__(self) -> None:
        self.spans = self.view.spans(self.plan.features)

    def add(self, sums: LayerSums) -> None:
        """Take what one layer has of this view."""
        self.layers.append(sums.layer)
        self.head_count = sums.self_attention.shape[1]
        if self.plan.features.heads is not None:
            self.heads.append(self._head_reading(sums))
        if self.plan.features.states is not None:
            hidden = sums.hidden[self.position[0], : self.view.end]
            self.states.append(pooled_states(hidden, self.spans, self.plan.features.states))
        if sums.graph is not None:
            i, end = self.position[0], self.view.end
            size = end - (sums.hidden.shape[1] - sums.graph.shape[-1])
            attention = sums.graph[i, ..., :size, :size]
            self.graphs.append((attention, self._layer_signals(sums)))
            self.held += attention.numel() * attention.element_size()
            if self.held > GRAPH_BYTES:
                self._decompose()

    def finish(self) -> TraceFeatures:
        """The columns, baselines first."""
        self._decompose()
        blocks: list[Block] = []
        for entry, parts in zip(self.plan.features.graphs, zip(*self.chunks, strict=True),
                                strict=True):
            blocks += _with_deltas(stack_layers(parts), entry.deltas)
        if self.plan.features.heads is not None:
            blocks += self._head_blocks()
        if self.plan.features.states is not None:
            blocks += state_blocks(self.states, self.plan.features)
        blocks = list({b.column: b for b in reversed(blocks)}.values())[::-1]  # first of its name
        first = self.view.border - self.view.trace.prompt_length
        own = self.scores.part(first, first + self.view.end - self.view.border)
        values = [baselines(own, self.view.border)]
        values += [block.values.reshape(-1) for block in blocks]
        return TraceFeatures(
            np.concatenate(values), block_names(blocks, self.layers, self.plan.heads),
            self.scores.surprisal.double().cpu().numpy())

    def _head_reading(self, sums: LayerSums) -> HeadReading:
        (i, v), end, border = self.position, self.view.end, self.view.border
        borders = self.view.borders(self.plan.features)
        count = sums.column_sums.shape[2] // self.sets
        total = sums.hidden.shape[1]
        rows = slice(border - total + sums.attended.shape[2], end - total + sums.attended.shape[2])
        signals = len(self.plan.attended)
        return HeadReading(
            sums.column_sums[i, :, v * count : v * count + len(borders), :end], borders,
            sums.self_attention[i, :, :end], sums.row_entropy[i, :, :end],
            None if sums.renyi_entropy is None else sums.renyi_entropy[i, :, :end],
            sums.attended[i, :, rows, v * signals : (v + 1) * signals],
            None if sums.lookback is None else sums.lookback[i, :, rows, v],
        )

    def _layer_signals(self, sums: LayerSums) -> dict[str, Tensor]:
        i, end, wanted = self.position[0], self.view.end, self.plan.features.signals
        signals = {}
        if "hidden" in wanted:
            hidden = sums.hidden[i, :end]
            signals["hidden"] = hidden if hidden.dtype == torch.float64 else hidden.float()
        if "value_norm" in wanted:
            if sums.value_norm is None:
                raise FeatureMismatchError(
                    "the signal value_norm cannot be read from this architecture; use a feature "
                    "set without it")
            signals["value_norm"] = sums.value_norm[i, :end, None]
        return signals

    def _token_signals(self, like: Tensor) -> dict[str, Tensor]:
        """Surprisal and entropy of the view's completion, 0 before it."""
        signals = {}
        for name in TOKEN_SIGNALS:
            if name in self.plan.features.signals:
                values = token_signal(self.scores, name)
                signal = torch.zeros(self.view.end, 1, dtype=values.dtype, device=like.device)
                first = self.view.border - self.view.trace.prompt_length
                own = values[first : first + self.view.end - self.view.border]
                signal[self.view.border :, 0] = own
                signals[name] = signal
        return signals

    def _decompose(self) -> None:
        if not self.graphs:
            return
        attention = torch.stack([a for a, _ in self.graphs])
        names = self.graphs[0][1]
        signals = {n: torch.stack([s[n] for _, s in self.graphs]) for n in names}
        signals |= self._token_signals(attention)
        self.graphs, self.held = [], 0
        self.chunks.append([
            graph_blocks(self._graph_reading(attention, entry.heads, signals), self.spans, entry,
                         self.plan.features.last_tokens, self.plan.solver)
            for entry in self.plan.features.graphs
        ])

    def _graph_reading(
        self, attention: Tensor, heads: str, signals: Mapping[str, Tensor]
    ) -> GraphReading:
        if heads == "mean" and attention.ndim == 4:
            attention = attention.mean(1)
        start = self.view.end - attention.shape[-1]
        return GraphReading(attention, start, self.view.border, signals, self.head_count)

    def _head_blocks(self) -> list[Block]:
        features, last = self.plan.features.heads, self.plan.features.last_tokens
        assert features is not None
        blocks = head_blocks(_stacked(self.heads), self.spans, features, last)
        found = _with_deltas(blocks, features.deltas)
        for kind in features.nulls:
            null = [head_blocks(_stacked([self._null_heads(kind, draw)]), self.spans, features,
                                last) for draw in range(features.null_draws)]
            found += z_scores(blocks, null, kind)
        return found

    def _null_heads(self, kind: str, draw: int) -> HeadReading:
        """The same quantities of one random head, with the view's own token signals."""
        cut = self.view.cut
        view = View(replace(cut, prompt_length=self.view.trace.prompt_length), self.view.border,
                    self.view.end)
        like = self.heads[0].self_attention
        weights = content_free_attention(kind, 0, view.end, 1, draw).to(like)[None, None]
        plan = replace(self.plan, heads=None, features=replace(self.plan.features, graphs=()))
        request = request_rows([[view]], [self.scores], plan, 0, view.end, like)
        hidden = like.new_zeros(1, view.end, 0)
        layer = LayerAttention(0, 0, hidden, None, iter([AttentionRows(weights, 0)]))
        part = replace(self, view=view, position=(0, 0), sets=1, plan=plan)
        return part._head_reading(reduce_rows(layer, request))


def _with_deltas(blocks: list[Block], wanted: bool) -> list[Block]:
    if not wanted:
        return list(blocks)
    return blocks + list(deltas(b for b in blocks if not b.column.transform))


def _stacked(layers: list[HeadReading]) -> HeadReading:
    """Readings of single layers (H, ...) -> one of all (L, H, ...)."""
    def stack(name: str) -> Tensor:
        return torch.stack([getattr(r, name) for r in layers])

    first = layers[0]
    return HeadReading(
        stack("column_sums"), first.borders, stack("self_attention"), stack("row_entropy"),
        None if first.renyi_entropy is None else stack("renyi_entropy"), stack("attended"),
        None if first.lookback is None else stack("lookback"))
