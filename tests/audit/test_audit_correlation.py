"""Ranks and Spearman's rho against SciPy; families against hand-made columns."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata, spearmanr

from validator.audit.correlation import family_correlations, midranks, spearman
from validator.columns import Column
from validator.errors import ScoreError


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10_000), st.integers(1, 30), st.integers(1, 6))
def test_midranks_equal_scipy(seed: int, n: int, k: int) -> None:
    X = np.random.default_rng(seed).integers(0, 8, (n, k)).astype(float)
    np.testing.assert_array_equal(midranks(X), rankdata(X, axis=0))
    np.testing.assert_array_equal(midranks(X[:, 0]), rankdata(X[:, 0]))


def test_a_nan_has_no_rank() -> None:
    with pytest.raises(ScoreError, match="NaN"):
        midranks([1.0, np.nan])


def test_spearman_equals_scipy_with_gaps_ties_and_constants() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(80, 600)).astype(np.float32)  # more than one block
    X[:, 1] = np.round(X[:, 1])
    X[:, 2] = 5.0
    X[rng.random(80) < 0.3, 3] = np.nan
    X[2:, 4] = np.nan
    v = rng.integers(5, 20, 80)
    X[:, 5] = -(v**2)
    rho = spearman(X, v)
    assert np.isnan(rho[[2, 4]]).all()
    assert rho[5] == pytest.approx(-1)
    for j in (0, 1, 3, 6, 300, 599):
        rows = ~np.isnan(X[:, j])
        assert rho[j] == pytest.approx(spearmanr(X[rows, j], v[rows]).statistic)


def test_families_are_descriptor_and_signal_by_transform() -> None:
    names = [str(Column("hfer", i, None, "completion", "hidden", 0.5, "c")) for i in range(4)]
    names += [str(Column("hfer", i, None, "completion", "hidden", 0.5, "c", (), "z_uniform"))
              for i in range(2)]
    names += [str(Column("fiedler_value", 0, None, "completion"))]
    rho = np.array([0.9, -0.7, 0.1, np.nan, 0.2, -0.3, np.nan])
    rows = family_correlations(names, rho)
    assert [(r.family, r.transform) for r in rows] == [
        ("hfer of hidden", "raw"), ("hfer of hidden", "z_uniform"), ("fiedler_value", "raw")]
    assert (rows[0].columns, rows[0].constant, rows[0].worst) == (4, 1, names[0])
    assert (rows[0].median, rows[0].largest) == (pytest.approx(0.7), pytest.approx(0.9))
    assert rows[0].above == pytest.approx(2 / 3)
    assert rows[1].median == pytest.approx(0.25)
    assert rows[2].median is None
