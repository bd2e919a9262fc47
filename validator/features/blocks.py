"""Blocks: one descriptor of all layers at once, its name and its values side by side.

The names of a block come from the same place as its values, so they cannot drift apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from validator.columns import BASELINES, Column
from validator.features.spans import STEP, Range, span_name

__all__ = ["Block", "block_names", "deltas", "over_ranges", "stack_layers", "z_scores"]

ROUNDING = 2e-7
"""A descriptor that varies less than this over the draws of a null varies by rounding only."""
AGGREGATES: dict[str, Callable[..., NDArray[np.float64]]] = {
    "mean": np.mean, "min": np.min, "max": np.max}


@dataclass(frozen=True, slots=True)
class Block:
    """One descriptor for L layers: values (L,) of head-mean graphs, or (L, H) per head."""

    column: Column
    """Its layer and head are those of the first entry."""
    values: NDArray[np.float64]
    skip: int = 0
    """How many of the first layers have no value (1 for differences between layers)."""


def block_names(
    blocks: Sequence[Block], layers: Sequence[int], heads: Sequence[int] | None = None
) -> tuple[str, ...]:
    """Column names of the blocks' values, flattened layer by layer, baselines first.

    Args:
        blocks: of L layers.
        layers: (L,) their true indices.
        heads: (H,) true indices of the heads that were read; None for 0..H-1.
    """
    counts = tuple(b.values.shape[1] if b.values.ndim == 2 else 0 for b in blocks)
    chosen = tuple(range(max(counts, default=0))) if heads is None else tuple(heads)
    recipes = tuple((b.column, b.skip, count > 0)
                    for b, count in zip(blocks, counts, strict=True))
    return _names(recipes, tuple(layers), chosen)


@lru_cache(maxsize=8)
def _names(
    recipes: tuple[tuple[Column, int, bool], ...], layers: tuple[int, ...], heads: tuple[int, ...]
) -> tuple[str, ...]:
    names = [str(Column(name)) for name in BASELINES]
    for column, skip, per_head in recipes:
        names += [
            str(replace(column, layer=layer, head=head))
            for layer in layers[skip:]
            for head in (heads if per_head else (None,))
        ]
    return tuple(names)


def stack_layers(chunks: Iterable[Sequence[Block]]) -> list[Block]:
    """Blocks of consecutive groups of layers -> blocks of all layers."""
    return [
        Block(parts[0].column, np.concatenate([p.values for p in parts]))
        for parts in zip(*chunks, strict=True)
    ]


def deltas(blocks: Iterable[Block]) -> Iterator[Block]:
    """Differences between consecutive layers, named by the later one."""
    for block in blocks:
        yield Block(replace(block.column, transform="delta"), np.diff(block.values, axis=0), 1)


def z_scores(blocks: Iterable[Block], null: Sequence[Sequence[Block]], kind: str
             ) -> Iterator[Block]:
    """(value - mean of the null draws) / their standard deviation (n - 1 in the denominator).

    A descriptor that does not vary over the draws beyond rounding has no z-score: NaN.
    """
    for i, block in enumerate(blocks):
        draws = np.stack([np.broadcast_to(d[i].values, block.values.shape) for d in null])
        mean, spread = draws.mean(0), draws.std(0, ddof=1)
        varies = spread > ROUNDING * np.maximum(1.0, np.abs(mean))
        z = np.where(varies, (block.values - mean) / np.where(varies, spread, 1.0), np.nan)
        yield Block(replace(block.column, transform=f"z_{kind}"), z)


def over_ranges(
    span: str, ranges: Sequence[Range], last_tokens: int,
    describe: Callable[[Range | None, str], list[Block]],
) -> list[Block]:
    """Blocks of a span: of its one range, or aggregated over the steps that have a value.

    Args:
        span: its name in the feature set.
        ranges: its token ranges; one, but for steps.
        last_tokens: see :class:`FeatureSet`.
        describe: blocks of one range under a span's name; of None, blocks of NaN.
    """
    if span != STEP:
        return describe(ranges[0], span_name(span, last_tokens))
    steps = [describe(r, STEP) for r in ranges if r[1] > r[0]] or [describe(None, STEP)]
    return [_aggregate(parts, name) for parts in zip(*steps, strict=True) for name in AGGREGATES]


def _aggregate(parts: Sequence[Block], name: str) -> Block:
    values = np.stack([p.values for p in parts])
    defined = np.isfinite(values)
    filled = {"mean": 0.0, "min": np.inf, "max": -np.inf}[name]
    result = AGGREGATES[name](np.where(defined, values, filled), axis=0)
    if name == "mean":
        result = result * len(parts) / np.maximum(defined.sum(0), 1)
    result = np.where(defined.any(0), result, np.nan)
    return Block(replace(parts[0].column, span=f"{STEP}_{name}"), result)
