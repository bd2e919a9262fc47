"""Which descriptor tells valid from invalid at which layer: a grid of effect sizes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from validator.columns import Column
from validator.errors import FeatureMismatchError
from validator.metrics.effects import effect_table
from validator.types import FeatureMatrix

__all__ = ["EffectGrid", "effect_grid"]


@dataclass(frozen=True)
class EffectGrid:
    """Effect sizes of R descriptors at L layers."""

    rows: tuple[str, ...]
    """(R,) descriptors, the one with the largest |d| at any layer first."""
    layers: tuple[int, ...]
    """(L,) ascending."""
    d: NDArray[np.float64]
    """(R, L) Cohen's d; above 0 where valid traces have more of it; NaN where undefined."""
    significant: NDArray[np.bool_]
    """(R, L) tests whose unit is the problem, Benjamini-Hochberg over the whole grid, at 5%."""


def effect_grid(features: FeatureMatrix, most: int = 24) -> EffectGrid:
    """Cohen's d of every graph descriptor at every layer; of heads, of their mean.

    Args:
        features: labelled.
        most: how many descriptors to keep; the test's correction is over all of them.

    Raises:
        FeatureMismatchError: the features hold no graph descriptor.
    """
    recipes: dict[tuple[str, int], list[int]] = {}
    for i, name in enumerate(features.names):
        column = Column.parse(name)
        if not column.is_baseline and not column.is_state:
            recipes.setdefault((_row(column), column.layer or 0), []).append(i)
    if not recipes:
        raise FeatureMismatchError("the features hold no descriptor of attention graphs")
    X = np.stack([_mean(features.values[:, where]) for where in recipes.values()], axis=1)
    table = effect_table(X, [f"{row} at {layer}" for row, layer in recipes], features.labels,
                         features.problem_ids)
    names = list(dict.fromkeys(row for row, _ in recipes))
    layers = sorted({layer for _, layer in recipes})
    d = np.full((len(names), len(layers)), np.nan)
    p = np.full(d.shape, np.nan)
    for (row, layer), effect, chance in zip(recipes, table.d, table.p_clustered_adjusted,
                                            strict=True):
        d[names.index(row), layers.index(layer)] = effect
        p[names.index(row), layers.index(layer)] = chance
    size = np.where(np.isnan(d), 0.0, np.abs(d)).max(axis=1)
    kept = np.argsort(-size, kind="stable")[:most]
    return EffectGrid(tuple(names[i] for i in kept), tuple(layers), d[kept], p[kept] < 0.05)


def _row(column: Column) -> str:
    """The descriptor without its layer; heads are told from the head mean."""
    parts = str(replace(column, layer=0, head=None)).split("__")
    kind = "mean of heads" if column.head is not None else parts[2].replace("_", "-")
    return " ".join((parts[0], *parts[3:], f"({kind})"))


def _mean(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """(N, K) -> (N,) mean of what is defined, NaN where nothing is."""
    count = (~np.isnan(values)).sum(axis=1)
    total = np.nansum(values, axis=1, dtype=np.float64)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
