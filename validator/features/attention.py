"""Causal LM + tokens -> attention weights, one layer at a time, never all of them at once.

The model runs once while each layer sets aside what its weights can be formed from again, which
grows with T and not with T^2. The weights are then formed layer by layer and in blocks of rows, and
each block is freed before the next. The log-probabilities of the tokens are known by then, which
lets them serve as graph signals in the same pass.

What is set aside depends on the architecture: the queries and keys where the model goes through the
transformers attention interface (:mod:`validator.features.interface`), else the inputs of its
attention modules (:mod:`validator.features.fallback`).

All sequences are padded on the right: under a causal mask no token attends to what follows it, so
padding cannot change what is read. That no token does is checked.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from validator.errors import ModelError, NoAttentionError, ParameterError
from validator.features.fallback import replay_calls
from validator.features.interface import Consumers, Window, interface_calls
from validator.features.interface_rows import BlockConsumer
from validator.features.untouched import evaluating
from validator.types import AttentionRows, LayerAttention

__all__ = [
    "CapturedForward", "LayerCall", "attention_rows", "captured_forward", "repeatable_cache"]


class LayerCall(Protocol):
    """What was set aside of one layer: all it takes to form its weights again."""

    @property
    def layer(self) -> int:
        """Index of the layer among all layers of the model."""

    @property
    def value_norm(self) -> Tensor | None:
        """(B, R) norm of each token's value vectors, or None."""

    def blocks(self) -> Iterator[AttentionRows]:
        """The weights of the R rows, in ascending order."""


@dataclass(frozen=True)
class CapturedForward:
    """What one forward pass leaves behind: linear in T, for every layer."""

    calls: list[LayerCall]
    """The layers that were asked for, ascending; each is released when it has been read."""
    start: int
    """How many tokens came before those that were read."""
    hidden: dict[int, Tensor]
    """True layer index -> input hidden states (B, R, D), of the same layers."""
    logits: Tensor
    """(B, K, V) next-token logits of the last K tokens."""
    final: Tensor
    """(B, R, D) the last hidden states."""
    consumed: Consumers
    """Layers whose attention was taken while the model ran: they have no blocks left."""
    cache: Any
    """The key-value cache, if one was asked for; None where it cannot be copied to several
    continuations (sliding windows, recurrent states, attention outside the interface)."""


def captured_forward(
    model: Any, ids: Tensor, *, past: Any = None, keep_logits: int, keep_cache: bool = False,
    keep_windows: bool = False, layers: Collection[int] | None = None,
    consumer: Callable[[], BlockConsumer] | None = None,
) -> CapturedForward:
    """Run the model once over right-padded tokens and set aside what its attention was made of.

    Args:
        model: a transformers causal LM; left exactly as it was found, also after an exception. It
            runs in evaluation mode: dropout would make its attention random.
        ids: (B, R) token ids that follow the tokens in ``past``.
        past: key-value cache of the tokens before, with batch size B, or None; it is extended.
        keep_logits: K, for how many of the last tokens logits are computed.
        keep_cache: return the key-value cache.
        keep_windows: return it also where sliding-window layers hold their last keys alone: enough
            to go on token by token, but not to read rows after it.
        layers: indices of the layers to set aside, or None for all that have attention.
        consumer: makes what takes one layer's attention. Where the weights are plain, they are then
            formed once, for the model and for the consumer; else they are set aside as without.

    Raises:
        NoAttentionError: the model has no attention that can be read, or not by one causal map
            per layer.
        ParameterError: a layer was asked for that has no attention.
        ModelError: ``past`` for a model whose attention cannot follow a cache.
    """
    start = 0 if past is None else past.get_seq_length()
    window = Window(start, ids.shape[1], None if layers is None else frozenset(layers))
    arguments = _arguments(model, ids, past, keep_logits, keep_cache)
    with torch.inference_mode(), evaluating(model):
        calls, consumed, seen, output = _run(model, window, arguments, consumer)
    _require_layers(layers, seen, model)
    hidden = _hidden_states(model, output, [call.layer for call in calls], ids)
    found = getattr(output, "past_key_values", None)
    cache = found if keep_cache and repeatable_cache(found, keep_windows) else None
    return CapturedForward(calls, start, hidden, output.logits[:, -keep_logits:],
                           output.hidden_states[-1], consumed, cache)


def _run(
    model: Any, window: Window, arguments: dict[str, Any],
    consumer: Callable[[], BlockConsumer] | None,
) -> tuple[list[LayerCall], Consumers, Sequence[int], Any]:
    """By the attention interface, or by replay where the architecture does not use it."""
    calls: Sequence[LayerCall]
    calls, consumed, seen, output = interface_calls(model, window, arguments, consumer)
    if not seen:
        if arguments.pop("past_key_values", None) is not None:
            raise ModelError(
                f"{type(model).__name__} does not use the transformers attention interface, so its "
                "attention cannot be read after a cache; read each sequence whole")
        if "use_cache" in arguments:
            arguments["use_cache"] = False
        calls, seen, output = replay_calls(model, window, arguments)
    return list(calls), consumed, seen, output


def attention_rows(
    forward: CapturedForward, layers: Collection[int] | None = None
) -> Iterator[LayerAttention]:
    """The attention of each layer in turn, as blocks of rows that cover it.

    What was set aside of a layer is released once it has been passed, so a captured forward can be
    read once.

    Args:
        forward: from :func:`captured_forward`.
        layers: the layers whose weights are wanted; None for all that were set aside.

    Yields:
        Each layer, ascending; its blocks are formed as they are read.

    Raises:
        ParameterError: a layer that was not set aside, or a forward that was read before.
    """
    if not forward.calls:
        raise ParameterError("this captured forward has been read already; capture it again")
    _require_layers(layers, [call.layer for call in forward.calls])
    return _read(forward, layers)


def _read(forward: CapturedForward, layers: Collection[int] | None) -> Iterator[LayerAttention]:
    while forward.calls:
        call = forward.calls.pop(0)
        hidden = forward.hidden.pop(call.layer)
        if layers is None or call.layer in layers:
            yield LayerAttention(call.layer, forward.start, hidden, call.value_norm, call.blocks())


def _arguments(
    model: Any, ids: Tensor, past: Any, keep_logits: int, keep_cache: bool
) -> dict[str, Any]:
    """Arguments of the forward pass, of those that the architecture knows.

    Positions are left to the model: it counts on from the cache, and not all count from 0.
    """
    known = inspect.signature(model.forward).parameters
    # Only what is named: what goes through ``**kwargs`` may end in an attention function.
    arguments = {"use_cache": keep_cache or past is not None, "logits_to_keep": keep_logits}
    arguments = {name: value for name, value in arguments.items() if name in known}
    if past is not None:
        arguments["past_key_values"] = past
    return arguments | {"input_ids": ids, "output_hidden_states": True, "return_dict": True}


def _require_layers(
    layers: Collection[int] | None, seen: Sequence[int], model: Any = None
) -> None:
    unknown = sorted(set(layers or ()) - set(seen))
    if unknown:
        where = "those set aside" if model is None else f"those of {type(model).__name__}"
        raise ParameterError(
            f"no attention of layer {', '.join(map(str, unknown))} can be read; the layers that "
            f"can, {where}: {', '.join(map(str, sorted(seen)))}")
    if layers is not None and not layers:
        raise ParameterError("no layers were asked for; name some, or pass None for all")


def _hidden_states(
    model: Any, output: Any, layers: Sequence[int], ids: Tensor
) -> dict[int, Tensor]:
    hidden: Sequence[Tensor] = getattr(output, "hidden_states", None) or ()
    shapes = [tuple(h.shape) for h in hidden]
    if any(len(hidden) <= i or len(shapes[i]) != 3 or shapes[i][:2] != ids.shape for i in layers):
        raise NoAttentionError(
            f"{type(model).__name__} does not return the hidden states of its layers: expected "
            f"(batch, tokens, width) for layers up to {max(layers)}, got {shapes}; this "
            "architecture is not supported")
    return {layer: hidden[layer] for layer in layers}


def repeatable_cache(cache: Any, windows: bool) -> bool:
    """Whether each layer of the cache keeps all keys and values, and nothing else.

    Args:
        cache: what a model returned.
        windows: let sliding-window layers pass, which keep the last keys alone.
    """
    kinds = (DynamicLayer, DynamicSlidingWindowLayer) if windows else (DynamicLayer,)
    return type(cache) is DynamicCache and all(type(layer) in kinds for layer in cache.layers)
