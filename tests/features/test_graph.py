"""Laplacians and their spectra against NetworkX, SciPy and closed forms."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from validator.features.eigen import symmetric_eigh
from validator.features.graph import directed_eigenvalues, normalized_laplacian, symmetric_graph
from validator.features.spectrum import graph_spectrum


def random_attention(rng: np.random.Generator, size: int) -> np.ndarray:
    weights = np.tril(rng.exponential(size=(size, size)) ** 3 + 1e-9)
    return weights / weights.sum(1, keepdims=True)


def eigenvalues(graph: np.ndarray) -> np.ndarray:
    laplacian = normalized_laplacian(torch.tensor(graph, dtype=torch.float64))
    return graph_spectrum(laplacian[None], {}).eigenvalues[0].numpy()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 24))
def test_normalized_laplacian_is_networkx(seed: int, size: int) -> None:
    attention = random_attention(np.random.default_rng(seed), size)
    graph = symmetric_graph(torch.tensor(attention))
    expected = nx.normalized_laplacian_matrix(nx.from_numpy_array(graph.numpy())).toarray()
    np.testing.assert_allclose(normalized_laplacian(graph).numpy(), expected, atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 24))
def test_spectrum_is_scipy_and_lies_in_zero_two(seed: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    attention = random_attention(rng, size)
    laplacian = normalized_laplacian(symmetric_graph(torch.tensor(attention)))
    signal = rng.normal(size=(size, 5))
    spectrum = graph_spectrum(laplacian[None], {"x": torch.tensor(signal)})
    values, modes = scipy.linalg.eigh(laplacian.numpy())
    np.testing.assert_allclose(spectrum.eigenvalues[0], values, atol=1e-10)
    assert values.min() > -1e-10
    assert values.max() < 2 + 1e-10
    energy = ((modes.T @ signal) ** 2).sum(1)
    np.testing.assert_allclose(spectrum.mode_energy["x"][0], energy, rtol=1e-6, atol=1e-8)
    # Parseval: the graph Fourier transform keeps the signal's energy
    np.testing.assert_allclose(spectrum.mode_energy["x"].sum(), (signal**2).sum(), rtol=1e-10)


@pytest.mark.parametrize("n", [3, 5, 8])
def test_spectra_of_known_graphs(n: int) -> None:
    """Chung (1997), examples 1.1-1.5."""
    k = np.arange(n)
    complete = nx.to_numpy_array(nx.complete_graph(n))
    np.testing.assert_allclose(eigenvalues(complete), [0] + [n / (n - 1)] * (n - 1), atol=1e-12)
    star = nx.to_numpy_array(nx.star_graph(n - 1))
    np.testing.assert_allclose(eigenvalues(star), [0] + [1] * (n - 2) + [2], atol=1e-12)
    path = nx.to_numpy_array(nx.path_graph(n))
    np.testing.assert_allclose(
        eigenvalues(path), np.sort(1 - np.cos(np.pi * k / (n - 1))), atol=1e-12)
    cycle = nx.to_numpy_array(nx.cycle_graph(n))
    np.testing.assert_allclose(
        eigenvalues(cycle), np.sort(1 - np.cos(2 * np.pi * k / n)), atol=1e-12)


def test_zero_eigenvalues_count_components_and_isolated_tokens() -> None:
    graph = nx.to_numpy_array(nx.disjoint_union_all(
        [nx.complete_graph(3), nx.path_graph(4), nx.empty_graph(1)]))
    assert (np.abs(eigenvalues(graph)) < 1e-12).sum() == 3


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.floats(1e-3, 1e3))
def test_spectrum_ignores_token_order_and_scale(seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    graph = symmetric_graph(torch.tensor(random_attention(rng, 12))).numpy()
    order = rng.permutation(12)
    np.testing.assert_allclose(
        eigenvalues(scale * graph[np.ix_(order, order)]), eigenvalues(graph), atol=1e-10)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 20))
def test_directed_eigenvalues_are_those_of_the_explicit_matrix(seed: int, size: int) -> None:
    attention = random_attention(np.random.default_rng(seed), size)
    in_degree = np.array(
        [sum(attention[u, i] for u in range(i, size)) / (size - i) for i in range(size)])
    explicit = np.linalg.eigvals(np.diag(in_degree) - attention)
    A = torch.tensor(attention)
    ours = directed_eigenvalues(A.sum(0), A.diagonal(), size).numpy()
    np.testing.assert_allclose(np.sort(ours), np.sort(explicit.real), atol=1e-12)
    np.testing.assert_allclose(explicit.imag, 0, atol=1e-12)
    assert np.abs(ours).max() <= 1 + 1e-12


def test_directed_eigenvalues_of_a_suffix_are_its_own() -> None:
    """The completion's induced subgraph has the same in-degrees: nothing before looks at it."""
    attention = random_attention(np.random.default_rng(1), 9)
    part = torch.tensor(attention[4:, 4:])
    A = torch.tensor(attention)
    whole = directed_eigenvalues(A.sum(0), A.diagonal(), 9)
    torch.testing.assert_close(directed_eigenvalues(part.sum(0), part.diagonal(), 5), whole[4:])


@pytest.mark.parametrize("threads", [1, 2])
def test_decompositions_on_several_threads_are_scipys(threads: int) -> None:
    rng = np.random.default_rng(0)
    roots = rng.normal(size=(5, 9, 9))
    matrices = roots + roots.transpose(0, 2, 1)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        values, modes = symmetric_eigh(torch.tensor(matrices))
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    for matrix, value, mode in zip(matrices, values.numpy(), modes.numpy(), strict=True):
        np.testing.assert_allclose(value, scipy.linalg.eigvalsh(matrix), atol=1e-12)
        np.testing.assert_allclose(mode @ np.diag(value) @ mode.T, matrix, atol=1e-12)
