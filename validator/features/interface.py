"""Attention of models that go through the transformers attention interface.

The model runs with its own fast kernel while each layer's queries and keys are set aside; the
weights are formed from them later, in blocks of rows (:mod:`validator.features.interface_rows`). Or
they are formed at once, for the model and the reader together, where the reader needs nothing that
is known only at the end of the forward pass.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import eager_mask, sdpa_mask

from validator.errors import NoAttentionError
from validator.features.interface_rows import (
    NOT_SDPA,
    BlockConsumer,
    InterfaceCall,
    output_in_blocks,
    read_while_running,
)
from validator.features.untouched import implementation

__all__ = [
    "EAGER", "Consumers", "Recorder", "Window", "interface_calls", "layer_index", "layer_paths",
    "recording", "served_by_sdpa",
]

Consumers = dict[int, BlockConsumer]
"""Layer -> what took its attention while the model ran."""


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
EAGER = "spectral_validator_eager"
"""The same with the masks of eager attention, for recorders that compute eagerly themselves."""
ELSEWHERE = ("indices", "block_indices")
"""Options in which sparse attention hands its choice of keys to kernels that understand it."""


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


class Recorder(Protocol):
    """Is shown each call of an attention function while the model runs."""

    @property
    def paths(self) -> Mapping[int, int]:
        """From :func:`layer_paths`."""

    @property
    def sdpa(self) -> bool:
        """From :func:`served_by_sdpa`."""

    def add(self, call: InterfaceCall, value: Tensor) -> Tensor | None:
        """Take a call; its output, where it was formed on the way.

        Args:
            call: the call, with the whole value vectors.
            value: the same (B, G, T, D) values.
        """


@dataclass
class _Recorder:
    window: Window
    paths: Mapping[int, int]
    sdpa: bool
    """Whether the architecture's attention is what sdpa computes."""
    consumer: Callable[[], BlockConsumer] | None
    """Makes what takes a layer's attention while the model runs, or None to set it aside."""
    consumed: Consumers = field(default_factory=dict)
    calls: list[InterfaceCall] = field(default_factory=list)
    seen: list[int] = field(default_factory=list)
    causal_mask: Tensor | None = None

    def add(self, call: InterfaceCall, value: Tensor) -> Tensor | None:
        """Set a call aside, or have it read now and return its output."""
        if call.layer in self.seen:
            raise NoAttentionError(
                f"layer {call.layer} was called more than once in one forward pass, so it has no "
                f"one attention map ({type(call.module).__name__}); this architecture is not "
                "supported")
        self.seen.append(call.layer)
        self._require_whole(call)
        self._require_causal(call)
        if not self.window.wants(call.layer):
            return None
        norm = torch.linalg.vector_norm(value[:, :, -self.window.rows :].float(), dim=(1, 3))
        kept = dataclasses.replace(call, value=value[..., :1].clone(), value_norm=norm)
        output = None
        if self.consumer is not None and self.sdpa:
            taker = self.consumer()
            output = read_while_running(kept, value, taker)
            if output is not None:
                self.consumed[call.layer] = taker
                kept = kept.emptied()
        self.calls.append(kept)
        return output

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


_active: ContextVar[Recorder | None] = ContextVar("spectral_validator_recorder", default=None)


def interface_calls(
    model: Any, window: Window, arguments: Mapping[str, Any],
    consumer: Callable[[], BlockConsumer] | None = None,
) -> tuple[list[InterfaceCall], Consumers, Sequence[int], Any]:
    """Run the model and set aside the calls of its attention functions.

    Args:
        model: a transformers causal LM.
        window: what is read.
        arguments: of its forward pass.
        consumer: makes what takes a layer's attention while the model runs, where that can be.

    Returns:
        The calls of the layers that are wanted; what took their attention already; the indices of
        all layers that were seen, none where the architecture does not use the interface; the
        model's output.
    """
    if not model._can_set_attn_implementation():
        return [], {}, [], None
    recorder = _Recorder(window, layer_paths(model), served_by_sdpa(model), consumer)
    with recording(model, recorder):
        output = model(**arguments, output_attentions=False)
    return recorder.calls, recorder.consumed, recorder.seen, output


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
    read = recorder.add(call, value)
    if read is not None:
        return read, None
    if recorder.sdpa and all(options.get(name) is None for name in NOT_SDPA):
        output, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
        return output, None
    return output_in_blocks(call), None


def _causal_mask(*args: Any, allow_is_causal_skip: bool = True, **options: Any) -> Tensor | None:
    """The mask of sdpa; always spelled out for models that sdpa does not serve.

    Those do not say whether they are causal other than by their mask.
    """
    recorder = _active.get()
    skip = allow_is_causal_skip and (recorder is None or recorder.sdpa)
    mask: Tensor | None = sdpa_mask(*args, allow_is_causal_skip=skip, **options)
    return mask


def served_by_sdpa(model: torch.nn.Module) -> bool:
    """Whether the architecture's attention is what sdpa computes."""
    return all(getattr(m, "_supports_sdpa", True) for m in model.modules())


@contextmanager
def recording(model: Any, recorder: Recorder, name: str | None = None) -> Iterator[None]:
    """Show the recorder every attention call of the model, which computes with its usual kernel.

    With the name :data:`EAGER` its masks are those of eager attention, and the recorder gives each
    call's output.
    """
    token = _active.set(recorder)
    try:
        with implementation(model, IMPLEMENTATION if name is None else name):
            yield
    finally:
        _active.reset(token)


AttentionInterface.register(IMPLEMENTATION, _record)
AttentionMaskInterface.register(IMPLEMENTATION, _causal_mask)
AttentionInterface.register(EAGER, _record)
AttentionMaskInterface.register(EAGER, eager_mask)
