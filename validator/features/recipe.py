"""Everything besides its tokens that decides a row's values, as plain data to be hashed."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

import transformers

from validator.features.plan import ReadPlan
from validator.types import Provenance

__all__ = ["extraction_recipe"]

CAPTURE_VERSION = 2
"""Raised whenever the way attention is read changes values beyond rounding."""


def extraction_recipe(
    model: Any, tokenizer: Any, provenance: Provenance, plan: ReadPlan
) -> dict[str, Any]:
    """Model, adapter, tokenizer, feature set, solver and versions; never the batch size.

    Args:
        model: a transformers causal LM, with or without a PEFT adapter.
        tokenizer: its tokenizer; vocabulary, normalisation and chat template count.
        provenance: of the extraction.
        plan: its feature set and solver.

    Returns:
        JSON-serialisable.
    """
    return {
        "provenance": dataclasses.asdict(provenance),
        "architecture": type(model).__name__,
        "adapter": _adapter(model),
        "tokenizer": _digest(_tokenizer_state(tokenizer)),
        "chat_template": _digest(str(getattr(tokenizer, "chat_template", None))),
        "features": plan.features.to_dict(),
        "solver": plan.solver.label,
        "capture": CAPTURE_VERSION,
        "transformers": ".".join(transformers.__version__.split(".")[:2]),
    }


def _adapter(model: Any) -> str:
    """The active adapters' configurations; their weights are part of the model's revision."""
    configs = getattr(model, "peft_config", None)
    return _digest(repr(sorted((n, str(c)) for n, c in configs.items()))) if configs else ""


def _tokenizer_state(tokenizer: Any) -> str:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        return str(backend.to_str())
    return repr(sorted(tokenizer.get_vocab().items()))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
