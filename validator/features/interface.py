"""Attention of models that go through the transformers attention interface.

The model runs with its own fast kernel while each layer's queries and keys are set aside; the
weights of a block of rows are formed later by the model's own eager attention function, so that
grouped queries, soft caps, sinks and biases stay right. Queries and keys of a half precision model
are widened to float32 first: softmax in float32 makes rows sum to 1.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from validator.errors import NoAttentionError
from validator.features.rows import RowKernel
from validator.features.untouched import evaluating, implementation
from validator.types import AttentionRows

__all__ = ["InterfaceCall", "Window", "interface_calls", "layer_index", "layer_paths"]

BLOCK_BYTES = 2**21
"""Size of one block of attention rows of all heads: about what a processor's cache holds."""
BLOCK_ROWS = 32
"""Fewest rows of a block: products of fewer rows are slow, whatever their size."""
DEVICE_BLOCK_BYTES = 2**28
"""Size of a block on other devices, which want large products."""


class _Name(str):
    """A name that a model takes for sdpa where it looks at it.

    Models with sparse attention put their choice of keys into the mask for eager and sdpa alone,
    and leave it to the attention function under any other name.
    """

    __slots__ = ()
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        return other == "sdpa" or str.__eq__(self, other)

    def __ne__(self, other: object) -> bool:
        return not self == other


IMPLEMENTATION = _Name("spectral_validator")
ELSEWHERE = ("indices", "block_indices")
"""Options in which sparse attention hands its choice of keys to kernels that understand it."""
NOT_SDPA = ("softcap", "s_aux", "sinks")
"""Options that change the weights and that sdpa does not know."""


PLAIN_TOLERANCE = 1e-5


@dataclass(frozen=True, slots=True)
class Window:
    """Which tokens are read, and of which layers the attention is wanted."""

    start: int
    """How many tokens come before."""
    rows: int
    layers: frozenset[int] | None
    """Layers to set aside; None for all."""

    def wants(self, layer: int) -> bool:
        """Whether the layer's attention is to be set aside."""
        return self.layers is None or layer in self.layers


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

    def blocks(self) -> Iterator[AttentionRows]:
        """The weights of all rows, block by block."""
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


@dataclass
class _Recorder:
    window: Window
    paths: Mapping[int, int]
    sdpa: bool
    """Whether the architecture's attention is what sdpa computes."""
    calls: list[InterfaceCall] = field(default_factory=list)
    seen: list[int] = field(default_factory=list)
    causal_mask: Tensor | None = None

    def add(self, call: InterfaceCall, value: Tensor) -> None:
        if call.layer in self.seen:
            raise NoAttentionError(
                f"layer {call.layer} was called more than once in one forward pass, so it has no "
                f"one attention map ({type(call.module).__name__}); this architecture is not "
                "supported")
        self.seen.append(call.layer)
        self._require_whole(call)
        self._require_causal(call)
        if self.window.wants(call.layer):
            norm = torch.linalg.vector_norm(
                value[:, :, -self.window.rows :].float(), dim=(1, 3))
            self.calls.append(dataclasses.replace(
                call, value=value[..., :1].clone(), value_norm=norm))

    def _require_whole(self, call: InterfaceCall) -> None:
        """One key for each token: compressed and cut caches have others."""
        got = (call.query.shape[2], call.key.shape[2])
        expected = (self.window.rows, self.window.start + self.window.rows)
        if got != expected:
            raise NoAttentionError(
                f"layer {call.layer}: expected {expected[0]} queries and {expected[1]} keys, one "
                f"for each token, got {got[0]} and {got[1]}; attention over other things than "
                "tokens, or after a cache that keeps only some, cannot be read")

    def _require_causal(self, call: InterfaceCall) -> None:
        mask = call.mask
        if mask is None:
            flag = call.options.get("is_causal")
            causal = getattr(call.module, "is_causal", True) if flag is None else flag
        elif mask is self.causal_mask:
            return
        else:
            allowed = mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2
            causal = not bool(allowed.triu(self.window.start + 1).any())
            self.causal_mask = mask if causal else None
        if not causal and self.window.rows > 1:
            raise NoAttentionError(
                f"layer {call.layer} attends to later tokens ({type(call.module).__name__}); only "
                "causal attention can be read. For a BERT-like model set `is_decoder=True` in its "
                "configuration")


_active: ContextVar[_Recorder | None] = ContextVar("spectral_validator_recorder", default=None)


def interface_calls(
    model: Any, window: Window, arguments: Mapping[str, Any]
) -> tuple[list[InterfaceCall], Sequence[int], Any]:
    """Run the model and set aside the calls of its attention functions.

    Returns:
        The calls of the layers that are wanted; the indices of all layers that were seen, none
        where the architecture does not use the interface; the model's output.
    """
    if not model._can_set_attn_implementation():
        return [], [], None
    with _recording(model, window) as recorder, implementation(model, IMPLEMENTATION):
        output = model(**arguments, output_attentions=False)
    return recorder.calls, recorder.seen, output


def layer_paths(model: torch.nn.Module) -> dict[int, int]:
    """id of each module -> the first number on its path, e.g. 3 of ``model.layers.3.self_attn``."""
    paths = {}
    for name, module in model.named_modules():
        numbers = [part for part in name.split(".") if part.isdigit()]
        if numbers:
            paths[id(module)] = int(numbers[0])
    return paths


def layer_index(module: torch.nn.Module, paths: Mapping[int, int]) -> int:
    """Index of the layer that an attention module belongs to, among all layers of the model."""
    # An architecture's own numbers may count something else: attention calls in longcat_flash,
    # and -1 for the blocks that zamba2 shares.
    index = paths.get(id(module), getattr(module, "layer_idx", None))
    if index is None:
        raise NoAttentionError(
            f"cannot tell which layer {type(module).__name__} belongs to: it has no layer index "
            "and is not in a list of layers; this architecture is not supported")
    return int(index)


_plain: WeakKeyDictionary[torch.nn.Module, bool] = WeakKeyDictionary()
"""Whether an attention module's weights are softmax(q k^T scale + mask), as found by comparison."""


def _plain_kernel(call: InterfaceCall, offset: int) -> RowKernel | None:
    """The fast way to the call's weights, where it gives what the model's own function gives."""
    if any(call.options.get(name) is not None for name in (*NOT_SDPA, "position_bias")):
        return None
    if call.key.shape[2] < 2:  # with one key any function gives 1, which proves nothing
        return None
    scale = call.options.get("scaling")
    scale = call.query.shape[-1] ** -0.5 if scale is None else float(scale)
    block = max(last - first for first, last in _row_blocks(call))
    kernel = RowKernel(call.query, call.key, call.mask, scale, block)
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


def _record(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor,
    attention_mask: Tensor | None, **options: Any,
) -> tuple[Tensor, None]:
    """The attention function that is registered: the model's usual output, inputs set aside."""
    recorder = _active.get()
    if recorder is None:
        raise NoAttentionError(
            f"the attention implementation {str(IMPLEMENTATION)!r} only works while attention is "
            "captured; set another one, e.g. 'sdpa'")
    if any(options.get(name) is not None for name in ELSEWHERE):
        raise NoAttentionError(
            f"{type(module).__name__} leaves its choice of keys to the attention function; this "
            "architecture is not supported")
    layer = layer_index(module, recorder.paths)
    call = InterfaceCall(layer, module, query, key, value, attention_mask, options)
    recorder.add(call, value)
    if recorder.sdpa and all(options.get(name) is None for name in NOT_SDPA):
        output, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
        return output, None
    offset = key.shape[2] - query.shape[2]
    parts = [_eager_rows(call, first, last, offset)[0] for first, last in _row_blocks(call)]
    return torch.cat(parts, 1), None


def _causal_mask(*args: Any, allow_is_causal_skip: bool = True, **options: Any) -> Tensor | None:
    """The mask of sdpa; always spelled out for models that sdpa does not serve.

    Those do not say whether they are causal other than by their mask.
    """
    recorder = _active.get()
    skip = allow_is_causal_skip and (recorder is None or recorder.sdpa)
    mask: Tensor | None = sdpa_mask(*args, allow_is_causal_skip=skip, **options)
    return mask


@contextmanager
def _recording(model: Any, window: Window) -> Iterator[_Recorder]:
    sdpa = all(getattr(m, "_supports_sdpa", True) for m in model.modules())
    recorder = _Recorder(window, layer_paths(model), sdpa)
    token = _active.set(recorder)
    try:
        yield recorder
    finally:
        _active.reset(token)


def _eager_function(module: torch.nn.Module) -> Callable[..., tuple[Tensor, Tensor]]:
    function: Callable[..., tuple[Tensor, Tensor]] | None = getattr(
        sys.modules[type(module).__module__], "eager_attention_forward", None)
    if function is None:
        raise NoAttentionError(
            f"{type(module).__name__} has no eager attention function to read weights from; "
            "this architecture is not supported")
    return function


AttentionInterface.register(IMPLEMENTATION, _record)
AttentionMaskInterface.register(IMPLEMENTATION, _causal_mask)
