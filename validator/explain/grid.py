"""Features as a grid of layers and descriptors: what is the same descriptor shares a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from validator.columns import Column
from validator.errors import FeatureMismatchError
from validator.types import FeatureMatrix

__all__ = ["cell_mean", "feature_grid", "grid_axes", "grid_cells"]

Cells = Mapping[tuple[str, int], Sequence[int]]


def grid_cells(names: Sequence[str]) -> dict[tuple[str, int], list[int]]:
    """(row, layer) -> indices of its columns; a row of heads has one for each head.

    Baselines and hidden states belong to no layer's graph and are left out.

    Raises:
        FeatureMismatchError: no column is left.
    """
    cells: dict[tuple[str, int], list[int]] = {}
    for i, name in enumerate(names):
        column = Column.parse(name)
        if not column.is_baseline and not column.is_state:
            cells.setdefault((_row(column), column.layer or 0), []).append(i)
    if not cells:
        raise FeatureMismatchError("the features hold no descriptor of attention graphs")
    return cells


def grid_axes(cells: Cells) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Rows in the order of their first column, and layers ascending."""
    rows = tuple(dict.fromkeys(row for row, _ in cells))
    return rows, tuple(sorted({layer for _, layer in cells}))


def cell_mean(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """(N, K) -> (N,) mean of what is defined, NaN where nothing is."""
    count = (~np.isnan(values)).sum(axis=1)
    total = np.nansum(values, axis=1, dtype=np.float64)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def feature_grid(
    features: FeatureMatrix,
) -> tuple[tuple[str, ...], tuple[int, ...], NDArray[np.float32]]:
    """R rows, L layers, and (N, R, L) values; heads are averaged, NaN where there is no column."""
    cells = grid_cells(features.names)
    rows, layers = grid_axes(cells)
    grid = np.full((len(features), len(rows), len(layers)), np.nan, dtype=np.float32)
    at = {row: i for i, row in enumerate(rows)}
    for (row, layer), where in cells.items():
        grid[:, at[row], layers.index(layer)] = cell_mean(features.values[:, where])
    return rows, layers, grid


def _row(column: Column) -> str:
    """The descriptor without its layer; heads are told from the head mean."""
    parts = str(replace(column, layer=0, head=None)).split("__")
    kind = "-".join(parts[2].split("_"))
    if column.head is not None:
        kind = kind.replace("head-mean", "mean of heads")
    return " ".join((parts[0], *parts[3:], f"({kind})"))
