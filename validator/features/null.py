"""Content-free attention: what a descriptor would be if only the length were known.

Fiedler value and HFER of causal graphs follow the number of tokens whatever is written: a score
that is not compared with content-free graphs of the same length can be a length meter.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from validator.errors import ParameterError
from validator.features.spans import Range

__all__ = ["content_free_attention", "null_attention", "permuted_attention"]

CACHED = 16


def null_attention(
    kind: str, attention: Tensor, start: int, span: Range, heads: int, draw: int
) -> Tensor:
    """One draw of a content-free graph beside a trace's own.

    Args:
        kind: ``uniform``, ``recency`` or ``permuted``.
        attention: (..., n, n) the trace's own attention, of its tokens from ``start`` on.
        start: must be 0 for ``permuted``, which needs whole rows.
        span: the tokens whose induced subgraph is wanted.
        heads: how many random heads the content-free graph is averaged over.
        draw: number of the draw; the same number gives the same graph.

    Returns:
        (m, m), or (..., m, m) for ``permuted``; m the span's tokens.
    """
    first, last = span
    if kind == "permuted":
        if start != 0:
            raise ParameterError("permuted attention needs whole rows, from the first token on")
        rows = permuted_attention(attention[..., first:last, :last], first, draw)
        return rows[..., first:]
    return content_free_attention(kind, first, last, heads, draw).to(attention)


@lru_cache(maxsize=CACHED)
def content_free_attention(kind: str, first: int, last: int, heads: int, draw: int) -> Tensor:
    """Random causal attention that knows positions only, averaged over heads.

    Of each head, row i has weights proportional to g_ij w_ij over the keys j <= i, with g_ij
    independent exponential variables of mean 1 and w_ij = 1 (``uniform``: each row is a flat
    Dirichlet draw) or w_ij = 1 / (i - j + 1) (``recency``).

    Args:
        kind: ``uniform`` or ``recency``.
        first: first row and key returned; earlier keys take their share.
        last: the one after the last.
        heads: number of heads, at least 1.
        draw: the seed.

    Returns:
        (last - first, last - first) float32, lower triangular.
    """
    if kind not in ("uniform", "recency"):
        raise ParameterError(f"expected a null 'uniform' or 'recency', got {kind!r}")
    generator = torch.Generator().manual_seed(1_000_003 * draw + last)
    distance = torch.arange(first, last).unsqueeze(1) - torch.arange(last)
    weight = torch.ones(()) if kind == "uniform" else 1 / (distance.clamp_min(0) + 1)
    visible = (distance >= 0) * weight
    mean = torch.zeros(last - first, last)
    for _ in range(heads):
        drawn = torch.empty_like(mean).exponential_(generator=generator) * visible
        mean += drawn / drawn.sum(-1, keepdim=True)
    return (mean / heads)[:, first:]


def permuted_attention(rows: Tensor, first: int, draw: int) -> Tensor:
    """The same weights in each row, on the keys it can see in random order.

    Args:
        rows: (..., m, T) rows first..first+m-1 of an attention map, keys from token 0 on.
        first: the first row's token.
        draw: the seed; the order is the same for every leading index.
    """
    order = _row_permutations(first, first + rows.shape[-2], draw).to(rows.device)
    return rows.gather(-1, order.expand(*rows.shape[:-2], *order.shape))


@lru_cache(maxsize=CACHED)
def _row_permutations(first: int, last: int, draw: int) -> Tensor:
    """(last - first, last): row i permutes 0..i and leaves what follows in place."""
    generator = torch.Generator().manual_seed(1_000_003 * draw + last)
    keys = torch.arange(last)
    drawn = torch.rand(last - first, last, generator=generator)
    later = keys > torch.arange(first, last).unsqueeze(1)
    return torch.where(later, 2.0 + keys, drawn).argsort(-1)
