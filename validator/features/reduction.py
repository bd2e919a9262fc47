"""Blocks of attention rows -> the few quantities per layer that every descriptor is made from.

Rows can come in any number of blocks, and the rows of a prefix that several sequences share are
reduced once and then joined with each sequence's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from validator.errors import ModelError
from validator.types import AttentionRows

__all__ = ["LayerSums", "join", "reduce_rows"]


@dataclass(frozen=True, slots=True)
class LayerSums:
    """What is kept of one layer's attention for B sequences padded to T tokens."""

    layer: int
    column_sums: Tensor
    """(B, H, T) attention each token received from the real tokens, sum_u A_ui."""
    self_attention: Tensor
    """(B, H, T) the diagonal A_ii."""
    row_entropy: Tensor
    """(B, H, T) Shannon entropy of each token's attention, nats."""
    head_mean: Tensor
    """(B, T, T) attention averaged over heads."""
    hidden: Tensor
    """(B, T, D) input hidden states of the layer."""
    attended: Tensor
    """(B, H, R, S) sum_j A_ij x_j of each token signal, for the rows after the shared prefix."""


def reduce_rows(
    blocks: Sequence[AttentionRows], real: Tensor, signals: Tensor
) -> LayerSums:
    """Reduce the attention of one layer for rows start..T-1 of B sequences.

    Args:
        blocks: row blocks in ascending order that end at T - 1; rows and keys before the first
            block's ``start`` belong to a shared prefix.
        real: (B, R) bool, False for padding rows.
        signals: (B, R, S) token signals of the same rows' tokens, zero where not defined.

    Returns:
        LayerSums over the rows given alone: R tokens on the row axis, T on the key axis.

    Raises:
        ModelError: attention weights that are not finite, naming layer and head.
    """
    start = blocks[0].start
    total = blocks[-1].start + blocks[-1].weights.shape[2]
    batch, heads = blocks[0].weights.shape[:2]
    device = blocks[0].weights.device
    columns = torch.zeros(batch, heads, total, device=device)
    mean = torch.zeros(batch, total - start, total, device=device)
    diagonal, entropy, attended = [], [], []
    for block in blocks:
        weights = block.weights.float()
        keys = weights.shape[-1]
        rows = slice(block.start - start, block.start - start + weights.shape[2])
        mask = real[:, rows].to(weights.dtype)[:, None, None, :]
        columns[..., :keys] += (mask @ weights).squeeze(2)
        mean[:, rows, :keys] = weights.mean(1)
        diagonal.append(weights.diagonal(offset=block.start, dim1=-2, dim2=-1))
        entropy.append(torch.special.entr(weights).sum(-1))
        attended.append(weights[..., start:] @ signals[:, None, : keys - start])
    _require_finite(columns, blocks[0].layer)
    return LayerSums(
        blocks[0].layer, columns, torch.cat(diagonal, -1), torch.cat(entropy, -1), mean,
        torch.cat([b.hidden for b in blocks], 1), torch.cat(attended, -2))


def join(prefix: LayerSums | None, rows: LayerSums) -> LayerSums:
    """Put the rows of a shared prefix (B = 1) in front of the rows that follow it."""
    if prefix is None:
        return rows
    batch, _, total = rows.column_sums.shape
    before = prefix.column_sums.shape[-1]

    def front(tensor: Tensor) -> Tensor:
        return tensor.expand(batch, *tensor.shape[1:])

    columns = rows.column_sums.clone()
    columns[..., :before] += prefix.column_sums
    mean = rows.head_mean.new_zeros(batch, total, total)
    mean[:, :before, :before] = prefix.head_mean
    mean[:, before:] = rows.head_mean
    return LayerSums(
        rows.layer, columns,
        torch.cat([front(prefix.self_attention), rows.self_attention], -1),
        torch.cat([front(prefix.row_entropy), rows.row_entropy], -1),
        mean,
        torch.cat([front(prefix.hidden), rows.hidden], 1),
        rows.attended,
    )


def _require_finite(columns: Tensor, layer: int) -> None:
    finite = torch.isfinite(columns)
    if not bool(finite.all()):
        head = int((~finite).any(-1).any(0).nonzero()[0])
        raise ModelError(
            f"attention of layer {layer}, head {head} holds NaN or infinity; load the model in "
            "float32, or check its weights")
