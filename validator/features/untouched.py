"""A model is read in a state of its own and found again as it was, also after an exception."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

__all__ = ["evaluating", "implementation"]


@contextmanager
def evaluating(module: torch.nn.Module) -> Iterator[None]:
    """Dropout off, as ``module.eval()`` does, and each submodule's training flag back afterwards.

    Attention read with dropout would be another one at every call.
    """
    training = [m for m in module.modules() if m.training]
    for submodule in training:
        submodule.training = False
    try:
        yield
    finally:
        for submodule in training:
            submodule.training = True


@contextmanager
def implementation(model: Any, name: str) -> Iterator[None]:
    """The named attention function in every configuration of the model, the old one afterwards.

    ``set_attn_implementation`` would refuse architectures that hold the attention functions of
    another one, and has no way back.
    """
    configurations = _configurations(model)
    before = [(c, getattr(c, "_attn_implementation_internal", None)) for c in configurations]
    try:
        for config, _ in before:
            config._attn_implementation_internal = name
        yield
    finally:
        for config, old in before:
            config._attn_implementation_internal = old


def _configurations(model: Any) -> list[Any]:
    """Every configuration a module may look at, those nested in others included."""
    found: dict[int, Any] = {}
    waiting = [m.config for m in model.modules() if hasattr(m, "config")]
    while waiting:
        config = waiting.pop()
        if config is None or id(config) in found or isinstance(config, dict):
            continue
        found[id(config)] = config
        waiting += [getattr(config, key, None) for key in getattr(config, "sub_configs", {})]
    return list(found.values())
