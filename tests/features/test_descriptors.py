"""Every descriptor against NumPy, SciPy, scikit-learn-style oracles or a closed form."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from validator.features import descriptors as d

spectra = arrays(np.float64, st.tuples(st.integers(1, 4), st.integers(3, 30)),
                 elements=st.floats(0, 2)).map(lambda a: np.sort(a, axis=-1))
energies = arrays(np.float64, st.tuples(st.integers(1, 4), st.integers(3, 30)),
                  elements=st.floats(0.001, 10))


@given(spectra)
def test_fiedler_value_and_gap(values: np.ndarray) -> None:
    np.testing.assert_array_equal(d.fiedler_value(values), np.sort(values)[:, 1])
    np.testing.assert_array_equal(d.spectral_gap(values, 2), values[:, 2] - values[:, 1])
    np.testing.assert_array_equal(d.spectral_gap(values, 1), values[:, 1] - values[:, 0])
    assert (d.spectral_gap(values, 2) >= 0).all()


@given(spectra, st.lists(st.floats(0, 1), min_size=1, max_size=5))
def test_quantiles_are_numpys(values: np.ndarray, q: list[float]) -> None:
    np.testing.assert_allclose(d.quantiles(values, q), np.quantile(values, q, axis=-1), atol=1e-12)


@given(energies)
def test_entropies_are_scipys(energy: np.ndarray) -> None:
    expected = scipy.stats.entropy(energy, axis=-1)
    np.testing.assert_allclose(d.signal_entropy(energy), expected, atol=1e-10)
    np.testing.assert_allclose(d.eigenvalue_entropy(energy), expected, atol=1e-10)
    assert (d.signal_entropy(energy) <= np.log(energy.shape[-1]) + 1e-12).all()


@given(energies, st.sampled_from([0.25, 0.5, 0.9]))
def test_hfer_is_the_share_above_the_cutoff(energy: np.ndarray, cutoff: float) -> None:
    n = energy.shape[-1]
    high = [i for i in range(n) if i >= cutoff * n]
    np.testing.assert_allclose(
        d.hfer(energy, cutoff), energy[:, high].sum(1) / energy.sum(1), atol=1e-12)


@settings(max_examples=30)
@given(st.integers(0, 1000), st.integers(3, 12))
def test_roughness_and_smoothness_are_the_quadratic_form(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(n, n))
    laplacian, x = root @ root.T, rng.normal(size=(n, 4))
    values, modes = np.linalg.eigh(laplacian)
    energy = ((modes.T @ x) ** 2).sum(1)
    expected = np.trace(x.T @ laplacian @ x) / (x**2).sum()
    np.testing.assert_allclose(d.roughness(values, energy), expected, rtol=1e-8)
    np.testing.assert_allclose(d.smoothness(values, energy), 1 - expected / values[-1], atol=1e-8)


@given(energies, st.floats(0.01, 100))
def test_energy_descriptors_ignore_the_signals_scale(energy: np.ndarray, scale: float) -> None:
    for function in (d.hfer, d.signal_entropy):
        np.testing.assert_allclose(function(scale * energy), function(energy), atol=1e-9)


@pytest.mark.parametrize("n", [1, 2])
def test_undefined_is_nan_not_zero(n: int) -> None:
    values = np.zeros((1, n))
    assert np.isnan(d.spectral_gap(values, 2)).all()
    assert np.isnan(d.fiedler_value(values)).all() == (n == 1)
    assert np.isnan(d.eigenvalue_entropy(values)).all()
    assert np.isnan(d.hfer(values)).all()
    assert np.isnan(d.roughness(values, values)).all()
    assert np.isnan(d.smoothness(values, values + 1)).all()


def test_entropy_of_one_mode_is_zero_and_of_equal_modes_log_n() -> None:
    assert d.signal_entropy(np.array([0.0, 3.0, 0.0])) == 0
    np.testing.assert_allclose(d.signal_entropy(np.ones(8)), np.log(8))
