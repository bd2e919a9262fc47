"""Which descriptor tells valid from invalid at which layer: a grid of effect sizes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from validator.explain.grid import cell_mean, grid_axes, grid_cells
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
    recipes = grid_cells(features.names)
    X = np.stack([cell_mean(features.values[:, where]) for where in recipes.values()], axis=1)
    table = effect_table(X, [f"{row} at {layer}" for row, layer in recipes], features.labels,
                         features.problem_ids)
    names, layers = grid_axes(recipes)
    d = np.full((len(names), len(layers)), np.nan)
    p = np.full(d.shape, np.nan)
    for (row, layer), effect, chance in zip(recipes, table.d, table.p_clustered_adjusted,
                                            strict=True):
        d[names.index(row), layers.index(layer)] = effect
        p[names.index(row), layers.index(layer)] = chance
    size = np.where(np.isnan(d), 0.0, np.abs(d)).max(axis=1)
    kept = np.argsort(-size, kind="stable")[:most]
    return EffectGrid(tuple(names[i] for i in kept), layers, d[kept], p[kept] < 0.05)
