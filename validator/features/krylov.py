"""Laplacians known by their products with vectors only, and block Krylov subspaces of them.

No second n x n matrix is made of a large graph: (A + A^T) x / 2 is formed from the attention A.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from validator.features.eigen import symmetric_eigh

__all__ = ["GraphOperator", "Ritz", "block_krylov"]

SYMMETRISED_BYTES = 64 * 2**20
"""Graphs up to this size are symmetrised once: a product then reads each weight once, not twice."""
DEFICIENT = 1e-4
"""A direction of which less than this share is new has lost its orthogonality to rounding."""


@dataclass(frozen=True, slots=True)
class GraphOperator:
    """Laplacians of G graphs of n nodes."""

    weights: Tensor
    """(G, n, n): symmetric, or attention A that stands for (A + A^T) / 2."""
    symmetric: bool
    scale: Tensor
    """(G, n, 1) d^{-1/2}, 0 for isolated nodes; or ones."""
    diagonal: Tensor
    """(G, n, 1) what the weights are subtracted from: 1, 0 for isolated nodes; or the degrees."""
    null_vector: Tensor
    """(G, n, 1) of unit length: L v = 0."""
    trace: Tensor
    """(G,) float64, the exact sum of the eigenvalues."""

    @classmethod
    def of(cls, attention: Tensor, kind: str) -> GraphOperator:
        """The operator of the Laplacian, ``normalized`` or ``combinatorial``, of (A + A^T) / 2.

        Args:
            attention: (G, n, n) non-negative float.
            kind: see :func:`validator.features.graph.laplacian`.
        """
        own = attention.diagonal(dim1=-2, dim2=-1)
        degree = (attention.sum(-1) + attention.sum(-2)) / 2
        if kind == "normalized":
            present = degree > 0
            tiny = torch.finfo(degree.dtype).tiny
            scale = torch.where(present, degree.clamp_min(tiny).rsqrt(), 0.0)
            diagonal = present.to(degree.dtype)
            null = degree.sqrt() + (~present.any(-1, keepdim=True)).to(degree.dtype)
            trace = (diagonal - own * scale.square()).double().sum(-1)
        else:
            scale, diagonal, null = torch.ones_like(degree), degree, torch.ones_like(degree)
            trace = (degree - own).double().sum(-1)
        null = null / null.norm(dim=-1, keepdim=True)
        small = attention.shape[-1] ** 2 * attention.element_size() <= SYMMETRISED_BYTES
        weights = (attention + attention.mT).mul_(0.5) if small else attention
        return cls(weights, small, scale.unsqueeze(-1), diagonal.unsqueeze(-1), null.unsqueeze(-1),
                   trace)

    def matmul(self, x: Tensor) -> Tensor:
        """L x, for x of shape (G, n, p)."""
        scaled = self.scale * x
        moved = self.weights @ scaled
        if not self.symmetric:
            moved = (moved + self.weights.mT @ scaled) / 2
        return self.diagonal * x - self.scale * moved

    def take(self, chosen: Tensor) -> GraphOperator:
        """The operators of some of the graphs."""
        if len(chosen) == len(self.trace):
            return self
        return GraphOperator(
            self.weights[chosen], self.symmetric, self.scale[chosen], self.diagonal[chosen],
            self.null_vector[chosen], self.trace[chosen])


@dataclass(frozen=True, slots=True)
class Ritz:
    """Eigenpairs of Laplacians restricted to Krylov subspaces orthogonal to the null vector."""

    values: Tensor
    """(G, m) ascending; like all but the basis in float64 and on the CPU."""
    residuals: Tensor
    """(G, m) ||L y - theta y||: an eigenvalue lies within this of each value (Parlett 1998)."""
    weights: Tensor
    """(G, m, p) squared coordinates of the start vectors; over m they sum to what these have
    outside the null vector."""
    basis: Tensor
    """(G, n, m) orthonormal."""
    coordinates: Tensor
    """(G, m, m): column j gives the j-th Ritz vector in the basis."""

    def vectors(self, columns: Sequence[int]) -> Tensor:
        """(G, n, c) Ritz vectors of some columns."""
        return self.basis @ self.coordinates[:, :, list(columns)].to(self.basis)


def block_krylov(operator: GraphOperator, start: Tensor, steps: int) -> Ritz:
    """Rayleigh-Ritz on span{Z, L Z, ..., L^(steps-1) Z}, by block Lanczos.

    All vectors are orthogonalised against all before, twice (Parlett 1998, chapter 6; Golub and
    Underwood 1977): no spurious copies of eigenvalues, and multiple eigenvalues are found as
    often as there are start vectors. Directions that have become dependent are replaced, so that
    a subspace of n - 1 dimensions gives the exact spectrum.

    Args:
        operator: the Laplacians.
        start: (G, n, p) start vectors Z; p * steps must be below n.
        steps: products with the Laplacian.
    """
    graphs, nodes, width = start.shape
    size = 1 + width * steps
    if size > nodes:
        raise ValueError(f"{steps} steps of {width} vectors do not fit {nodes} nodes")
    basis = start.new_zeros(graphs, nodes, size)
    basis[:, :, :1] = operator.null_vector
    projected = start.new_zeros(graphs, size, size)
    block, rest = start, start.new_zeros(graphs, width, width)
    for step in range(steps):
        first, last = 1 + step * width, 1 + (step + 1) * width
        block, rest = _orthonormal(block, basis[:, :, :first])
        basis[:, :, first:last] = block
        image = operator.matmul(block)
        known = basis[:, :, :last]
        projected[:, :last, first:last] = known.mT @ image
        block = image
    rest = _orthonormal(block, basis)[1]
    upper = projected[:, 1:, 1:].double().cpu().triu()
    values, coordinates = symmetric_eigh(upper + upper.triu(1).mT)
    inside = (basis[:, :, 1 : 1 + width].mT @ start).double().cpu()
    weights = (coordinates[:, :width].mT @ inside).square()
    residuals = (rest.double().cpu() @ coordinates[:, -width:]).norm(dim=1)
    return Ritz(values, residuals, weights, basis[:, :, 1:], coordinates)


def _orthonormal(block: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """The block without its part in the known directions, made orthonormal, and its R factor."""
    length = block.norm(dim=1).amax(-1)
    block, upper = torch.linalg.qr(_outside(block, known))
    size = upper.diagonal(dim1=-2, dim2=-1).abs()
    gone = size <= DEFICIENT * length.unsqueeze(-1)
    if known.shape[-1] + block.shape[-1] <= known.shape[1] and bool(gone.any()):
        generator = torch.Generator().manual_seed(known.shape[-1])
        fresh = torch.randn(block.shape[1:], generator=generator).to(block)
        block = torch.where(gone.unsqueeze(1), fresh, block)
        for _ in range(2):
            block, _ = torch.linalg.qr(_outside(block, known))
    return block, upper


def _outside(block: Tensor, known: Tensor) -> Tensor:
    for _ in range(2):
        block = block - known @ (known.mT @ block)
    return block
