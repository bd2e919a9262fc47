"""Descriptors of measures against those of whole spectra."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from validator.features import descriptors as d
from validator.features import measures as m

Array = NDArray[np.float64]


@pytest.fixture
def eigenvalues() -> Array:
    values = np.sort(np.random.default_rng(0).gamma(4.0, 0.25, (3, 50)), axis=-1)
    values[:, 0] = 0
    return values


@pytest.fixture
def energy() -> Array:
    return np.random.default_rng(1).gamma(0.5, 1.0, (3, 50))


def test_single_eigenvalues_as_nodes_are_the_exact_descriptors(
    eigenvalues: Array, energy: Array
) -> None:
    mass = np.full((3, 50), 1 / 50)
    q = np.array([0.0, 0.05, 0.25, 0.5, 0.9, 1.0])
    np.testing.assert_allclose(
        m.quantiles_of_measure(eigenvalues, mass, q, 50), d.quantiles(eigenvalues, q), atol=1e-12)
    np.testing.assert_allclose(
        m.entropy_of_measure(eigenvalues, mass, 50, eigenvalues.sum(-1)),
        d.eigenvalue_entropy(eigenvalues), atol=1e-12)
    for cutoff in (0.0, 0.25, 0.5, 0.77, 1.0):
        np.testing.assert_allclose(
            m.share_above(mass, energy, np.ceil(cutoff * 50) / 50), d.hfer(energy, cutoff),
            atol=1e-12)


def test_a_node_across_the_level_counts_by_its_share() -> None:
    mass, energy = np.array([[0.25, 0.5, 0.25]]), np.array([[1.0, 4.0, 3.0]])
    assert m.share_above(mass, energy, 0.5)[0] == pytest.approx((2 + 3) / 8)


def test_nodes_without_mass_keep_their_energy_on_one_side() -> None:
    mass, energy = np.array([[0.5, 0.0, 0.5]]), np.array([[1.0, 2.0, 1.0]])
    assert m.share_above(mass, energy, 0.4)[0] == pytest.approx((0.2 + 2 + 1) / 4)
    assert m.share_above(mass, energy, 0.6)[0] == pytest.approx(0.8 / 4)


def test_undefined_measures_are_nan() -> None:
    mass = np.full((1, 4), 0.25)
    assert np.isnan(m.share_above(mass, np.zeros((1, 4)), 0.5)[0])
    assert np.isnan(m.entropy_of_measure(np.zeros((1, 4)), mass, 4, np.zeros(1))[0])


def test_what_the_nodes_miss_of_the_trace_is_corrected() -> None:
    """All eigenvalues 1, nodes 2 % too small: without the trace the entropy is off by 0.02."""
    nodes, mass = np.full((1, 5), 0.98), np.full((1, 5), 0.2)
    assert m.entropy_of_measure(nodes, mass, 100, np.array([100.0]))[0] == pytest.approx(
        np.log(100), abs=3e-4)


def masses(values: Array, residuals: Array, weights: Array, width: int = 9) -> Array:
    return m.node_masses(values, residuals, weights, 100, width, np.ones(len(values)))


def test_certain_nodes_have_one_eigenvalue_each() -> None:
    rng = np.random.default_rng(2)
    values, weights = np.linspace(0.1, 1.5, 20)[None], rng.gamma(1.0, 1.0, (1, 20, 6))
    residuals = np.full((1, 20), 0.5)
    residuals[0, :3] = 1e-7
    found = masses(values, residuals, weights)
    np.testing.assert_allclose(found[0, :3], 0.01, atol=1e-15)
    np.testing.assert_allclose(found.sum(1), 0.99, atol=1e-12)
    ratio = found[0, 3:] / weights[0, 3:]
    np.testing.assert_allclose(ratio, np.broadcast_to(ratio[:1], ratio.shape), rtol=1e-12)


def test_masses_are_continuous_in_the_residual() -> None:
    values, weights = np.array([[0.2, 1.0]]), np.array([[[0.3, 0.2], [0.7, 0.9]]])
    found = [masses(values, np.array([[r, 1.0]]), weights)[0, 0, 0]
             for r in np.geomspace(1e-5, 1e-1, 200)]
    assert found[0] == pytest.approx(0.01)
    assert found[-1] == pytest.approx(0.99 * 0.3)
    assert np.abs(np.diff(found)).max() < 0.02


def test_an_eigenvalue_that_fills_the_block_keeps_its_estimate() -> None:
    """It may have more copies than the block can show."""
    values = np.r_[np.zeros(4), 1.0, 1.1][None]
    residuals = np.r_[np.full(4, 1e-9), 0.3, 0.3][None]
    weights = np.r_[np.full(4, 10.0), 30.0, 30.0][None, :, None].repeat(2, -1)
    assert masses(values, residuals, weights, width=4)[0, :4, 0].sum() == pytest.approx(0.396)
    assert masses(values, residuals, weights, width=5)[0, :4, 0].sum() == pytest.approx(0.04)


def test_distribution_error_is_the_standard_error_of_the_mean() -> None:
    rng = np.random.default_rng(3)
    sample = rng.dirichlet(np.ones(10), (2, 7)).transpose(0, 2, 1)
    by_hand = [max(np.std(np.cumsum(sample[g], 0)[k], ddof=1) / np.sqrt(7) for k in range(10))
               for g in range(2)]
    np.testing.assert_allclose(m.distribution_error(sample), by_hand, rtol=1e-12)
