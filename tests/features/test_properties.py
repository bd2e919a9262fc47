"""Laws that descriptors and graphs obey for every input, and spectra known in closed form."""

from __future__ import annotations

from typing import Any

import networkx as nx
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from validator.features import descriptors as d
from validator.features.graph import (
    combinatorial_laplacian,
    cross_attention,
    directed_eigenvalues,
    laplacian,
    normalized_laplacian,
    preprocess,
    symmetric_graph,
)
from validator.features.null import content_free_attention, permuted_attention
from validator.features.rows import RowKernel
from validator.features.spectra import ExactSolver
from validator.features.spectrum import graph_spectrum

settings.register_profile("laws", max_examples=40, deadline=None)
settings.load_profile("laws")

sizes = st.integers(2, 14)
seeds = st.integers(0, 2**31 - 1)


@st.composite
def attentions(draw: Any, sharp: float = 3.0) -> torch.Tensor:
    """Causal attention maps (n, n) in double precision, from flat to nearly one-hot rows."""
    n, seed, scale = draw(sizes), draw(seeds), draw(st.floats(0.0, sharp))
    scores = torch.randn(n, n, generator=torch.Generator().manual_seed(seed),
                         dtype=torch.float64) * scale
    return torch.softmax(scores.masked_fill(torch.ones(n, n).triu(1).bool(), -torch.inf), -1)


def signal(n: int, seed: int, width: int = 3) -> torch.Tensor:
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed),
                       dtype=torch.float64)


def spectrum(graph: torch.Tensor, kind: str = "normalized") -> np.ndarray:
    made = {"normalized": normalized_laplacian, "combinatorial": combinatorial_laplacian}[kind]
    return graph_spectrum(made(graph)[None], {}).eigenvalues[0].numpy()


# Laplacians -------------------------------------------------------------------------------------

@given(attentions())
def test_normalized_eigenvalues_lie_between_0_and_2(A: torch.Tensor) -> None:
    values = spectrum(symmetric_graph(A))
    assert values.min() >= -1e-12
    assert values.max() <= 2 + 1e-12


@given(attentions())
def test_combinatorial_eigenvalues_lie_between_0_and_twice_the_largest_degree(
    A: torch.Tensor,
) -> None:
    graph = symmetric_graph(A)
    values = spectrum(graph, "combinatorial")
    assert values.min() >= -1e-12
    assert values.max() <= 2 * float(graph.sum(-1).max()) + 1e-12


@given(attentions(), st.sampled_from(["normalized", "combinatorial"]))
def test_laplacians_are_symmetric(A: torch.Tensor, kind: str) -> None:
    L = laplacian(A, kind)
    torch.testing.assert_close(L, L.T, rtol=0, atol=1e-15)


@given(attentions())
def test_rows_of_the_combinatorial_laplacian_sum_to_zero(A: torch.Tensor) -> None:
    rows = laplacian(A, "combinatorial").sum(-1)
    torch.testing.assert_close(rows, torch.zeros_like(rows), rtol=0, atol=1e-12)


@given(attentions())
def test_the_square_root_of_the_degree_is_in_the_null_space(A: torch.Tensor) -> None:
    graph = symmetric_graph(A)
    image = normalized_laplacian(graph) @ graph.sum(-1).sqrt()
    torch.testing.assert_close(image, torch.zeros_like(image), rtol=0, atol=1e-12)


@given(attentions())
def test_the_trace_is_the_sum_of_the_eigenvalues(A: torch.Tensor) -> None:
    L = laplacian(A, "normalized")
    assert spectrum(symmetric_graph(A)).sum() == pytest.approx(float(L.trace()), abs=1e-10)


@given(attentions())
def test_random_walk_and_symmetric_laplacian_share_their_eigenvalues(A: torch.Tensor) -> None:
    W = symmetric_graph(A).numpy()
    walk = np.linalg.eigvals(np.eye(len(W)) - W / W.sum(1, keepdims=True))
    assert np.abs(walk.imag).max() < 1e-7
    np.testing.assert_allclose(np.sort(walk.real), spectrum(torch.tensor(W)), atol=1e-7)


@given(attentions(), seeds, st.sampled_from(["normalized", "combinatorial"]))
def test_spectra_do_not_depend_on_the_order_of_the_tokens(
    A: torch.Tensor, seed: int, kind: str
) -> None:
    graph = symmetric_graph(A)
    order = torch.randperm(len(A), generator=torch.Generator().manual_seed(seed))
    np.testing.assert_allclose(
        spectrum(graph[order][:, order], kind), spectrum(graph, kind), atol=1e-10)


@given(attentions(), seeds)
def test_signal_descriptors_do_not_depend_on_the_order_of_the_tokens(
    A: torch.Tensor, seed: int
) -> None:
    X = signal(len(A), seed)
    order = torch.randperm(len(A), generator=torch.Generator().manual_seed(seed + 1))
    solver = ExactSolver()
    graph = symmetric_graph(A)
    a = solver.spectra(graph, "normalized", {"x": X})
    b = solver.spectra(graph[order][:, order], "normalized", {"x": X[order]})
    assert a.roughness("x") == pytest.approx(b.roughness("x"), abs=1e-9)
    assert a.smoothness("x") == pytest.approx(b.smoothness("x"), abs=1e-9)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.sampled_from(
    ["normalized", "combinatorial"]))
def test_zero_eigenvalues_count_the_components(parts: list[int], kind: str) -> None:
    blocks = [torch.ones(n, n, dtype=torch.float64) for n in parts]
    values = spectrum(torch.block_diag(*blocks), kind)
    assert (values < 1e-9).sum() == len(parts)


@given(attentions(), st.floats(0.01, 100))
def test_scaling_the_weights_scales_the_combinatorial_spectrum_alone(
    A: torch.Tensor, factor: float
) -> None:
    graph = symmetric_graph(A)
    np.testing.assert_allclose(spectrum(graph * factor), spectrum(graph), atol=1e-9)
    np.testing.assert_allclose(spectrum(graph * factor, "combinatorial"),
                               factor * spectrum(graph, "combinatorial"), rtol=1e-8, atol=1e-8)


@given(attentions())
def test_self_loops_do_not_move_the_combinatorial_spectrum(A: torch.Tensor) -> None:
    bare = preprocess(A, ["no_self_loops"])
    np.testing.assert_allclose(spectrum(symmetric_graph(bare), "combinatorial"),
                               spectrum(symmetric_graph(A), "combinatorial"), atol=1e-10)


@given(attentions())
def test_without_self_loops_the_normalized_trace_counts_the_tokens_with_edges(
    A: torch.Tensor,
) -> None:
    graph = symmetric_graph(preprocess(A, ["no_self_loops"]))
    joined = int((graph.sum(-1) > 0).sum())
    assert spectrum(graph).sum() == pytest.approx(joined, abs=1e-9)


@given(attentions(), st.integers(1, 13))
def test_a_bipartite_spectrum_is_symmetric_about_1(A: torch.Tensor, border: int) -> None:
    border = min(border, len(A) - 1)
    values = spectrum(symmetric_graph(cross_attention(A, border)))
    np.testing.assert_allclose(np.sort(2 - values), values, atol=1e-9)


# Closed forms -----------------------------------------------------------------------------------

@given(sizes)
def test_complete_graph(n: int) -> None:
    graph = torch.tensor(nx.to_numpy_array(nx.complete_graph(n)))
    np.testing.assert_allclose(spectrum(graph), [0] + [n / (n - 1)] * (n - 1), atol=1e-10)
    np.testing.assert_allclose(spectrum(graph, "combinatorial"), [0] + [n] * (n - 1), atol=1e-10)


@given(st.integers(3, 14))
def test_cycle(n: int) -> None:
    graph = torch.tensor(nx.to_numpy_array(nx.cycle_graph(n)))
    closed = np.sort(1 - np.cos(2 * np.pi * np.arange(n) / n))
    np.testing.assert_allclose(spectrum(graph), closed, atol=1e-10)
    np.testing.assert_allclose(spectrum(graph, "combinatorial"), 2 * closed, atol=1e-10)


@given(sizes)
def test_path(n: int) -> None:
    graph = torch.tensor(nx.to_numpy_array(nx.path_graph(n)))
    normalized = 1 - np.cos(np.pi * np.arange(n) / (n - 1))
    combinatorial = 2 - 2 * np.cos(np.pi * np.arange(n) / n)
    np.testing.assert_allclose(spectrum(graph), normalized, atol=1e-10)
    np.testing.assert_allclose(spectrum(graph, "combinatorial"), combinatorial, atol=1e-10)


@given(st.integers(3, 14))
def test_star(n: int) -> None:
    graph = torch.tensor(nx.to_numpy_array(nx.star_graph(n - 1)))
    np.testing.assert_allclose(spectrum(graph), [0] + [1] * (n - 2) + [2], atol=1e-10)
    np.testing.assert_allclose(
        spectrum(graph, "combinatorial"), [0] + [1] * (n - 2) + [n], atol=1e-10)


@given(sizes)
def test_directed_eigenvalues_of_uniform_attention(n: int) -> None:
    """Row u gives each of its u + 1 keys 1 / (u + 1)."""
    A = np.tril(np.ones((n, n))) / np.arange(1, n + 1)[:, None]
    closed = [sum(1 / (u + 1) for u in range(i, n)) / (n - i) - 1 / (i + 1) for i in range(n)]
    found = directed_eigenvalues(torch.tensor(A.sum(0)), torch.tensor(A.diagonal().copy()), n)
    np.testing.assert_allclose(found, closed, atol=1e-12)


# Graph signals ----------------------------------------------------------------------------------

@given(attentions(), seeds)
def test_mode_energies_sum_to_the_signal_s_energy(A: torch.Tensor, seed: int) -> None:
    """Parseval's identity."""
    X = signal(len(A), seed)
    energy = graph_spectrum(laplacian(A, "normalized")[None], {"x": X}).mode_energy["x"][0]
    assert float(energy.sum()) == pytest.approx(float(X.square().sum()), rel=1e-10)
    assert float(energy.min()) >= 0


@given(attentions(), seeds, st.sampled_from(["normalized", "combinatorial"]))
def test_dirichlet_energy_is_the_quadratic_form(A: torch.Tensor, seed: int, kind: str) -> None:
    X = signal(len(A), seed)
    found = ExactSolver().spectra(A, kind, {"x": X}).dirichlet_energy("x")
    direct = float((X * (laplacian(A, kind) @ X)).sum())
    assert float(found) == pytest.approx(direct, rel=1e-9, abs=1e-9)


@given(attentions(), seeds)
def test_combinatorial_energy_is_the_sum_over_edges(A: torch.Tensor, seed: int) -> None:
    x = signal(len(A), seed, 1)
    W = symmetric_graph(A)
    over_edges = 0.5 * float((W * (x - x.T) ** 2).sum())
    found = ExactSolver().spectra(A, "combinatorial", {"x": x}).dirichlet_energy("x")
    assert float(found) == pytest.approx(over_edges, rel=1e-9, abs=1e-9)


@given(attentions(), seeds, st.floats(0.1, 10))
def test_scaling_a_signal_changes_its_energy_alone(
    A: torch.Tensor, seed: int, factor: float
) -> None:
    X = signal(len(A), seed)
    a = ExactSolver().spectra(A, "normalized", {"x": X, "y": factor * X})
    for name in ("roughness", "smoothness", "signal_entropy"):
        assert getattr(a, name)("x") == pytest.approx(getattr(a, name)("y"), rel=1e-8, abs=1e-9)
    assert a.hfer("x", 0.5) == pytest.approx(a.hfer("y", 0.5), abs=1e-9)
    assert a.dirichlet_energy("y") == pytest.approx(factor**2 * a.dirichlet_energy("x"), rel=1e-8)


@given(attentions(), seeds)
def test_roughness_lies_within_the_spectrum_and_smoothness_within_0_and_1(
    A: torch.Tensor, seed: int
) -> None:
    found = ExactSolver().spectra(A, "normalized", {"x": signal(len(A), seed)})
    low, high = found.quantiles([0.0, 1.0])
    assert low - 1e-9 <= found.roughness("x") <= high + 1e-9
    if high > 1e-9:
        assert -1e-9 <= found.smoothness("x") <= 1 + 1e-9


@given(attentions())
def test_a_constant_signal_is_smooth_on_the_combinatorial_graph(A: torch.Tensor) -> None:
    ones = torch.ones(len(A), 1, dtype=torch.float64)
    found = ExactSolver().spectra(A, "combinatorial", {"x": ones})
    assert float(found.roughness("x")) == pytest.approx(0, abs=1e-10)


# Descriptors ------------------------------------------------------------------------------------

energies = arrays(np.float64, st.integers(1, 20), elements=st.floats(0, 1e3)).filter(
    lambda e: e.sum() > 1e-3)


@given(energies, st.floats(0, 1))
def test_hfer_is_a_share_that_falls_with_the_cutoff(energy: np.ndarray, cutoff: float) -> None:
    assert 0 <= d.hfer(energy, cutoff) <= 1 + 1e-12
    assert d.hfer(energy, cutoff) >= d.hfer(energy, min(1.0, cutoff + 0.3)) - 1e-12
    assert d.hfer(energy, 0.0) == pytest.approx(1)
    assert d.hfer(energy, 1.0) == 0


@given(energies)
def test_entropies_lie_between_0_and_log_n(energy: np.ndarray) -> None:
    for value in (d.signal_entropy(energy), d.eigenvalue_entropy(np.sort(energy))):
        assert -1e-12 <= value <= np.log(len(energy)) + 1e-9


@given(st.integers(1, 30), st.floats(0.1, 10))
def test_entropy_of_equal_energies_is_log_n(n: int, value: float) -> None:
    assert d.signal_entropy(np.full(n, value)) == pytest.approx(np.log(n))


@given(arrays(np.float64, st.integers(1, 20), elements=st.floats(-1e3, 1e3)),
       st.lists(st.floats(0, 1), min_size=1, max_size=5))
def test_quantiles_equal_numpy_s(values: np.ndarray, q: list[float]) -> None:
    np.testing.assert_allclose(d.quantiles(values, q), np.quantile(values, q), atol=1e-9)


@given(arrays(np.float64, st.integers(1, 12), elements=st.floats(-1e3, 1e3)), st.integers(0, 15))
def test_the_largest_values_come_first_and_what_is_missing_is_nan(
    values: np.ndarray, k: int
) -> None:
    found = d.largest(values, k)
    kept = min(k, len(values))
    np.testing.assert_array_equal(found[:kept], sorted(values, reverse=True)[:kept])
    assert np.isnan(found[kept:]).all()


@given(attentions())
def test_directed_eigenvalues_are_those_of_the_matrix(A: torch.Tensor) -> None:
    n = len(A)
    matrix = np.diag(A.sum(0).numpy() / np.arange(n, 0, -1)) - A.numpy()
    found = directed_eigenvalues(A.sum(0), A.diagonal(), n).numpy()
    np.testing.assert_allclose(np.sort(found), np.sort(np.linalg.eigvals(matrix).real), atol=1e-9)


@given(attentions(), st.integers(0, 13))
def test_directed_eigenvalues_of_the_last_tokens_are_the_last_entries(
    A: torch.Tensor, first: int
) -> None:
    first = min(first, len(A) - 1)
    part = A[first:, first:]
    whole = directed_eigenvalues(A.sum(0), A.diagonal(), len(A))
    cut = directed_eigenvalues(part.sum(0), part.diagonal(), len(part))
    torch.testing.assert_close(whole[first:], cut, rtol=0, atol=1e-12)


# Preprocessing ----------------------------------------------------------------------------------

@given(attentions(), st.floats(0.01, 0.5))
def test_clipping_leaves_no_small_weight_and_changes_no_other(
    A: torch.Tensor, least: float
) -> None:
    step = f"clip{least:.4f}"
    found = preprocess(A, [step])
    kept = found > 0
    assert bool((found[kept] >= float(step[4:])).all())
    torch.testing.assert_close(found[kept], A[kept], rtol=0, atol=0)


@given(attentions(), st.floats(0.01, 0.9))
def test_normalised_rows_sum_to_1_or_are_empty(A: torch.Tensor, least: float) -> None:
    sums = preprocess(A, [f"clip{least:.4f}", "row_normalised"]).sum(-1).numpy()
    assert np.all(np.isclose(sums, 1, atol=1e-9) | (sums == 0))


# Content-free attention -------------------------------------------------------------------------

@given(st.sampled_from(["uniform", "recency"]), st.integers(1, 20), st.integers(1, 4), seeds)
def test_content_free_attention_is_causal_with_rows_that_sum_to_1(
    kind: str, n: int, heads: int, seed: int
) -> None:
    A = content_free_attention(kind, 0, n, heads, seed % 1000)
    assert float(A.triu(1).abs().max()) == 0
    np.testing.assert_allclose(A.sum(-1), 1, atol=1e-5)


@given(attentions(), seeds)
def test_permuted_rows_keep_their_weights_and_the_past(A: torch.Tensor, seed: int) -> None:
    found = permuted_attention(A, 0, seed % 1000)
    torch.testing.assert_close(found.sort(-1).values, A.sort(-1).values, rtol=0, atol=0)
    assert float(found.triu(1).abs().max()) == 0


# The kernel of attention rows -------------------------------------------------------------------

@given(st.integers(1, 24), st.integers(0, 9), st.sampled_from([(4, 1), (4, 2), (4, 4), (6, 3)]),
       st.integers(1, 8), st.floats(0.1, 6), seeds)
def test_row_blocks_are_softmax(
    rows: int, before: int, heads: tuple[int, int], block: int, scale: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    total = before + rows
    q = torch.randn(2, heads[0], rows, 5, generator=generator, dtype=torch.float64)
    k = torch.randn(2, heads[1], total, 5, generator=generator, dtype=torch.float64)
    scores = q @ k.repeat_interleave(heads[0] // heads[1], 1).transpose(-1, -2) * scale
    later = torch.ones(rows, total).triu(before + 1).bool()
    expected = torch.softmax(scores.masked_fill(later, -torch.inf), -1)
    for mask in (None, ~later[None, None].expand(2, 1, -1, -1)):
        kernel = RowKernel(q, k, mask, scale, block)
        for first in range(0, rows, block):
            last = min(first + block, rows)
            weights, entropy = kernel.rows(first, last)
            part = expected[:, :, first:last, : before + last]
            torch.testing.assert_close(weights, part, rtol=0, atol=1e-12)
            torch.testing.assert_close(
                entropy, torch.special.entr(part).sum(-1), rtol=0, atol=1e-11)
