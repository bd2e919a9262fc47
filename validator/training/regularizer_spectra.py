"""Descriptors of attention graphs that a gradient passes through, also at equal eigenvalues.

The values are those of :mod:`validator.features.descriptors` on the symmetric graph and its
normalized Laplacian. ``eigh`` cannot be differentiated as it stands: the derivative of single
eigenvectors divides by the difference of every two eigenvalues, and attention graphs have equal
ones. But no descriptor needs single eigenvectors. Each is a function of the Laplacian whose
derivative is a matrix G, df = <G, dL>, which is formed from one decomposition:

- the Fiedler value: G = P / m, with P the projector on the m modes that share it. Where m = 1 this
  is u u^T (Hellmann-Feynman); where eigenvalues meet the value has a kink, and the mean over the
  eigenspace is one of its Clarke subgradients (Lewis 1999, Nonsmooth analysis of eigenvalues), the
  one that does not depend on the basis a solver returns;
- the entropy: a symmetric function of the spectrum, G = U diag(dS/dlambda) U^T (Lewis 1996,
  Derivatives of spectral functions); equal eigenvalues have equal derivatives, so that bases do not
  matter. Eigenvalues at zero get none: that of the constant mode never moves, and a second one has
  an infinite slope;
- HFER: a function of the projector on the upper half of the modes. Its derivative divides by the
  gaps between a lower and an upper mode alone (Kato 1966, chapter II, section 2), and 1 / gap is
  broadened to gap / (gap^2 + b^2) (Liao et al. 2019, Differentiable programming tensor networks),
  which is finite where HFER itself jumps;
- the roughness: a quotient of two quadratic forms, with no decomposition at all.

Graphs of different sizes are one batch: positions past a graph's size hold the eigenvalue 3, which
no normalized Laplacian has, and so come last.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from validator.features.graph import symmetric_graph

__all__ = ["GraphBatch", "graph_batch"]

SAME = 1e-9
"""Eigenvalues no further apart are one; not above it, they are zero."""
FLOOR = 1e-20
"""Degree from which on a token's edges have gradients: below, they would overflow."""
BEYOND = 3.0


@dataclass(frozen=True)
class GraphBatch:
    """B graphs of at most n tokens; every descriptor is (B,) double, NaN where it is undefined."""

    laplacian: Tensor
    """(B, n, n) normalized Laplacians, through which gradients flow."""
    sizes: Tensor
    """(B,) tokens of each graph, 2 or more."""

    @property
    def eigenvalues(self) -> Tensor:
        """(B, n) ascending, without gradient; BEYOND past the size."""
        return self._decomposed[0]

    @property
    def modes(self) -> Tensor:
        """(B, n, n) eigenvectors as columns, without gradient."""
        return self._decomposed[1]

    @cached_property
    def _decomposed(self) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            eigenvalues, modes = torch.linalg.eigh(self.laplacian.detach())
        return eigenvalues, modes

    def fiedler_value(self) -> Tensor:
        """Second smallest eigenvalue, see :func:`validator.features.descriptors.fiedler_value`."""
        value = self.eigenvalues[:, 1:2]
        shared = ((self.eigenvalues - value).abs() <= SAME).to(value)
        # The constant mode, where it is among them, adds nothing to the derivative.
        return self._with_slopes(value[:, 0], shared / shared[:, 1:].sum(-1, keepdim=True))

    def spectral_entropy(self) -> Tensor:
        """In nats, see :func:`validator.features.descriptors.eigenvalue_entropy`."""
        counted = self._ranks() & (self.eigenvalues > SAME)
        values = torch.where(counted, self.eigenvalues, 0.0)
        total = values.sum(-1, keepdim=True)
        share = torch.where(counted, values / total, 1.0)
        entropy = -(torch.where(counted, share, 0.0) * share.log()).sum(-1)
        slopes = torch.where(counted, -(share.log() + entropy.unsqueeze(-1)) / total, 0.0)
        return self._with_slopes(torch.where(total[:, 0] > 0, entropy, torch.nan), slopes)

    def hfer(self, signal: Tensor, broadening: float) -> Tensor:
        """Share of the (B, n, D) signal's energy in the modes above the median one.

        See :func:`validator.features.descriptors.hfer`; the cutoff is 0.5. Gaps far above the
        broadening b > 0 are differentiated exactly, and 1 / gap counts as no more than 1 / 2b.
        """
        high = self._ranks() & (self._index() >= ((self.sizes + 1) // 2).unsqueeze(-1))
        low = self._ranks() & ~high
        coefficients = self.modes.mT @ signal
        energy = signal.square().sum((-2, -1))
        share = _ratio((coefficients.square().sum(-1) * high).sum(-1), energy)
        fixed = coefficients.detach()
        mixed = (fixed @ fixed.mT) * self._inverse_gaps(low, high, broadening)
        slope = _ratio(self.modes @ mixed @ self.modes.mT, energy.detach()[:, None, None])
        return share + _carry(self.laplacian, torch.nan_to_num(slope))

    def roughness(self, signal: Tensor) -> Tensor:
        """Tr(X^T L X) / ||X||^2, see :func:`validator.features.descriptors.roughness`."""
        return _ratio((signal * (self.laplacian @ signal)).sum((-2, -1)),
                      signal.square().sum((-2, -1)))

    def _index(self) -> Tensor:
        return torch.arange(self.laplacian.shape[-1], device=self.sizes.device)

    def _ranks(self) -> Tensor:
        """(B, n) which eigenvalues are of the graph itself."""
        return self._index() < self.sizes.unsqueeze(-1)

    def _inverse_gaps(self, low: Tensor, high: Tensor, broadening: float) -> Tensor:
        """(B, n, n) broadened 1 / |lambda_j - lambda_i| of every low and high mode, else 0."""
        gap = (self.eigenvalues.unsqueeze(-2) - self.eigenvalues.unsqueeze(-1)).abs()
        across = low.unsqueeze(-1) & high.unsqueeze(-2)
        return (gap / (gap.square() + broadening**2)) * (across | across.mT)

    def _with_slopes(self, value: Tensor, slopes: Tensor) -> Tensor:
        """The value, with derivative ``slopes`` (B, n) by the eigenvalues."""
        return value + _carry(self.laplacian, (self.modes * slopes.unsqueeze(-2)) @ self.modes.mT)


def graph_batch(attention: Tensor, sizes: Tensor) -> GraphBatch:
    """Normalized Laplacians of the symmetric graphs (A + A^T) / 2; decomposed once, if need be.

    Args:
        attention: (B, n, n) double, non-negative; zero past each graph's size.
        sizes: (B,) in [2, n].
    """
    present = torch.arange(attention.shape[-1], device=sizes.device) < sizes.unsqueeze(-1)
    laplacian = _laplacian(symmetric_graph(attention))
    laplacian = laplacian + torch.diag_embed(torch.where(present, 0.0, BEYOND).to(laplacian))
    return GraphBatch(laplacian, sizes)


def _laplacian(graph: Tensor) -> Tensor:
    """:func:`validator.features.graph.normalized_laplacian`, with derivatives at degree 0."""
    steady = graph.sum(-1) > FLOOR
    graph = torch.where(steady.unsqueeze(-1) & steady.unsqueeze(-2), graph, graph.detach())
    degree = graph.sum(-1)
    linked = degree > 0
    scale = torch.where(linked, torch.where(linked, degree, 1.0).rsqrt(), 0.0)
    return torch.diag_embed(linked.to(graph)) - graph * scale.unsqueeze(-1) * scale.unsqueeze(-2)


def _carry(matrix: Tensor, slope: Tensor) -> Tensor:
    """Zero, with derivative <slope, d matrix>."""
    return ((matrix - matrix.detach()) * slope).sum((-2, -1))


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    positive = denominator > 0
    return torch.where(positive, numerator / torch.where(positive, denominator, 1.0), torch.nan)
