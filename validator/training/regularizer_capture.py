"""What a spectral term is made of, set aside while a model runs in training.

The queries and keys of each layer are kept as they enter its attention function, and the weights
are formed from them after the forward pass, outside whatever a checkpointed layer runs in. So the
layers compute what they compute without a term, operation for operation: the second forward pass of
gradient checkpointing, which comes with the backward pass and finds nobody recording, agrees with
the first.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from validator.errors import ModelError, NoAttentionError, ParameterError
from validator.features.interface import EAGER, layer_paths, recording, served_by_sdpa
from validator.features.interface_rows import InterfaceCall, eager_output

__all__ = ["Capture", "Captured"]


@dataclass
class Captured:
    """One forward pass of B sequences of T tokens."""

    mask: Any
    positions: Any
    labels: Tensor | None
    calls: dict[int, InterfaceCall] = field(default_factory=dict)
    """True layer index -> what its weights are formed from."""
    hidden: dict[int, Tensor] = field(default_factory=dict)
    """True layer index -> (B, T, D) input hidden states."""
    seen: list[int] = field(default_factory=list)


@dataclass
class Capture:
    """A recorder of :func:`validator.features.interface.recording`, open during forward passes.

    A forward pass without gradients is passed over, unless there were none to begin with.

    Args:
        model: a transformers causal LM, possibly inside PEFT or DistributedDataParallel.
        layers: true indices of the layers to set aside, or None for all.
        signals: whether hidden states are wanted.
    """

    model: Any
    layers: frozenset[int] | None
    signals: bool
    paths: Mapping[int, int] = field(init=False)
    sdpa: bool = field(init=False)
    found: Captured | None = None
    """The last forward pass, until it is taken."""

    def __post_init__(self) -> None:
        self.network = _network(self.model)
        self.decoder = self.network.base_model
        self.eager = _original(self.network) == "eager"
        self.paths, self.sdpa = layer_paths(self.network), served_by_sdpa(self.network)
        self.gradients = torch.is_grad_enabled()
        self._open: ExitStack | None = None
        self._labels: Tensor | None = None

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Watch the model's forward passes; afterwards nothing of this is left on it."""
        pre: dict[str, Any] = {"with_kwargs": True}
        with ExitStack() as hooks:
            hooks.callback(self._end)
            if self.model is not self.decoder:
                _kept(hooks, self.model.register_forward_pre_hook(self._outer, **pre))
            _kept(hooks, self.decoder.register_forward_pre_hook(self._begin, **pre))
            _kept(hooks, self.decoder.register_forward_hook(self._end, always_call=True))
            for block, layer in self._blocks() if self.signals else ():
                _kept(hooks, block.register_forward_pre_hook(self._block(layer), **pre))
            yield

    def take(self) -> Captured:
        """The forward pass that was set aside, which is forgotten here."""
        found, self.found = self.found, None
        if found is None:
            raise ParameterError("no forward pass to form a spectral term of: run the model inside "
                                 "`with regularizer.watch(model) as term`, then call term() once")
        missing = sorted((self.layers or set(found.seen)) - set(found.seen))
        if not found.seen or missing:
            raise NoAttentionError(
                f"no attention of {f'layers {missing}' if found.seen else 'any layer'} was seen in "
                f"{type(self.network).__name__}; layers seen: {found.seen}. The regularizer reads "
                "models that use the transformers attention interface")
        return found

    def add(self, call: InterfaceCall, value: Tensor) -> Tensor | None:
        """Set a call aside; for eager models, return its output as they would have it."""
        found = self.found
        assert found is not None
        self._require_readable(call, found)
        found.seen.append(call.layer)
        if self.layers is None or call.layer in self.layers:
            channel = value.detach()[..., :1].clone()
            found.calls[call.layer] = dataclasses.replace(call, value=channel)
        return eager_output(call) if self.eager else None

    def _require_readable(self, call: InterfaceCall, found: Captured) -> None:
        kind = type(call.module).__name__
        if self.gradients and not torch.is_grad_enabled():
            raise ModelError(
                "reentrant gradient checkpointing hides the attention from the gradient, so that a "
                "spectral term would do nothing; pass {'use_reentrant': False} as the keyword "
                "arguments of gradient checkpointing")
        if call.layer in found.seen:
            raise NoAttentionError(f"layer {call.layer} was called more than once in one forward "
                                   f"pass ({kind}), so it has no one attention map")
        if call.query.shape[2] != call.key.shape[2]:
            raise NoAttentionError(
                f"layer {call.layer}: expected one key for each of {call.query.shape[2]} tokens, "
                f"got {call.key.shape[2]}; a spectral term is of whole sequences, without a cache")
        if call.mask is None and not getattr(call.module, "is_causal", True):
            raise NoAttentionError(f"layer {call.layer} attends to later tokens ({kind}); only "
                                   "causal attention can be read")

    def _outer(self, module: Any, args: Any, kwargs: Mapping[str, Any]) -> None:
        self._labels = kwargs.get("labels")

    def _begin(self, module: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        if self.gradients and not torch.is_grad_enabled():
            return
        if self.found is not None:
            raise ParameterError("the model ran twice before term() was called; call it after each "
                                 "forward pass, or run the others under torch.no_grad()")
        given = inspect.signature(module.forward).bind_partial(*args, **kwargs).arguments
        given = {**given.get("kwargs", {}), **given}
        self.found = Captured(given.get("attention_mask"), given.get("position_ids"), self._labels)
        self._labels = None
        self._open = ExitStack()
        name = EAGER if self.eager else None
        self._open.enter_context(recording(self.network, self, name))

    def _end(self, module: Any = None, args: Any = None, output: Any = None) -> None:
        if self._open is not None:
            self._open.close()
            self._open = None
            if output is None:  # it ended in an exception
                self.found = None

    def _blocks(self) -> Iterator[tuple[Any, int]]:
        """The decoder's layers: modules whose path ends in its first number."""
        for name, module in self.decoder.named_modules():
            *above, last = name.split(".")
            if last.isdigit() and not any(part.isdigit() for part in above):
                yield module, int(last)

    def _block(self, layer: int) -> Any:
        def keep(module: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
            if self._open is not None and self.found is not None:
                self.found.hidden[layer] = args[0] if args else kwargs["hidden_states"]

        return keep


def _network(model: Any) -> Any:
    if isinstance(model, torch.nn.DataParallel):
        raise ModelError("DataParallel runs copies of the model that cannot be watched; use "
                         "DistributedDataParallel (torchrun), or one device")
    found = next((m for m in model.modules() if isinstance(m, PreTrainedModel)), None)
    if found is None:
        raise ModelError(f"expected a transformers model, got {type(model).__name__}")
    return found


def _original(network: Any) -> str:
    """Name of the attention implementation that the model was found with."""
    name = str(network.config.get_text_config()._attn_implementation)
    if name not in ("sdpa", "eager"):
        raise ModelError(f"a spectral term needs the attention implementation sdpa or eager, got "
                         f"{name!r}; call model.set_attn_implementation('sdpa') before training")
    if getattr(network.config, "reorder_and_upcast_attn", False):
        raise ModelError("reorder_and_upcast_attn computes attention in a way of its own that "
                         "cannot be watched; set it to False in the model's configuration")
    return name


def _kept(hooks: ExitStack, handle: Any) -> None:
    hooks.callback(handle.remove)
