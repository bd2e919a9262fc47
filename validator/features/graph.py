"""Attention as a graph over tokens: symmetric graphs, their Laplacians, the directed Laplacian."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = [
    "combinatorial_laplacian", "cross_attention", "directed_eigenvalues", "laplacian",
    "normalized_laplacian", "preprocess", "symmetric_graph",
]


def preprocess(attention: Tensor, steps: Sequence[str]) -> Tensor:
    """Change an attention map before a graph is made of it, step by step in the order given.

    Args:
        attention: (..., n, n) non-negative; left as it is.
        steps: ``clip<x>``: weights below x become 0; ``row_normalised``: rows that have any weight
            sum to 1; ``no_self_loops``: the diagonal becomes 0.

    Returns:
        (..., n, n).
    """
    for step in steps:
        if step.startswith("clip"):
            attention = torch.where(attention < float(step[4:]), 0.0, attention)
        elif step == "row_normalised":
            total = attention.sum(-1, keepdim=True)
            attention = attention / torch.where(total > 0, total, 1.0)
        elif step == "no_self_loops":
            attention = attention.clone()
            attention.diagonal(dim1=-2, dim2=-1).zero_()
    return attention


def cross_attention(attention: Tensor, border: int) -> Tensor:
    """Only the edges from tokens at or after the border to tokens before it: a bipartite graph.

    Args:
        attention: (..., n, n).
        border: number of tokens on the side that is attended to.

    Returns:
        (..., n, n), zero but for the block [border:, :border].
    """
    part = torch.zeros_like(attention)
    part[..., border:, :border] = attention[..., border:, :border]
    return part


def laplacian(attention: Tensor, kind: str) -> Tensor:
    """Laplacian, ``normalized`` or ``combinatorial``, of an attention map's symmetric graph."""
    graph = symmetric_graph(attention)
    return normalized_laplacian(graph) if kind == "normalized" else combinatorial_laplacian(graph)


def combinatorial_laplacian(graph: Tensor) -> Tensor:
    """L = D - W (Chung 1997, section 1.2); self-loops cancel.

    Args:
        graph: (..., T, T) symmetric, non-negative.

    Returns:
        (..., T, T) symmetric positive semi-definite; eigenvalues in [0, 2 max degree].
    """
    result = -graph
    diagonal = result.diagonal(dim1=-2, dim2=-1)
    diagonal += graph.sum(-1)
    return result


def symmetric_graph(attention: Tensor) -> Tensor:
    """Undirected graph of an attention map, W = (A + A^T) / 2.

    Args:
        attention: (..., T, T) float, non-negative; self-attention stays as self-loops.

    Returns:
        (..., T, T) symmetric, non-negative.
    """
    graph = attention + attention.transpose(-1, -2)
    graph *= 0.5
    return graph


def normalized_laplacian(graph: Tensor) -> Tensor:
    """Symmetric normalized Laplacian I - D^{-1/2} W D^{-1/2} (Chung 1997, section 1.2).

    The random-walk Laplacian I - D^{-1} W has the same eigenvalues but is not symmetric, so it
    is never formed here.

    Args:
        graph: (..., T, T) symmetric, non-negative; the degree is d = W 1, self-loops included.

    Returns:
        (..., T, T) symmetric positive semi-definite, eigenvalues in [0, 2]; the row and column
        of an isolated token (d = 0) are zero, so each adds one eigenvalue 0.
    """
    degree = graph.sum(-1)
    scale = torch.where(degree > 0, degree.clamp_min(torch.finfo(graph.dtype).tiny).rsqrt(), 0.0)
    laplacian = graph * (-scale).unsqueeze(-1)
    laplacian *= scale.unsqueeze(-2)  # in place: these matrices are the bulk of the memory traffic
    diagonal = laplacian.diagonal(dim1=-2, dim2=-1)
    diagonal += (degree > 0).to(graph.dtype)
    return laplacian


def directed_eigenvalues(column_sums: Tensor, self_attention: Tensor, length: int) -> Tensor:
    """Eigenvalues of the directed Laplacian D_in - A, in token order.

    LapEigvals (Binkowski et al., EMNLP 2025, eq. 2): the in-degree is the mean attention a token
    receives from the tokens that can see it, d_i = sum_u A_ui / (T - i). The matrix is lower
    triangular, so its eigenvalues are its diagonal and no eigensolver is needed.

    Args:
        column_sums: (..., T) sum of attention received by each token, sum_u A_ui.
        self_attention: (..., T) the diagonal A_ii, in [0, 1].
        length: T, the number of tokens of the sequence.

    Returns:
        (..., T) in [-1, 1]; entry i belongs to token i. Of an induced subgraph of the last tokens
        they are the last entries, since no earlier token attends to them.
    """
    seen_by = torch.arange(length, 0, -1, dtype=column_sums.dtype, device=column_sums.device)
    return column_sums / seen_by - self_attention
