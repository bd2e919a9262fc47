"""The weights of one attention call, formed again in blocks of rows.

They are formed by the model's own eager attention function, so that grouped queries, soft caps,
sinks and biases stay right; where the weights are plain, which is found by comparison, by a faster
kernel. Queries and keys of a half precision model are widened to float32 first: softmax in float32
makes rows sum to 1.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from validator.errors import NoAttentionError
from validator.features.rows import RowKernel
from validator.features.untouched import evaluating
from validator.types import AttentionRows

__all__ = ["NOT_SDPA", "BlockConsumer", "InterfaceCall", "eager_output", "output_in_blocks",
           "plain_scale", "read_while_running", "weights_with_gradient"]

BLOCK_BYTES = 2**21
"""Size of one block of attention rows of all heads: about what a processor's cache holds."""
BLOCK_ROWS = 64
"""Fewest rows of a block: products of fewer rows are slow, whatever their size."""
DEVICE_BLOCK_BYTES = 2**28
"""Size of a block on other devices, which want large products."""
NOT_SDPA = ("softcap", "s_aux", "sinks")
"""Options that change the weights and that sdpa does not know."""
PLAIN_TOLERANCE = 1e-5


class BlockConsumer(Protocol):
    """Takes the rows of one layer's attention as they are formed."""

    def add(self, block: AttentionRows) -> None:
        """Take the next rows; their memory is written over afterwards."""


@dataclass(frozen=True, slots=True)
class InterfaceCall:
    """One call of an attention function: all it takes to form its weights again."""

    layer: int
    module: torch.nn.Module
    query: Tensor
    """(B, H, R, D)"""
    key: Tensor
    """(B, G, T, D)"""
    value: Tensor
    """(B, G, T, 1): one value channel is enough for the weights to be formed again."""
    mask: Tensor | None
    """(B or 1, 1 or H, R, T) bool or added; None for causal."""
    options: Mapping[str, Any]
    value_norm: Tensor | None = None

    def emptied(self) -> InterfaceCall:
        """The call without its queries and keys, whose weights have been read."""
        none = self.query[:, :, :0]
        return dataclasses.replace(self, query=none, key=none, value=none, mask=None, options={})

    def blocks(self) -> Iterator[AttentionRows]:
        """The weights of all rows, block by block; none of an emptied call."""
        if self.query.shape[2] == 0:
            return
        wide = _widened(self)
        offset = self.key.shape[2] - self.query.shape[2]
        kernel = _plain_kernel(wide, offset)
        for first, last in _row_blocks(wide):
            if kernel is None:
                yield AttentionRows(_weights(wide, first, last, offset), offset + first)
            else:
                with torch.inference_mode():
                    weights, entropy = kernel.rows(first, last)
                yield AttentionRows(weights, offset + first, entropy)


def read_while_running(
    call: InterfaceCall, value: Tensor, consumer: BlockConsumer
) -> Tensor | None:
    """The call's output, formed from the very weights that the consumer takes block by block.

    One pass over the weights serves the model and the reader. Only for plain weights on a CPU, in
    single precision or better: other devices have kernels that are much faster than two passes.

    Returns:
        (B, R, H, D), what sdpa would return up to rounding; None where it does not apply.
    """
    if call.query.device.type != "cpu" or call.query.dtype not in (torch.float32, torch.float64):
        return None
    offset = call.key.shape[2] - call.query.shape[2]
    kernel = _plain_kernel(call, offset)
    if kernel is None:
        return None
    batch, heads, rows, _ = call.query.shape
    output = value.new_empty(batch, rows, heads, value.shape[-1])
    for first, last in _row_blocks(call):
        with torch.inference_mode():
            weights, entropy = kernel.rows(first, last)
            output[:, first:last] = kernel.attend(weights, value).transpose(1, 2)
        consumer.add(AttentionRows(weights, offset + first, entropy))
    return output


def output_in_blocks(call: InterfaceCall) -> Tensor:
    """(B, R, H, D) the output of the model's own eager function, never all weights at once."""
    offset = call.key.shape[2] - call.query.shape[2]
    parts = [_eager_rows(call, first, last, offset)[0] for first, last in _row_blocks(call)]
    return torch.cat(parts, 1)


def eager_output(call: InterfaceCall) -> Tensor:
    """(B, R, H, D) what the model's own eager function returns, in one piece, with gradient."""
    return _eager_rows(call, 0, call.query.shape[2], call.key.shape[2] - call.query.shape[2])[0]


def weights_with_gradient(call: InterfaceCall, first: int) -> Tensor:
    """(B, H, R - first, T) weights of the rows from ``first`` on, all at once, without dropout.

    Gradients flow to queries and keys. Single precision or better.
    """
    wide, rows = _widened(call), call.query.shape[2]
    with evaluating(call.module):
        return _eager_rows(wide, first, rows, call.key.shape[2] - rows)[1]


def plain_scale(call: InterfaceCall) -> float | None:
    """The scale of a call whose weights are softmax(scale q k^T + mask); None of any other."""
    if call.module not in _plain or any(
            call.options.get(name) is not None for name in (*NOT_SDPA, "position_bias")):
        offset = call.key.shape[2] - call.query.shape[2]
        return None if _plain_kernel(_widened(call), offset) is None else _scale(call)
    return _scale(call) if _plain[call.module] else None


def _scale(call: InterfaceCall) -> float:
    scale = call.options.get("scaling")
    return float(call.query.shape[-1] ** -0.5 if scale is None else scale)


_plain: WeakKeyDictionary[torch.nn.Module, bool] = WeakKeyDictionary()
"""Whether an attention module's weights are softmax(q k^T scale + mask), as found by comparison."""


def _plain_kernel(call: InterfaceCall, offset: int) -> RowKernel | None:
    """The fast way to the call's weights, where it gives what the model's own function gives."""
    if any(call.options.get(name) is not None for name in (*NOT_SDPA, "position_bias")):
        return None
    if call.key.shape[2] < 2:  # with one key any function gives 1, which proves nothing
        return None
    block = max(last - first for first, last in _row_blocks(call))
    kernel = RowKernel(call.query, call.key, call.mask, _scale(call), block)
    if call.module not in _plain:
        _plain[call.module] = _agrees(call, kernel, offset)
    return kernel if _plain[call.module] else None


def _agrees(call: InterfaceCall, kernel: RowKernel, offset: int) -> bool:
    """Compare the last row, which sees the most keys."""
    rows = call.query.shape[2]
    expected = _weights(call, rows - 1, rows, offset)
    with torch.inference_mode():
        found, _ = kernel.rows(rows - 1, rows)
        return bool(((found - expected).abs() <= PLAIN_TOLERANCE).all())


def _row_blocks(call: InterfaceCall) -> Iterator[tuple[int, int]]:
    batch, heads, rows, _ = call.query.shape
    row_bytes = batch * heads * call.key.shape[2] * call.query.element_size()
    size = BLOCK_BYTES if call.query.device.type == "cpu" else DEVICE_BLOCK_BYTES
    step = min(rows, max(BLOCK_ROWS, size // row_bytes))
    for first in range(0, rows, step):
        yield first, min(first + step, rows)


def _widened(call: InterfaceCall) -> InterfaceCall:
    if call.query.dtype in (torch.float32, torch.float64):
        return call
    return dataclasses.replace(
        call, query=call.query.float(), key=call.key.float(), value=call.value.float())


def _weights(call: InterfaceCall, first: int, last: int, offset: int) -> Tensor:
    """Rows first..last-1 of softmax(QK^T), by the model's own eager function."""
    with torch.inference_mode(), evaluating(call.module):
        _, weights = _eager_rows(call, first, last, offset)
    return weights


def _eager_rows(
    call: InterfaceCall, first: int, last: int, offset: int
) -> tuple[Tensor, Tensor]:
    """Output and weights of rows first..last-1; later keys are masked for all of them."""
    visible = offset + last
    output, weights = _eager_function(call.module)(
        call.module,
        call.query[:, :, first:last],
        call.key[:, :, :visible],
        call.value[:, :, :visible],
        _additive_mask(call, first, last, visible, offset),
        **_row_options(call, first, last, visible),
    )
    return output, weights[..., :visible]


def _row_options(call: InterfaceCall, first: int, last: int, visible: int) -> dict[str, Any]:
    """The options, those with one entry per row or score (sinks, biases) cut to the block."""
    rows, keys = call.query.shape[2], call.key.shape[2]
    options = dict(call.options)
    for name, value in options.items():
        if isinstance(value, Tensor) and value.ndim == 4 and value.shape[-2] == rows:
            part = value[..., first:last, :]
            options[name] = part[..., :visible] if value.shape[-1] == keys else part
    return options


def _additive_mask(call: InterfaceCall, first: int, last: int, visible: int, offset: int) -> Tensor:
    if call.mask is None:
        rows = torch.arange(first, last, device=call.query.device).unsqueeze(1) + offset
        allowed = torch.arange(visible, device=call.query.device).unsqueeze(0) <= rows
        allowed = allowed[None, None]
    else:
        allowed = call.mask[:, :, first:last, :visible]
        if allowed.dtype != torch.bool:
            return allowed
    lowest = torch.finfo(call.query.dtype).min
    zeros = torch.zeros((), dtype=call.query.dtype, device=call.query.device)
    return torch.where(allowed, zeros, lowest)


def _eager_function(module: torch.nn.Module) -> Callable[..., tuple[Tensor, Tensor]]:
    function: Callable[..., tuple[Tensor, Tensor]] | None = getattr(
        sys.modules[type(module).__module__], "eager_attention_forward", None)
    if function is None:
        raise NoAttentionError(
            f"{type(module).__name__} has no eager attention function to read weights from; "
            "this architecture is not supported")
    return function
