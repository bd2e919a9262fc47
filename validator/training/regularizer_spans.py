"""Which tokens of each padded sequence a spectral term is about."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from validator.errors import ParameterError

__all__ = ["cut_graphs", "cut_signals", "token_spans"]


def token_spans(
    span: str, shape: tuple[int, int], mask: Any, positions: Any, labels: Tensor | None
) -> tuple[Tensor, Tensor]:
    """First token and number of tokens of each sequence's span.

    Args:
        span: ``sequence``: the tokens the attention mask shows; ``completion``: of those, the
            supervised ones, from the first to the last.
        shape: (B, T).
        mask: (B, T), 1 for tokens and 0 for padding, on either side; None for no padding.
        positions: (B or 1, T) position of each token, or None.
        labels: (B, T), -100 where not supervised, or None.

    Returns:
        (B,) and (B,) int64; the second may be 0.

    Raises:
        ParameterError: no labels for ``completion``, a mask of another kind, or tokens that do not
            follow each other: holes in the mask or the labels, several texts in one row.
    """
    shown = _shown(shape, mask)
    whole = _runs(shown, "the attention mask has padding between tokens")
    _require_one_text(shown, positions)
    if span == "sequence":
        return whole
    if labels is None:
        raise ParameterError(
            "the span completion is where labels are not -100, and there are none; give the model "
            "labels=, pass them to term(labels), or take span='sequence'")
    if tuple(labels.shape) != shape:
        raise ParameterError(f"expected labels of shape {shape}, got {tuple(labels.shape)}")
    supervised = (labels.to(shown.device) != -100) & shown
    return _runs(supervised, "the labels supervise several separate stretches (a chat of several "
                             "turns); take span='sequence'")


def cut_graphs(attention: Tensor, first: Tensor, size: Tensor, start: int) -> Tensor:
    """(B, n, n) double: the attention among each span's tokens, zero past its size.

    Args:
        attention: (B, R, T) rows start..T-1.
        first: (B,) first token of each span, at least ``start``.
        size: (B,) tokens of each span; n is the largest.
        start: the token of the first row.
    """
    index, present = _indices(first, size)
    batch = torch.arange(len(first), device=first.device)[:, None, None]
    found = attention[batch, (index - start).unsqueeze(-1), index.unsqueeze(-2)]
    both = present.unsqueeze(-1) & present.unsqueeze(-2)
    return torch.where(both, found.double(), 0.0)


def cut_signals(hidden: Tensor, first: Tensor, size: Tensor) -> Tensor:
    """(B, n, D) double: the signal (B, T, D) on each span's tokens, zero past its size."""
    index, present = _indices(first, size)
    batch = torch.arange(len(first), device=first.device).unsqueeze(-1)
    return torch.where(present.unsqueeze(-1), hidden[batch, index].double(), 0.0)


def _indices(first: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
    offset = torch.arange(int(size.max()), device=first.device)
    present = offset < size.unsqueeze(-1)
    return first.unsqueeze(-1) + torch.where(present, offset, 0), present


def _shown(shape: tuple[int, int], mask: Any) -> Tensor:
    if mask is None:
        return torch.ones(shape, dtype=torch.bool)
    if not isinstance(mask, Tensor) or tuple(mask.shape) != shape:
        got = tuple(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
        raise ParameterError(f"expected an attention mask of shape {shape}, 1 for tokens and 0 for "
                             f"padding, got {got}: padding cannot be told from it")
    return mask != 0


def _require_one_text(shown: Tensor, positions: Any) -> None:
    if positions is None:
        return
    steps = positions.expand(shown.shape).diff(dim=-1)
    if bool(((steps != 1) & shown[:, 1:] & shown[:, :-1]).any()):
        raise ParameterError(
            "positions begin anew within a row: several texts are packed into one, whose graphs "
            "cannot be told apart; train without packing and without padding-free batches")


def _runs(chosen: Tensor, otherwise: str) -> tuple[Tensor, Tensor]:
    """First and number of the chosen columns of each row, which must be one stretch."""
    size = chosen.sum(-1)
    first = chosen.int().argmax(-1)
    last = chosen.shape[-1] - 1 - chosen.int().flip(-1).argmax(-1)
    if bool(((last - first + 1 != size) & (size > 0)).any()):
        raise ParameterError(otherwise)
    return first, size
