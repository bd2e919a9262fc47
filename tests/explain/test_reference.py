"""Bands, deviations, neighbours and baselines by brute force; the reference as a file."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from scipy.stats import median_abs_deviation, percentileofscore
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from validator.columns import BASELINES
from validator.errors import FeatureMismatchError, LabelError
from validator.explain.compare import baseline_views, deviations, nearest, quantile_bands
from validator.explain.grid import feature_grid
from validator.explain.reference import Reference, balanced, robust_band
from validator.explain.reference_file import is_reference, read_reference, write_reference
from validator.types import FeatureMatrix, Provenance, Trace

NAMES = (
    *(f"{b}__baseline" for b in BASELINES),
    *(f"eigenvalue_quantile_q{q}__layer{k}__head_mean__completion"
      for q in (0.25, 0.5) for k in (0, 4)),
    *(f"log_self_attention__layer4__head{h}__whole" for h in (0, 1, 5)),
    "state_mean_d0__layer0__residual__completion",
)


def features(count: int = 30, seed: int = 0) -> FeatureMatrix:
    values = np.random.default_rng(seed).normal(size=(count, len(NAMES))).astype(np.float32)
    traces = tuple(Trace(f"t{i}", f"p{i // 3}", "Q:", f" {i}.", i % 2) for i in range(count))
    lengths = np.full((count, 2), 5)
    return FeatureMatrix(values, NAMES, traces, lengths, Provenance("m", "r", "s", 1))


def test_heads_are_averaged_and_layers_without_a_column_are_undefined() -> None:
    matrix = features()
    rows, layers, grid = feature_grid(matrix)
    assert rows == ("eigenvalue_quantile_q0.25 completion (head-mean)",
                    "eigenvalue_quantile_q0.5 completion (head-mean)",
                    "log_self_attention whole (mean of heads)")
    assert layers == (0, 4)
    np.testing.assert_allclose(grid[:, 2, 1], matrix.values[:, 9:12].mean(1), rtol=1e-6)
    assert np.isnan(grid[:, 2, 0]).all()
    np.testing.assert_array_equal(grid[:, 1, 0], matrix.values[:, 7])


def test_deviations_are_robust_z_against_the_valid_traces() -> None:
    matrix = features()
    reference = Reference.of(matrix, "x")
    own = reference.grid[0] + 7
    found = deviations(reference, own)
    valid = reference.grid[1::2].astype(np.float64)
    scale = median_abs_deviation(valid, axis=0, scale="normal")
    np.testing.assert_allclose(found.z, (own - np.median(valid, 0)) / scale, rtol=1e-6)
    sizes = np.abs((reference.grid - np.median(valid, 0)) / scale).reshape(30, -1)
    shares = np.array([np.mean(s[~np.isnan(s)] > 3) for s in sizes])
    assert found.beyond_valid == pytest.approx(np.median(shares[1::2]))
    assert found.beyond_invalid == pytest.approx(np.median(shares[::2]))
    assert found.beyond == 1.0
    (row, column), *_ = found.largest(3)
    assert np.abs(found.z[row, column]) == np.nanmax(np.abs(found.z))
    assert len(found.largest(99)) == 5  # the undefined cell is not among them


def test_a_constant_spans_no_band() -> None:
    grid = np.full((6, 1, 2), 0.1, dtype=np.float32)
    grid[:, 0, 1] = [1, 2, 3, 4, 5, np.nan]
    band = robust_band(grid)
    assert np.isnan(band.scale[0, 0])
    assert band.center[0, 1] == 3.0
    assert band.scale[0, 1] == pytest.approx(1.482602218505602)


def test_neighbours_by_brute_force() -> None:
    reference = Reference.of(features(), "x")
    own = np.random.default_rng(9).normal(size=(3, 2)).astype(np.float32)
    found, usual = nearest(reference, Trace("n", "p3", "", "x"), own, 4)
    flat = reference.grid.reshape(30, -1)[:, [0, 1, 2, 3, 5]]
    scaler = StandardScaler().fit(flat)
    Z = scaler.transform(flat)
    z = scaler.transform(own.reshape(1, -1)[:, [0, 1, 2, 3, 5]])
    distance = cdist(Z, z)[:, 0] / np.sqrt(5)
    for label in (0, 1):
        own_kind = [i for i in np.argsort(distance) if i % 2 == label][:4]
        assert [n.trace.id for n in found[label]] == [f"t{i}" for i in own_kind]
        np.testing.assert_allclose([n.distance for n in found[label]], distance[own_kind],
                                   rtol=1e-6)
        assert [n.same_problem for n in found[label]] == [i // 3 == 3 for i in own_kind]
    between = cdist(Z, Z) / np.sqrt(5)
    np.fill_diagonal(between, np.inf)
    assert usual[0] == pytest.approx(np.median(between.min(1)))


def test_baselines_stand_among_those_of_the_reference() -> None:
    matrix = features()
    own = matrix.values[3, :5]
    found = {v.name: v for v in baseline_views(Reference.of(matrix, "x"), own)}
    assert set(found) == set(BASELINES) - {"prompt_length"}
    for i, name in enumerate(BASELINES):
        if name in found:
            column, labels = matrix.values[:, i], matrix.labels
            assert found[name].percentile == pytest.approx(
                percentileofscore(column, own[i], kind="mean"))
            assert found[name].valid_median == pytest.approx(np.median(column[labels == 1]))
            one = roc_auc_score(labels, column)
            assert found[name].auroc == pytest.approx(max(one, 1 - one))


def test_quantile_bands_are_of_the_valid_traces_and_of_the_span() -> None:
    matrix = features()
    reference = Reference.of(matrix, "x")
    found = quantile_bands(reference, "completion")
    assert list(found) == [0.25, 0.5]
    low, high = found[0.5]
    np.testing.assert_allclose(low, np.quantile(matrix.values[1::2, 7:9], 0.05, axis=0), rtol=1e-5)
    np.testing.assert_allclose(high, np.quantile(matrix.values[1::2, 7:9], 0.95, axis=0), rtol=1e-5)
    assert quantile_bands(reference, "whole") == {}


def test_a_trace_is_not_held_against_itself() -> None:
    reference = Reference.of(features(), "x")
    again = dataclasses.replace(reference.traces[4], id="another name")
    assert len(reference.without(again)) == 29
    assert "t4" not in [t.id for t in reference.without(again).traces]


def test_too_few_valid_traces_and_other_features_are_refused() -> None:
    reference = Reference.of(features(), "x")
    with pytest.raises(LabelError, match="4 traces that are labelled valid"):
        Reference.of(features().take([0, 1, 2, 3, 5, 7]), "x").valid_band()
    other = dataclasses.replace(features(), provenance=Provenance("m2", "r", "s", 1))
    with pytest.raises(FeatureMismatchError, match="model"):
        reference.grid_of(other)
    fewer = dataclasses.replace(features(), values=features().values[:, :8], names=NAMES[:8])
    with pytest.raises(FeatureMismatchError, match="3 descriptors"):
        reference.grid_of(fewer)


def test_half_of_a_balanced_choice_is_valid_and_problems_take_turns() -> None:
    many = [Trace(f"p{p}#{k}", f"p{p}", "", "x", int(k == 0)) for p in range(6) for k in range(5)]
    chosen = balanced(many, 8)
    assert sum(t.label or 0 for t in chosen) == 4
    assert len({t.problem_id for t in chosen if t.label == 0}) == 4
    assert [t.id for t in chosen] == [t.id for t in many if t in chosen]
    assert sum(t.label or 0 for t in balanced(many, 28)) == 6  # there are no more
    assert balanced([Trace("u", "p", "", "x")], 4) == []


def test_a_reference_survives_its_file(tmp_path: Path) -> None:
    reference = Reference.of(features(), "x")
    write_reference(tmp_path / "sub" / "r.parquet", reference, "a command")
    assert is_reference(tmp_path / "sub" / "r.parquet")
    again = read_reference(tmp_path / "sub" / "r.parquet")
    np.testing.assert_array_equal(again.grid, reference.grid)
    np.testing.assert_array_equal(again.baselines, reference.baselines)
    for name in ("name", "traces", "rows", "layers", "provenance"):
        assert getattr(again, name) == getattr(reference, name)
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 nothing")
    assert not is_reference(tmp_path / "bad.parquet")
    with pytest.raises(FeatureMismatchError, match="save-reference"):
        read_reference(tmp_path / "bad.parquet")
