"""Fiedler vector, clusters, drawing and edges against SciPy, networkx and scikit-learn."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
import scipy.linalg
import torch
from scipy.cluster.vq import kmeans2
from sklearn.cluster import KMeans
from sklearn.manifold import spectral_embedding

from validator.explain.clusters import eigengap, layer_graph, spectral_clusters, strongest_edges
from validator.explain.data import LayerGraph
from validator.features.eigen import symmetric_eigh
from validator.features.graph import normalized_laplacian, symmetric_graph


def random_graph(tokens: int, seed: int) -> np.ndarray:
    """The symmetric graph of a random causal attention map."""
    rows = np.random.default_rng(seed).exponential(size=(tokens, tokens)) ** 2
    attention = np.tril(rows) / np.tril(rows).sum(1, keepdims=True)
    return symmetric_graph(torch.tensor(attention)).numpy()


def blocks(sizes: list[int], seed: int = 0, between: float = 0.01) -> tuple[np.ndarray, np.ndarray]:
    """A graph of dense blocks with weak edges between them, and the block of each token."""
    truth = np.repeat(np.arange(len(sizes)), sizes)
    noise = np.random.default_rng(seed).uniform(0.5, 1.0, (len(truth), len(truth)))
    weights = np.where(truth[:, None] == truth, 1.0, between) * (noise + noise.T)
    return weights, truth


def decomposed(graph: np.ndarray) -> LayerGraph:
    values, modes = symmetric_eigh(normalized_laplacian(torch.tensor(graph))[None])
    return layer_graph(3, graph, values[0].numpy(), modes[0].numpy())


@pytest.mark.parametrize("tokens", [3, 12, 40])
def test_the_fiedler_vector_is_scipy_s_and_its_value_networkx_s(tokens: int) -> None:
    graph = random_graph(tokens, tokens)
    found = decomposed(graph)
    root = 1 / np.sqrt(graph.sum(1))
    values, modes = scipy.linalg.eigh(np.eye(tokens) - root[:, None] * graph * root)
    np.testing.assert_allclose(np.abs(found.fiedler @ modes[:, 1]), 1.0, atol=1e-9)
    assert found.fiedler[np.argmax(np.abs(found.fiedler))] > 0
    np.testing.assert_allclose(found.eigenvalues, values, atol=1e-10)
    spectrum = np.sort(nx.normalized_laplacian_spectrum(nx.from_numpy_array(graph)))
    np.testing.assert_allclose(found.eigenvalues[1], spectrum[1], atol=1e-9)


def test_the_drawing_is_scikit_learn_s_spectral_embedding() -> None:
    graph = random_graph(25, 1)
    bare = graph - np.diag(np.diag(graph))  # scikit-learn leaves self-loops out
    found = decomposed(bare).embedding
    oracle = spectral_embedding(bare, n_components=2, norm_laplacian=True, random_state=0)
    for own, other in zip(found.T, oracle.T, strict=True):
        assert abs(np.corrcoef(own, other)[0, 1]) == pytest.approx(1.0, abs=1e-8)


@pytest.mark.parametrize("sizes", [[6, 9], [5, 5, 7], [4, 8, 6, 5, 7]])
def test_planted_blocks_are_found_and_counted(sizes: list[int]) -> None:
    graph, truth = blocks(sizes)
    found = decomposed(graph)
    assert eigengap(found.eigenvalues) == len(sizes) == found.n_clusters
    assert found.clusters.tolist() == truth.tolist()


def test_clusters_are_those_of_k_means_on_the_same_rows() -> None:
    graph, _ = blocks([7, 9, 8], seed=3, between=0.2)
    _, modes = np.linalg.eigh(normalized_laplacian(torch.tensor(graph)).numpy())
    own = spectral_clusters(modes, 3)
    points = modes[:, :3] / np.linalg.norm(modes[:, :3], axis=1, keepdims=True)
    oracle = KMeans(3, n_init=20, random_state=1).fit(points)
    pairs = own[:, None] == own
    assert (pairs == (oracle.labels_[:, None] == oracle.labels_)).all()
    centres, other = kmeans2(points, 3, minit="++", rng=np.random.default_rng(0))
    spread = sum(((points[own == k] - points[own == k].mean(0)) ** 2).sum() for k in range(3))
    assert spread <= ((points - centres[other]) ** 2).sum() + 1e-9
    assert list(dict.fromkeys(own)) == [0, 1, 2]  # numbered by first appearance


def test_the_eigengap_is_the_largest_jump_from_two_on() -> None:
    assert eigengap(np.array([0, 0.9, 1.0, 1.01, 1.5])) == 4
    assert eigengap(np.array([0, 0.1, 0.9, 1.0])) == 2
    assert eigengap(np.array([0, 0.1, 0.2, 1.0]), most=2) == 2
    assert eigengap(np.array([0, 0.5, 0.6])) == 2


def test_strongest_edges_by_brute_force() -> None:
    graph = random_graph(9, 5)
    pairs = sorted(((graph[i, j], i, j) for i in range(9) for j in range(i + 1, 9)), reverse=True)
    assert strongest_edges(graph, 6).tolist() == [[i, j] for _, i, j in pairs[:6]]
    graph[:] = np.diag(np.ones(9))
    assert strongest_edges(graph, 6).shape == (0, 2)


def test_tokens_that_are_alike_give_fewer_clusters() -> None:
    found = decomposed(np.ones((5, 5)))
    assert found.n_clusters >= 1
    assert np.isfinite(found.embedding).all()
