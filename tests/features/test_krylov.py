"""Krylov subspaces against dense matrices and closed forms."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
import scipy.linalg
import torch
from numpy.typing import NDArray
from torch import Tensor

from validator.features import krylov
from validator.features.graph import laplacian
from validator.features.krylov import GraphOperator, block_krylov

KINDS = ["normalized", "combinatorial"]


def causal(nodes: int, graphs: int = 1, seed: int = 0) -> Tensor:
    """(graphs, nodes, nodes) random causal attention, rows sum to 1, in double precision."""
    generator = torch.Generator().manual_seed(seed)
    scores = 2 * torch.randn(graphs, nodes, nodes, generator=generator, dtype=torch.float64)
    masked = scores.masked_fill(torch.ones(nodes, nodes).triu(1).bool(), -torch.inf)
    return masked.softmax(-1)


def start(nodes: int, width: int, seed: int = 0, graphs: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(graphs, nodes, width, generator=generator, dtype=torch.float64)


def orthogonal_to_null(operator: GraphOperator, z: Tensor) -> Tensor:
    return z - operator.null_vector * (operator.null_vector.mT @ z)


def adjacency(graph: nx.Graph) -> Tensor:
    return torch.from_numpy(nx.to_numpy_array(graph))[None]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("symmetrised", [True, False])
def test_operator_is_the_dense_laplacian(
    kind: str, symmetrised: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(krylov, "SYMMETRISED_BYTES", 10**9 if symmetrised else 0)
    attention = causal(20, 3)
    attention[1, 5] = attention[1, :, 5] = 0  # an isolated token
    operator = GraphOperator.of(attention, kind)
    assert operator.symmetric == symmetrised
    dense = laplacian(attention, kind)
    x = start(20, 4, graphs=3)
    torch.testing.assert_close(operator.matmul(x), dense @ x, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(
        operator.trace, dense.diagonal(dim1=1, dim2=2).sum(-1), atol=1e-12, rtol=1e-12)
    assert float((dense @ operator.null_vector).abs().max()) < 1e-12
    torch.testing.assert_close(operator.null_vector.norm(dim=1), torch.ones(3, 1).double())
    torch.testing.assert_close(
        operator.take(torch.tensor([2])).matmul(x[2:]), (dense @ x)[2:], atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_a_graph_without_edges_has_a_zero_operator(kind: str) -> None:
    operator = GraphOperator.of(torch.zeros(1, 4, 4), kind)
    assert not operator.matmul(torch.ones(1, 4, 2)).any()
    assert float(operator.null_vector.norm()) == pytest.approx(1)


@pytest.mark.parametrize("kind", KINDS)
def test_a_full_subspace_has_the_exact_spectrum(kind: str) -> None:
    attention = causal(25, 2)
    operator = GraphOperator.of(attention, kind)
    z = orthogonal_to_null(operator, start(25, 3, graphs=2))
    ritz = block_krylov(operator, z, 8)  # 24 dimensions
    dense = laplacian(attention, kind).numpy()
    for g in range(2):
        values, vectors = scipy.linalg.eigh(dense[g])
        np.testing.assert_allclose(ritz.values[g], values[1:], atol=1e-10)
        energy = (vectors[:, 1:].T @ z[g].numpy()) ** 2
        np.testing.assert_allclose(ritz.weights[g], energy, atol=1e-8)
    assert float(ritz.residuals.max()) < 1e-9


def test_a_small_subspace_is_rayleigh_ritz_with_true_residuals() -> None:
    operator = GraphOperator.of(causal(60), "normalized")
    dense = laplacian(causal(60), "normalized")[0].numpy()
    z = orthogonal_to_null(operator, start(60, 2))
    ritz = block_krylov(operator, z, 6)
    krylov_basis = np.concatenate([np.linalg.matrix_power(dense, k) @ z[0].numpy()
                                   for k in range(6)], axis=1)
    q = scipy.linalg.orth(krylov_basis, rcond=1e-14)
    np.testing.assert_allclose(ritz.values[0], scipy.linalg.eigvalsh(q.T @ dense @ q), atol=1e-8)
    y = ritz.vectors(range(12))[0].numpy()
    np.testing.assert_allclose(y.T @ y, np.eye(12), atol=1e-10)
    true = np.linalg.norm(dense @ y - y * ritz.values[0].numpy(), axis=0)
    np.testing.assert_allclose(ritz.residuals[0], true, atol=1e-10)
    np.testing.assert_allclose(ritz.weights[0].sum(0), (z[0] ** 2).sum(0), atol=1e-10)


def test_moments_of_the_weights_are_those_of_the_start_vectors() -> None:
    """Gauss quadrature of s steps is exact for polynomials of degree 2 s - 1."""
    operator = GraphOperator.of(causal(80), "normalized")
    dense = laplacian(causal(80), "normalized")[0].numpy()
    z = orthogonal_to_null(operator, start(80, 2))
    ritz = block_krylov(operator, z, 4)
    v = z[0, :, 1].numpy()
    for degree in range(8):
        exact = v @ np.linalg.matrix_power(dense, degree) @ v
        found = (ritz.weights[0, :, 1] * ritz.values[0] ** degree).sum()
        assert float(found) == pytest.approx(exact, rel=1e-9)


@pytest.mark.parametrize(("graph", "expected"), [
    (nx.complete_graph(20), np.full(19, 20 / 19)),
    (nx.cycle_graph(20), np.sort(1 - np.cos(2 * np.pi * np.arange(1, 20) / 20))),
    (nx.path_graph(20), 1 - np.cos(np.pi * np.arange(1, 20) / 19)),
    (nx.star_graph(19), np.r_[np.ones(18), 2.0]),
])
def test_closed_forms_with_multiplicities(graph: nx.Graph, expected: NDArray[np.float64]) -> None:
    operator = GraphOperator.of(adjacency(graph), "normalized")
    ritz = block_krylov(operator, orthogonal_to_null(operator, start(20, 1)), 19)
    np.testing.assert_allclose(ritz.values[0], expected, atol=1e-10)


def test_components_are_zero_eigenvalues_as_often_as_the_block_is_wide() -> None:
    graph = nx.disjoint_union_all([nx.cycle_graph(10) for _ in range(4)])
    operator = GraphOperator.of(adjacency(graph), "combinatorial")
    ritz = block_krylov(operator, orthogonal_to_null(operator, start(40, 4)), 6)
    np.testing.assert_allclose(ritz.values[0, :3], 0, atol=1e-10)
    assert float(ritz.values[0, 3]) == pytest.approx(2 - 2 * np.cos(2 * np.pi / 10))


def test_dependent_and_zero_start_vectors_are_replaced() -> None:
    operator = GraphOperator.of(causal(30), "normalized")
    z = orthogonal_to_null(operator, start(30, 1)).expand(1, 30, 3).clone()
    z[..., 2] = 0
    ritz = block_krylov(operator, z, 5)
    y = ritz.vectors(range(15))[0].numpy()
    np.testing.assert_allclose(y.T @ y, np.eye(15), atol=1e-10)
    np.testing.assert_allclose(ritz.weights[0, :, 2], 0, atol=1e-20)
    np.testing.assert_allclose(ritz.weights[0, :, 0], ritz.weights[0, :, 1], atol=1e-12)


def test_more_dimensions_than_nodes_are_refused() -> None:
    operator = GraphOperator.of(causal(10), "normalized")
    with pytest.raises(ValueError, match="do not fit 10 nodes"):
        block_krylov(operator, start(10, 2), 5)
