"""Which model reads the responses of a task, and what identifies it.

The reader that ``--metadata`` names; else the evaluated model itself where it lives in this process
as a transformers model, without a second copy of its weights; else none, with the reason.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from validator.errors import ModelError
from validator.models.loading import LoadedModel, identify_model, load_model

__all__ = ["Reader", "choose_reader", "remember"]

_live: weakref.ref[Any] | None = None

CHANGES_WEIGHTS = frozenset({
    "peft", "delta", "autogptq", "gptqmodel", "gguf_file", "load_in_8bit", "load_in_4bit",
    "quantization_config", "subfolder", "tokenizer", "added_tokens"})
"""Model arguments after which the weights are not, or may not be, those of ``pretrained``."""


@dataclass(frozen=True)
class Reader:
    """A model that can read traces."""

    model: Any
    """What :class:`SpectralFeatureExtractor` takes."""
    name: str
    revision: str
    options: tuple[tuple[str, str], ...]
    """``device`` and ``dtype`` of one that is not loaded yet."""
    origin: str
    """``evaluated model`` or ``reader``."""


def remember(model: Any) -> None:
    """Keep a weak reference to the evaluated model; called by the model ``hf-spectral``."""
    global _live
    _live = weakref.ref(model)


def choose_reader(metadata: Mapping[str, Any]) -> tuple[Reader | None, str]:
    """The reader, or None and why there is none.

    Args:
        metadata: model arguments and ``--metadata`` together, as lm-eval hands them to tasks:
            ``reader`` (known name, hub id or folder), ``reader_device``, ``reader_dtype``.

    Raises:
        UnknownModelError: no model of the reader's name.
    """
    named = metadata.get("reader")
    if named:
        name, revision = identify_model(str(named))
        options = (("device", str(metadata.get("reader_device", _default_device()))),
                   ("dtype", str(metadata.get("reader_dtype", "float32"))))
        return Reader(str(named), name, revision, options, "reader"), ""
    evaluated, reason = _evaluated(metadata)
    if evaluated is None:
        return None, reason
    loaded = _identified(evaluated, metadata)
    return Reader(loaded, loaded.name, loaded.revision, (), "evaluated model"), ""


def _default_device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _evaluated(metadata: Mapping[str, Any]) -> tuple[Any, str]:
    """The one living transformers model of lm-eval, or None and why."""
    from lm_eval.models.huggingface import HFLM

    known = _live() if _live is not None else None
    if known is not None and str(metadata.get("pretrained")) == str(known.pretrained):
        found = [known]
    else:
        # lm-eval hands its model to no task. Types, not isinstance: that would wake lazy proxies.
        found = [o for o in gc.get_objects() if issubclass(type(o), HFLM) and hasattr(o, "_model")]
    if not found:
        return None, "the evaluated model does not run in this process as a transformers model"
    if len(found) > 1:
        return None, (f"{len(found)} transformers models live in this process: which is meant is "
                      "not known")
    if found[0].backend != "causal":
        return None, "the evaluated model is no causal language model"
    return found[0], ""


def _identified(lm: Any, metadata: Mapping[str, Any]) -> LoadedModel:
    """The live model under the name and revision that a classifier knows it by."""
    network, tokenizer = lm.model, lm.tokenizer
    pretrained = getattr(lm, "pretrained", None)
    plain = not any(metadata.get(key) or getattr(lm, key, None) for key in CHANGES_WEIGHTS
                    if key != "tokenizer") and not metadata.get("tokenizer")
    plain = plain and getattr(network.config, "quantization_config", None) is None
    if isinstance(pretrained, str) and plain:
        if Path(pretrained).expanduser().is_dir():
            try:
                return LoadedModel(network.eval(), tokenizer, *identify_model(pretrained))
            except ModelError:  # weights in a format that we do not read: hash what is in memory
                pass
        commit = getattr(network.config, "_commit_hash", None)
        if commit:
            return LoadedModel(network.eval(), tokenizer, pretrained, str(commit))
    state = load_model((network, tokenizer))
    name = pretrained if isinstance(pretrained, str) else state.name
    return LoadedModel(state.model, tokenizer, Path(name).name if Path(name).is_dir() else name,
                       state.revision)
