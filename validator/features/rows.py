"""The plain case of attention weights, softmax(q k^T scale + mask), a block of rows at a time.

The model's own eager function is right for every architecture and slow for long sequences: it
repeats the keys of grouped heads and masks the whole block. Here the grouped heads share one
product, only the diagonal of a causal block is masked, and the entropy of each row comes from the
scores that are at hand. Whether a layer is a plain case is found by comparing the two.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

__all__ = ["RowKernel"]

ONE_BY_ONE_SCORES, ONE_BY_ONE_VALUES = 3072, 1024
"""Keys from which on a CPU is faster with one product at a time, on all threads, than with a batch
of them, one thread each."""


@dataclass
class RowKernel:
    """Forms the attention of one layer in blocks of rows.

    Every block is written over the one before: fresh memory for each costs more than what is
    computed in it.

    Args:
        query: (B, H, R, D) of the last R of T tokens.
        key: (B, G, T, D) with G dividing H: head h uses keys of group h // (H / G).
        mask: (B or 1, 1 or H, R, T) bool, True where attention is allowed, or float and added;
            None for causal.
        scale: of the scores.
        block: most rows of a block.
    """

    query: Tensor
    key: Tensor
    mask: Tensor | None
    scale: float
    block: int
    scores: Tensor = field(init=False)
    weights: Tensor = field(init=False)
    later: Tensor = field(init=False)
    """(block, block) True above the diagonal."""

    def __post_init__(self) -> None:
        batch, heads = self.query.shape[:2]
        self.key = self.key.contiguous()
        room = batch * heads * self.block * self.key.shape[2]
        self.scores, self.weights = self.query.new_empty(room), self.query.new_empty(room)
        square = self.query.new_ones(self.block, self.block, dtype=torch.bool)
        self.later = square.triu(1)

    def rows(self, first: int, last: int) -> tuple[Tensor, Tensor]:
        """Rows first..last-1, counted from the first of the R, and their entropies.

        Returns:
            (B, H, last - first, K) weights over the K = T - R + last keys that these rows can see,
            overwritten by the next call; (B, H, last - first) Shannon entropies in nats.
        """
        scores = self._scores(first, last)
        self._mask(scores, first)
        # The largest score of a row becomes 0, so that the entropy of a peaked row keeps its
        # digits.
        scores -= scores.amax(-1, keepdim=True)
        weights = self.weights[: scores.numel()].view(scores.shape)
        torch.softmax(scores, -1, out=weights)
        # log sum exp = -log of the largest weight, whose score is 0.
        entropy = -weights.amax(-1).log() - scores.mul_(weights).sum(-1)
        return weights, entropy

    def attend(self, weights: Tensor, value: Tensor) -> Tensor:
        """(B, H, r, D) weighted values, of rows whose weights (B, H, r, K) were just formed.

        Args:
            weights: see :meth:`rows`.
            value: (B, G, T, D).
        """
        batch, heads, rows, keys = weights.shape
        groups, total, width = value.shape[1:]
        shared = value.reshape(batch * groups, total, width)[:, :keys]
        merged = weights.view(batch * groups, heads // groups * rows, keys)
        output = value.new_empty(*merged.shape[:2], width)
        _product(merged, shared, output, keys >= ONE_BY_ONE_VALUES)
        return output.view(batch, heads, rows, width)

    def _scores(self, first: int, last: int) -> Tensor:
        batch, heads, rows, width = self.query.shape
        groups, total = self.key.shape[1], self.key.shape[2]
        visible, count = total - rows + last, last - first
        shape = (batch * groups, heads // groups * count, visible)
        query = self.query[:, :, first:last].reshape(*shape[:2], width) * self.scale
        key = self.key.reshape(batch * groups, total, width)[:, :visible]
        scores = self.scores[: shape[0] * shape[1] * visible].view(shape)
        _product(query, key.transpose(1, 2), scores, visible >= ONE_BY_ONE_SCORES)
        return scores.view(batch, heads, count, visible)

    def _mask(self, scores: Tensor, first: int) -> None:
        # Half of the lowest number, so that 0 * score stays 0 when the row's maximum is
        # subtracted.
        lowest = torch.finfo(scores.dtype).min / 2
        count, visible = scores.shape[-2:]
        if self.mask is None:
            scores[..., visible - count :].masked_fill_(self.later[:count, :count], lowest)
            return
        part = self.mask[:, :, first : first + count, :visible]
        if part.dtype == torch.bool:
            scores.masked_fill_(~part, lowest)
        else:
            scores += part.clamp_min(lowest)


def _product(a: Tensor, b: Tensor, out: Tensor, one_by_one: bool) -> None:
    """out = a b, of a batch of matrices."""
    if one_by_one and a.device.type == "cpu":
        for left, right, target in zip(a, b, out, strict=True):
            torch.mm(left, right, out=target)
    else:
        torch.bmm(a, b, out=out)
