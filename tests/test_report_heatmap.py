"""The grid of effect sizes: planted differences are where they were planted."""

from __future__ import annotations

import numpy as np
import pytest

from validator.columns import BASELINES, Column
from validator.errors import FeatureMismatchError
from validator.metrics.effects import cohens_d
from validator.report.heatmap import effect_grid
from validator.report.plots import heatmap_plot
from validator.types import FeatureMatrix, Provenance, Trace


def planted() -> FeatureMatrix:
    """60 problems x 4; heads 0 and 1 of layer 2 carry the label together, never alone."""
    rng = np.random.default_rng(0)
    n = 240
    labels = rng.integers(0, 2, n)
    columns = [Column(b) for b in BASELINES]
    columns += [Column("fiedler_value", layer, None, "whole") for layer in (0, 2)]
    columns += [Column("attention_entropy_quantile", layer, head, "completion", "", 0.5)
                for layer in (0, 2) for head in (0, 1)]
    columns.append(Column("state_mean", 0, None, "completion", "", 3, "d"))
    X = rng.normal(size=(n, len(columns))).astype(np.float32)
    noise = rng.normal(size=n) * 5
    X[:, -3] = noise + labels
    X[:, -2] = -noise + labels
    X[3, -2] = np.nan
    X[4, -3:-1] = np.nan
    traces = tuple(Trace(f"{i}", f"p{i // 4}", "q", "a", int(y)) for i, y in enumerate(labels))
    return FeatureMatrix(X, tuple(map(str, columns)), traces, np.ones((n, 2), dtype=np.int64),
                         Provenance("m", "r", "f", 1))


def test_heads_are_averaged_before_the_effect_is_taken() -> None:
    features = planted()
    grid = effect_grid(features)
    assert grid.layers == (0, 2)
    assert grid.rows[0] == "attention_entropy_quantile_q0.5 completion (mean of heads)"
    assert set(grid.rows) == {grid.rows[0], "fiedler_value whole (head-mean)"}
    both = np.nanmean(features.values[:, -3:-1].astype(float)[np.arange(240) != 4], axis=1)
    labels = features.labels[np.arange(240) != 4]
    assert grid.d[0, 1] == pytest.approx(cohens_d(labels, both))
    assert grid.significant.tolist() == [[False, True], [False, False]]


def test_only_so_many_rows_are_kept_and_drawn() -> None:
    grid = effect_grid(planted(), most=1)
    assert grid.d.shape == (1, 2)
    assert "Effect size by descriptor and layer" in heatmap_plot(grid)


def test_without_graph_columns_there_is_no_grid() -> None:
    features = planted()
    names = features.names[: len(BASELINES)]
    bare = FeatureMatrix(features.select(names), names, features.traces, features.lengths,
                         features.provenance)
    with pytest.raises(FeatureMismatchError, match="no descriptor"):
        effect_grid(bare)
