"""Reads one folder with config.json, safetensors and tokenizer files; nothing else is trusted."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer

from validator.errors import ModelError, ModelIntegrityError
from validator.models.quiet import quiet

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["DTYPES", "read_folder", "read_tokenizer", "weight_files"]

DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}

_log = logging.getLogger(__name__)


def read_folder(
    folder: Path, *, dtype: str = "float32", device: str = "cpu"
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The causal LM (in eval mode, default sdpa attention) and the tokenizer of ``folder``.

    No code of the folder is run and no pickle is read. Raises ModelError if the folder cannot be
    read that way, ModelIntegrityError if weights are missing, misshapen or damaged.
    """
    torch_dtype, place = _dtype(dtype), _device(device)
    weight_files(folder)
    with quiet():
        model, info = _read_model(folder, torch_dtype)
        tokenizer = read_tokenizer(folder)
    _require_all_weights(folder, info)
    return model.to(place).eval(), tokenizer


def weight_files(folder: Path) -> tuple[Path, ...]:
    """The safetensors files of ``folder``, sorted; raises ModelError if there is none."""
    found = tuple(sorted(folder.glob("*.safetensors")))
    if not found:
        raise ModelError(
            f"{folder} has no .safetensors file. Pickled weights (.bin, .pt) can run code and are "
            "not read: save the model once more with `model.save_pretrained(folder)`."
        )
    return found


def _read_model(
    folder: Path, dtype: torch.dtype
) -> tuple[PreTrainedModel, dict[str, set[object]]]:
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, use_safetensors=True, trust_remote_code=False,
            local_files_only=True, output_loading_info=True,
        )
    except SafetensorError as error:
        raise ModelIntegrityError(
            f"the weights in {folder} are damaged ({error}). Download or save them again."
        ) from error
    except (OSError, ValueError, RuntimeError, KeyError, ImportError) as error:
        raise ModelError(f"{folder} does not load as a causal language model: {error}") from error
    return model, info


def read_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of ``folder`` alone; raises ModelError if it has none that can be used."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True
        )
    except Exception as error:  # tokenizers raises bare Exception on a malformed file
        raise ModelError(f"{folder} has no readable tokenizer: {error}") from error
    if len(tokenizer) == 0 or _is_mute(tokenizer):
        raise ModelError(f"the tokenizer in {folder} turns text into no tokens: are its files "
                         "(tokenizer.json or tokenizer.model) missing?")
    return tokenizer


def _is_mute(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether text becomes no tokens; one that refuses a word it does not know is not mute."""
    try:
        return not tokenizer.encode("a", add_special_tokens=False)
    except Exception as error:  # tokenizers raises bare Exception for a word without a token
        return "UNK" not in str(error)


def _require_all_weights(folder: Path, info: dict[str, set[object]]) -> None:
    # transformers fills what a file lacks with random numbers and only warns.
    for kind in ("missing_keys", "mismatched_keys"):
        if bad := sorted(map(str, info.get(kind, ()))):
            raise ModelIntegrityError(
                f"{folder}: {len(bad)} {kind.replace('_', ' ')}, first {bad[0]}. The weights are "
                "not those of config.json."
            )
    if extra := sorted(map(str, info.get("unexpected_keys", ()))):
        _log.warning("%s: %d weights are not part of the model, first %s",
                     folder, len(extra), extra[0])


def _dtype(name: str) -> torch.dtype:
    if name not in DTYPES:
        raise ModelError(f"dtype must be one of {', '.join(DTYPES)}; got {name!r}")
    return DTYPES[name]


def _device(name: str) -> torch.device:
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"device {name!r} cannot be used: {reason} Try device='cpu'.") from error
