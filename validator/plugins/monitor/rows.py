"""The attention rows of one decoding step, of all layers at once.

The model computes with its usual kernel. What each attention call is given (a query, and the keys
so far) is turned into scores while the keys are in the processor's cache; the rest is done once for
all layers, so that a step costs few operations more than layers.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

from validator.errors import NoAttentionError
from validator.features.interface import layer_paths, served_by_sdpa
from validator.features.interface_rows import InterfaceCall, plain_scale

__all__ = ["StepRows"]


class StepRows:
    """A :class:`~validator.features.interface.Recorder` of steps of one token.

    Args:
        model: a transformers causal LM.
        layers: true indices of the layers that are wanted; None for all.

    Attributes:
        open: whether the calls that come are those of a step; calls of a prompt are passed over.
    """

    def __init__(self, model: Any, layers: Collection[int] | None) -> None:
        self.paths, self.sdpa = layer_paths(model), served_by_sdpa(model)
        self.wanted = None if layers is None else frozenset(layers)
        self.open = False
        self.scores: dict[int, Tensor] = {}
        self.formed: dict[int, Tensor] = {}
        """Weights of layers that are no plain softmax, by the model's own function."""

    def begin(self) -> None:
        """Forget the step before."""
        self.scores, self.formed = {}, {}

    def add(self, call: InterfaceCall, value: Tensor) -> None:
        """Take the row of one layer."""
        if not self.open or (self.wanted is not None and call.layer not in self.wanted):
            return
        if call.query.shape[2] != 1:
            raise NoAttentionError(
                f"layer {call.layer} has {call.query.shape[2]} queries in one step; the monitor "
                "follows one token a step (no speculative decoding)")
        if call.layer in self.scores or call.layer in self.formed:
            raise NoAttentionError(f"layer {call.layer} was called more than once in one step")
        scale = plain_scale(call)
        if scale is None:
            block = next(call.blocks())
            self.formed[call.layer] = block.weights[:, :, 0].clone()
        else:
            self.scores[call.layer] = _scores(call, scale)

    @property
    def layers(self) -> tuple[int, ...]:
        """(L,) those that were seen in this step, ascending."""
        return tuple(sorted({*self.scores, *self.formed}))

    def rows(self, total: int) -> tuple[Tensor, Tensor]:
        """The step's rows.

        Args:
            total: T, tokens that the step could see; a sliding window sees the last of them.

        Returns:
            (L, B, H, T) weights and (L, B, H) Shannon entropies in nats.
        """
        if not self.scores:
            weights = torch.stack([_front(self.formed[i], total, 0.0) for i in self.layers])
            return weights, torch.special.entr(weights).sum(-1)
        like = next(iter(self.scores.values()))
        lowest = torch.finfo(like.dtype).min / 2  # half, so that 0 * score stays 0
        blank = like.new_full((*like.shape[:2], total), lowest)
        scores = torch.stack([
            _front(self.scores[i], total, lowest) if i in self.scores else blank
            for i in self.layers])
        # The largest score of a row becomes 0: the entropy of a peaked row keeps its digits.
        scores -= scores.amax(-1, keepdim=True)
        weights = torch.softmax(scores, -1)
        entropy = -weights.amax(-1).log() - (scores.mul_(weights)).sum(-1)
        for i, layer in enumerate(self.layers):
            if layer in self.formed:
                weights[i] = _front(self.formed[layer], total, 0.0)
                entropy[i] = torch.special.entr(weights[i]).sum(-1)
        return weights, entropy


def _scores(call: InterfaceCall, scale: float) -> Tensor:
    """(B, H, K) scaled and masked, in single precision or better."""
    batch, heads, _, width = call.query.shape
    groups, keys = call.key.shape[1:3]
    query = _wide(call.query).reshape(batch * groups, heads // groups, width) * scale
    key = _wide(call.key).reshape(batch * groups, keys, width)
    scores = torch.bmm(query, key.transpose(1, 2)).view(batch, heads, keys)
    if call.mask is None:
        return scores
    mask, lowest = call.mask[..., -1, :keys], torch.finfo(scores.dtype).min / 2
    if mask.dtype == torch.bool:
        return scores.masked_fill_(~mask, lowest)
    return scores + mask.clamp_min(lowest)


def _wide(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()


def _front(values: Tensor, total: int, filler: float) -> Tensor:
    """(B, H, K) -> (B, H, T): what a window does not see comes before what it does."""
    missing = total - values.shape[-1]
    if missing < 0:
        raise NoAttentionError(
            f"a layer shows {values.shape[-1]} keys where {total} tokens were fed; attention over "
            "other things than tokens cannot be followed")
    return values if missing == 0 else torch.nn.functional.pad(values, (missing, 0), value=filler)
