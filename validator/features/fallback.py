"""Attention of models that do not go through the transformers attention interface.

A probe of two tokens shows which modules make the weights that the model itself returns as
``attentions``. The model then runs once in eager mode while the inputs of these modules are set
aside, and each module is called again, one layer at a time, for its weights alone. One layer's
weights of all heads are held at once, which the interface route avoids.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import Cache

from validator.errors import NoAttentionError
from validator.features import interface_rows
from validator.features.interface import Window, layer_index, layer_paths
from validator.features.untouched import evaluating, implementation
from validator.types import AttentionRows

__all__ = ["ReplayCall", "replay_calls"]

PROBE = 2
"""Tokens of the probe: the fewest that show whether the first attends to what follows it."""


@dataclass(frozen=True, slots=True)
class _Site:
    """A module that makes attention weights, and where in its result they are."""

    layer: int
    module: torch.nn.Module
    position: int


@dataclass(frozen=True, slots=True)
class ReplayCall:
    """The inputs of one layer's attention module: all it takes to form its weights again."""

    site: _Site
    model: Any
    rows: int
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    value_norm: Tensor | None = None
    """Always None: the values stay inside the module."""

    @property
    def layer(self) -> int:
        """Index of the layer among all layers of the model."""
        return self.site.layer

    def blocks(self) -> Iterator[AttentionRows]:
        """The weights of all rows, formed at once and given out block by block."""
        weights = _weights(self)
        row_bytes = weights[:, :, 0].numel() * weights.element_size()
        step = max(1, interface_rows.BLOCK_BYTES // row_bytes)
        for first in range(0, self.rows, step):
            last = min(first + step, self.rows)
            yield AttentionRows(weights[:, :, first:last, :last], first)


def replay_calls(
    model: Any, window: Window, arguments: Mapping[str, Any]
) -> tuple[list[ReplayCall], Sequence[int], Any]:
    """Run the model in eager mode and set aside the inputs of its attention modules.

    Returns:
        The calls of the layers that are wanted; the indices of all layers that have attention; the
        model's output.

    Raises:
        NoAttentionError: the model shows no causal attention weights, or not by one map per layer.
    """
    with implementation(model, "eager"):
        sites = _sites(model, arguments["input_ids"])
        calls: list[ReplayCall] = []
        with _inputs_kept(sites, model, window, calls):
            output = model(**arguments, output_attentions=False)
    expected = [site.layer for site in sites if window.wants(site.layer)]
    if sorted(call.layer for call in calls) != sorted(expected):
        raise NoAttentionError(
            f"{type(model).__name__}: expected one call of the attention of each of the layers "
            f"{expected}, got {[call.layer for call in calls]}; this architecture is not supported")
    return sorted(calls, key=lambda call: call.layer), [site.layer for site in sites], output


@contextmanager
def _inputs_kept(
    sites: Sequence[_Site], model: Any, window: Window, calls: list[ReplayCall]
) -> Iterator[None]:
    def keeper(site: _Site) -> Callable[..., None]:
        def keep(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            calls.append(ReplayCall(
                site, model, window.rows, tuple(_without_cache(part) for part in args),
                {name: _without_cache(part) for name, part in kwargs.items()}))
        return keep

    with ExitStack() as hooks:
        for site in sites:
            if window.wants(site.layer):
                handle = site.module.register_forward_pre_hook(keeper(site), with_kwargs=True)
                hooks.callback(handle.remove)
        yield


def _without_cache(value: Any) -> Any:
    """A cache would be given the same keys a second time."""
    return None if isinstance(value, Cache) else value


def _sites(model: Any, ids: Tensor) -> list[_Site]:
    """The modules whose results hold the weights that the model returns, found by identity."""
    shown, made = _probe(model, ids[:1, :PROBE])
    paths = layer_paths(model)
    sites: dict[int, _Site] = {}
    for weights in shown:
        if weights.ndim != 4 or weights.shape[0] != 1 or id(weights) not in made:
            raise _unreadable(model)
        module, position = made[id(weights)]
        site = _Site(layer_index(module, paths), module, position)
        _require_causal(weights, site)
        if sites.setdefault(site.layer, site) is not site:
            raise _unreadable(model)
    if not sites:
        raise _unreadable(model)
    return list(sites.values())


def _probe(
    model: Any, ids: Tensor
) -> tuple[Sequence[Tensor], dict[int, tuple[torch.nn.Module, int]]]:
    """The weights the model shows for a few tokens, and the innermost module that made each."""
    made: dict[int, tuple[torch.nn.Module, int]] = {}
    kept: list[Tensor] = []  # an object that is alive keeps its id

    def note(module: torch.nn.Module, _: Any, result: Any) -> None:
        for position, part in enumerate(result if isinstance(result, tuple | list) else ()):
            if isinstance(part, Tensor) and part.ndim == 4:
                kept.append(part)
                made.setdefault(id(part), (module, position))

    known = inspect.signature(model.forward).parameters.values()
    if not any(p.name == "output_attentions" or p.kind is p.VAR_KEYWORD for p in known):
        raise _unreadable(model)
    with ExitStack() as hooks:
        for module in model.modules():
            hooks.callback(module.register_forward_hook(note).remove)
        output = model(input_ids=ids, output_attentions=True, return_dict=True)
    return getattr(output, "attentions", None) or (), made


def _weights(call: ReplayCall) -> Tensor:
    """(B, H, R, R) weights of one layer, by the model's own module."""
    known = inspect.signature(call.site.module.forward)
    given = known.bind(*call.args, **call.kwargs)
    if "output_attentions" in known.parameters:
        given.arguments["output_attentions"] = True
    with torch.inference_mode(), evaluating(call.model), implementation(call.model, "eager"):
        weights = _result(call.site.module, given)[call.site.position]
    if not isinstance(weights, Tensor) or weights.shape[-2:] != (call.rows, call.rows):
        got = tuple(weights.shape) if isinstance(weights, Tensor) else type(weights).__name__
        raise NoAttentionError(
            f"layer {call.layer}: expected weights of {call.rows} by {call.rows} tokens from "
            f"{type(call.site.module).__name__}, got {got}; this architecture is not supported")
    _require_causal(weights, call.site)
    return weights if weights.dtype == torch.float64 else weights.float()


def _result(module: torch.nn.Module, given: inspect.BoundArguments) -> Any:
    """The module's result, in float32 where its parameters are in half precision."""
    state = dict(module.named_parameters()) | dict(module.named_buffers())
    if not any(t.dtype in (torch.float16, torch.bfloat16) for t in state.values()):
        return module.forward(*given.args, **given.kwargs)
    return torch.func.functional_call(
        module, _widened(state), _widened(given.args), _widened(given.kwargs))


def _widened(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value
    if isinstance(value, tuple | list):
        return type(value)(_widened(part) for part in value)
    if isinstance(value, dict):
        return {key: _widened(part) for key, part in value.items()}
    return value


def _require_causal(weights: Tensor, site: _Site) -> None:
    if bool(weights.triu(1).any()):
        raise NoAttentionError(
            f"layer {site.layer} attends to later tokens ({type(site.module).__name__}); only "
            "causal attention can be read. For a BERT-like model set `is_decoder=True` in its "
            "configuration")


def _unreadable(model: Any) -> NoAttentionError:
    return NoAttentionError(
        f"no attention was seen in {type(model).__name__} "
        f"(model type {getattr(model.config, 'model_type', 'unknown')!r}): it has no attention "
        "layers, or neither goes through the transformers attention interface nor returns one "
        "attention map per layer. Use a model whose attention can be read, e.g. llama, qwen, "
        "mistral, gemma, phi, gpt2 or gpt-neox")
