"""Columns of a completion so far, by the very functions that describe finished traces."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from validator.errors import FeatureMismatchError
from validator.features.blocks import Block, block_names, deltas
from validator.features.describe_graphs import GraphReading, graph_blocks
from validator.features.describe_heads import head_blocks
from validator.features.featureset import TOKEN_SIGNALS, FeatureSet, GraphFeatures, HeadFeatures
from validator.features.plan import ReadPlan
from validator.features.spans import Range
from validator.features.tokens import TokenScores, baselines
from validator.plugins.monitor.running import SIGNALS, RunningRows

__all__ = ["Describer", "require_followable"]

SPANS = ("completion", "last")


def require_followable(features: FeatureSet) -> None:
    """Refuse a feature set with columns that need more than the rows of the completion.

    Raises:
        FeatureMismatchError: naming what cannot be followed.
    """
    parts: list[GraphFeatures | HeadFeatures] = [*features.graphs]
    parts += [features.heads] if features.heads else []
    wrong = [f"the span {s!r}" for p in parts for s in p.spans if s not in SPANS]
    wrong += [f"z-scores against {n!r}" for p in parts for n in p.nulls]
    wrong += [f"the signal {s!r}" for s in features.signals if s not in TOKEN_SIGNALS]
    wrong += ["hidden states"] if features.states else []
    if wrong:
        raise FeatureMismatchError(
            f"feature set {features.name!r}: {wrong[0]} cannot be followed while a model writes; "
            "the spans completion and last can, without nulls, and the signals surprisal and "
            "token_entropy. Use the feature set 'monitor', or a file of your own")


@dataclass
class Describer:
    """The columns of sequences that grow token by token.

    Symmetric graphs have to be decomposed, which is no O(T): they are described at every
    ``graph_every``-th token, and the columns keep those values until the next.
    """

    plan: ReadPlan
    graph_every: int
    kept: dict[int, list[Block]] = field(default_factory=dict)
    """Sequence -> its graph columns, as they were described last."""

    def values(
        self, running: RunningRows, row: int, layers: tuple[int, ...]
    ) -> tuple[NDArray[np.float64], tuple[str, ...]]:
        """Values (F,) and names of the columns of one sequence, baselines first."""
        features, t = self.plan.features, running.count
        spans = self._spans(0, t)
        blocks: list[Block] = []
        if features.graphs and (t % self.graph_every == 0 or row not in self.kept):
            self.kept[row] = self._graphs(running, row)
        blocks += self.kept.get(row, [])
        if features.heads is not None:
            found = head_blocks(
                running.reading(row), spans, features.heads, features.last_tokens)
            blocks += _with_deltas(found, features.heads.deltas)
        blocks = list({b.column: b for b in reversed(blocks)}.values())[::-1]
        scores = TokenScores(running.signals[row, :t, 0], running.signals[row, :t, 1])
        values = [baselines(scores, running.border), *(b.values.reshape(-1) for b in blocks)]
        return np.concatenate(values), block_names(blocks, layers, self.plan.heads)

    def keep(self, rows: list[int]) -> None:
        """Go on with some of the sequences."""
        self.kept = {i: self.kept[row] for i, row in enumerate(rows) if row in self.kept}

    def _spans(self, border: int, total: int) -> dict[str, list[Range]]:
        last = self.plan.features.last_tokens
        return {"completion": [(border, total)], "last": [(max(border, total - last), total)]}

    def _graphs(self, running: RunningRows, row: int) -> list[Block]:
        attention, border = running.attention(row), running.border
        total = border + running.count
        front = running.signals.new_zeros(border, 1)
        signals = {
            name: torch.cat([front, running.signals[row, : running.count, i : i + 1]])
            for i, name in enumerate(SIGNALS)}
        blocks: list[Block] = []
        for entry in self.plan.features.graphs:
            maps = attention
            if entry.heads == "mean" and attention.ndim == 4:
                maps = attention.mean(1)
            heads = attention.shape[1] if attention.ndim == 4 else 1
            read = GraphReading(maps, border, border, signals, heads)
            blocks += _with_deltas(graph_blocks(
                read, self._spans(border, total), entry, self.plan.features.last_tokens,
                self.plan.solver), entry.deltas)
        return blocks


def _with_deltas(blocks: list[Block], wanted: bool) -> list[Block]:
    return blocks + list(deltas(blocks)) if wanted else blocks
