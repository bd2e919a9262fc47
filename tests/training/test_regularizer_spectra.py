"""Differentiable descriptors: the extractor's values, finite differences, equal eigenvalues."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from validator.features import descriptors as d
from validator.features.graph import normalized_laplacian, symmetric_graph
from validator.training.regularizer_spans import cut_graphs, cut_signals
from validator.training.regularizer_spectra import graph_batch

NAMES = ("fiedler_value", "spectral_entropy", "hfer", "roughness")
SIZES = torch.tensor([6, 4, 2])


def drawn(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Scores of causal attention of 8 tokens and a signal on them, 3 of each."""
    rng = torch.Generator().manual_seed(seed)
    return (torch.randn(3, 8, 8, generator=rng, dtype=torch.float64),
            torch.randn(3, 8, 2, generator=rng, dtype=torch.float64))


def attention_of(scores: Tensor) -> Tensor:
    later = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    return scores.masked_fill(later, -torch.inf).softmax(-1)


def described(name: str, attention: Tensor, signal: Tensor, sizes: Tensor) -> Tensor:
    graphs = graph_batch(attention, sizes)
    if name == "hfer":
        return graphs.hfer(signal, 1e-6)
    if name == "roughness":
        return graphs.roughness(signal)
    return getattr(graphs, name)()  # type: ignore[no-any-return]


def by_numpy(name: str, attention: Tensor, signal: Tensor) -> float:
    """The extractor's Laplacian, LAPACK through NumPy, the extractor's descriptors."""
    values, modes = np.linalg.eigh(normalized_laplacian(symmetric_graph(attention)).numpy())
    energy = np.square(modes.T @ signal.numpy()).sum(-1)
    found = {"fiedler_value": lambda: d.fiedler_value(values), "hfer": lambda: d.hfer(energy),
             "spectral_entropy": lambda: d.eigenvalue_entropy(values),
             "roughness": lambda: d.roughness(values, energy)}[name]()
    return float(found)


@pytest.mark.parametrize("name", NAMES)
def test_values_are_the_extractors_for_graphs_of_different_sizes(name: str) -> None:
    scores, signal = drawn()
    attention, first = attention_of(scores), torch.tensor([1, 3, 6])
    found = described(name, cut_graphs(attention[:, 1:], first, SIZES, 1),
                      cut_signals(signal, first, SIZES), SIZES)
    for i in range(3):
        part = slice(int(first[i]), int(first[i] + SIZES[i]))
        expected = by_numpy(name, attention[i, part, part], signal[i, part])
        assert found[i].item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    scores, signal = (x[:2, :6] for x in drawn(1))
    scores, first, sizes = scores[..., :6], torch.tensor([1, 3]), torch.tensor([5, 3])

    def function(scores: Tensor, signal: Tensor) -> Tensor:
        return described(name, cut_graphs(attention_of(scores), first, sizes, 0),
                         cut_signals(signal, first, sizes), sizes)

    of_signal = name in ("hfer", "roughness")
    used = (scores.clone().requires_grad_(), signal.clone().requires_grad_(of_signal))
    assert torch.autograd.gradcheck(function, used, eps=1e-6, atol=1e-6)


def ring(n: int) -> Tensor:
    """Every token attends to itself and its two neighbours: eigenvalues come in pairs."""
    step = torch.eye(n, dtype=torch.float64).roll(1, 0)
    return ((torch.eye(n, dtype=torch.float64) + step + step.T) / 3).unsqueeze(0)


@pytest.mark.parametrize(("name", "attention"), [
    ("fiedler_value", ring(6)), ("fiedler_value", ring(5)), ("spectral_entropy", ring(6)),
    ("spectral_entropy", torch.full((1, 5, 5), 0.2, dtype=torch.float64)), ("hfer", ring(6)),
    ("roughness", ring(6))])
def test_gradients_at_equal_eigenvalues(name: str, attention: Tensor) -> None:
    """Also of the Fiedler value, whose kink a central difference meets halfway, as we do."""
    n = attention.shape[-1]
    values = torch.linalg.eigvalsh(normalized_laplacian(symmetric_graph(attention)))[0]
    assert (values.diff().abs() < 1e-12).any()
    signal = drawn(2)[1][:1, :n]

    def function(attention: Tensor) -> Tensor:
        return described(name, attention, signal, torch.tensor([n]))

    assert torch.autograd.gradcheck(function, (attention.clone().requires_grad_(),), atol=1e-6)


def test_the_gradient_does_not_depend_on_the_basis_of_an_eigenspace() -> None:
    """All edges of a complete graph are alike, though its one eigenspace has any basis."""
    attention = torch.full((1, 6, 6), 1 / 6, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(
        graph_batch(attention, torch.tensor([6])).fiedler_value().sum(), attention)
    edges = slope[0][~torch.eye(6, dtype=torch.bool)]
    assert edges.min().item() == pytest.approx(edges.max().item(), abs=1e-12)
    assert edges.abs().max() > 1e-3


def unlinked() -> Tensor:
    """Two pairs that do not see each other, and a token without any edge."""
    attention = torch.zeros(1, 5, 5, dtype=torch.float64)
    attention[0, :2, :2] = attention[0, 2:4, 2:4] = 0.5
    return attention


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("make", [
    lambda: torch.eye(5, dtype=torch.float64).unsqueeze(0), unlinked,
    lambda: unlinked() + torch.diag_embed(torch.tensor([[0, 0, 0, 0, 1e-45]]).double()),
    lambda: torch.full((1, 4, 4), 0.25, dtype=torch.float64), lambda: ring(4), lambda: ring(8),
    lambda: torch.zeros(1, 3, 3, dtype=torch.float64)])
def test_gradients_are_finite_where_the_descriptor_has_a_kink_a_jump_or_no_value(
    name: str, make: Callable[[], Tensor]
) -> None:
    attention = make().requires_grad_()
    n = attention.shape[-1]
    signal = drawn(3)[1][:1, :n].requires_grad_()
    value = described(name, attention, signal, torch.tensor([n]))
    assert value.item() == pytest.approx(
        by_numpy(name, attention[0].detach(), signal[0].detach()), abs=1e-7, nan_ok=True
    ) or name == "hfer"  # which jumps where the median modes have one eigenvalue
    value.nansum().backward()
    assert attention.grad is not None
    assert bool(attention.grad.isfinite().all())
    assert signal.grad is None or bool(signal.grad.isfinite().all())


def test_a_signal_without_energy_has_no_value_and_no_gradient() -> None:
    attention = attention_of(drawn()[0][:1, :4, :4]).requires_grad_()
    signal = torch.zeros(1, 4, 2, dtype=torch.float64, requires_grad=True)
    for name in ("hfer", "roughness"):
        value = described(name, attention, signal, torch.tensor([4]))
        assert bool(value.isnan().all())
        value.nansum().backward()
        assert not attention.grad.any()
        assert not signal.grad.any()
