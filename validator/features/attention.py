"""Causal LM + tokens -> attention weights, one layer at a time, never all of them at once.

The model runs with its own fast attention kernel while each layer's queries and keys, which grow
with T and not with T^2, are set aside. The weights are then formed layer by layer and in blocks of
rows by the model's own eager attention function, so that grouped queries, soft caps and sinks stay
right, and each block is freed before the next. The log-probabilities of the tokens are known by
then, which lets them serve as graph signals in the same pass.

All sequences are padded on the right: under a causal mask no token attends to what follows it, so
padding cannot change what is read.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from validator.errors import NoAttentionError
from validator.types import AttentionRows

__all__ = ["CapturedForward", "attention_rows", "captured_forward"]

IMPLEMENTATION = "spectral_validator"
BLOCK_BYTES = 2**20
"""Upper bound of one block of attention rows of all heads, unless a single row is larger."""


@dataclass(frozen=True, slots=True)
class _Call:
    """One call of an attention function: all it takes to form its weights again."""

    module: torch.nn.Module
    query: Tensor
    key: Tensor
    value: Tensor
    mask: Tensor | None
    options: Mapping[str, Any]


@dataclass
class _Recorder:
    calls: list[_Call] = field(default_factory=list)


_active: ContextVar[_Recorder | None] = ContextVar("spectral_validator_recorder", default=None)


@dataclass(frozen=True)
class CapturedForward:
    """What one forward pass leaves behind: linear in T, for every layer."""

    calls: list[_Call]
    hidden: tuple[Tensor, ...]
    """Input hidden states of each layer, (B, R, D), by true layer index; then the last output."""
    logits: Tensor
    """(B, K, V) next-token logits of the last K tokens."""
    cache: Any
    """The key-value cache, if one was asked for."""


def captured_forward(
    model: Any, ids: Tensor, *, past: Any = None, keep_logits: int, keep_cache: bool = False
) -> CapturedForward:
    """Run the model once over right-padded tokens and set aside what its attention was made of.

    Args:
        model: a transformers causal LM; left exactly as it was found, also after an exception.
        ids: (B, R) token ids that follow the tokens in ``past``.
        past: key-value cache of the tokens before, with batch size B, or None; it is extended.
        keep_logits: K, for how many of the last tokens logits are computed.
        keep_cache: return the key-value cache.

    Raises:
        NoAttentionError: the model showed no attention to the transformers attention interface.
    """
    start = 0 if past is None else past.get_seq_length()
    positions = torch.arange(start, start + ids.shape[1], device=ids.device).unsqueeze(0)
    with torch.inference_mode(), _recording(model) as recorder:
        output = model(
            input_ids=ids,
            position_ids=positions.expand_as(ids),
            past_key_values=past,
            use_cache=keep_cache or past is not None,
            output_hidden_states=True,
            logits_to_keep=keep_logits,
        )
    if not recorder.calls:
        raise _no_attention(model)
    return CapturedForward(
        recorder.calls, output.hidden_states, output.logits,
        output.past_key_values if keep_cache else None,
    )


def attention_rows(forward: CapturedForward) -> Iterator[list[AttentionRows]]:
    """The attention weights of each layer in turn, as blocks of rows that cover it.

    The queries and keys of a layer are released once it has been read, so a captured forward can
    be read once.

    Yields:
        For each layer that has attention, its blocks in ascending order of ``start``.
    """
    forward.calls.reverse()
    seen: set[int] = set()
    while forward.calls:
        call = forward.calls.pop()
        layer = _layer_index(call.module, len(seen))
        seen.add(layer)
        yield list(_blocks(call, layer, forward.hidden[layer]))


def _blocks(call: _Call, layer: int, hidden: Tensor) -> Iterator[AttentionRows]:
    batch, heads, rows, _ = call.query.shape
    keys = call.key.shape[2]
    offset = keys - rows
    step = max(1, BLOCK_BYTES // (batch * heads * keys * call.query.element_size()))
    for first in range(0, rows, step):
        last = min(first + step, rows)
        weights = _weights(call, first, last, offset)
        yield AttentionRows(layer, weights, hidden[:, first:last], offset + first)


def _weights(call: _Call, first: int, last: int, offset: int) -> Tensor:
    """Rows first..last of softmax(QK^T), by the model's own eager function."""
    eager = _eager_function(call.module)
    visible = offset + last  # later keys are masked for every row of the block
    mask = _additive_mask(call, first, last, visible, offset)
    with torch.inference_mode():
        _, weights = eager(
            call.module,
            call.query[:, :, first:last],
            call.key[:, :, :visible],
            call.value[:, :, :visible],
            mask,
            **call.options,
        )
    return weights[..., :visible]


def _additive_mask(call: _Call, first: int, last: int, visible: int, offset: int) -> Tensor:
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
    if recorder is not None:
        # One value channel is enough for the weights to be formed again.
        recorder.calls.append(
            _Call(module, query, key, value[..., :1].clone(), attention_mask, options))
    if options.get("softcap") is None and options.get("s_aux") is None:
        output, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
        return output, None
    call = _Call(module, query, key, value, attention_mask, options)
    rows, keys = query.shape[2], key.shape[2]
    mask = _additive_mask(call, 0, rows, keys, keys - rows)
    output, _ = _eager_function(module)(module, query, key, value, mask, **options)
    return output, None


@contextmanager
def _recording(model: Any) -> Iterator[_Recorder]:
    if not model._can_set_attn_implementation():
        raise _no_attention(model)
    before = _implementations(model)
    recorder = _Recorder()
    token = _active.set(recorder)
    try:
        model.set_attn_implementation(IMPLEMENTATION)
        yield recorder
    finally:
        _active.reset(token)
        for config, implementation in before:
            config._attn_implementation_internal = implementation


def _implementations(model: Any) -> list[tuple[Any, str | None]]:
    """The attention implementation of every configuration in the model, to be put back."""
    configs = {id(m.config): m.config for m in model.modules() if hasattr(m, "config")}
    return [(c, getattr(c, "_attn_implementation_internal", None)) for c in configs.values()]


def _eager_function(module: torch.nn.Module) -> Callable[..., tuple[Tensor, Tensor]]:
    function: Callable[..., tuple[Tensor, Tensor]] | None = getattr(
        sys.modules[type(module).__module__], "eager_attention_forward", None)
    if function is None:
        raise NoAttentionError(
            f"{type(module).__name__} has no eager attention function to read weights from; "
            "this architecture is not supported")
    return function


def _layer_index(module: torch.nn.Module, default: int) -> int:
    index = getattr(module, "layer_idx", None)
    return default if index is None else int(index)


def _no_attention(model: Any) -> NoAttentionError:
    return NoAttentionError(
        f"no attention was seen in {type(model).__name__} "
        f"(model type {getattr(model.config, 'model_type', 'unknown')!r}): it has no attention "
        "layers, or does not route them through the transformers attention interface. Use a model "
        "whose attention can be read, e.g. llama, qwen, mistral, gemma, phi, gpt2 or gpt-neox")


AttentionInterface.register(IMPLEMENTATION, _record)
AttentionMaskInterface.register(IMPLEMENTATION, sdpa_mask)
