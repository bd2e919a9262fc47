"""Tiny models that decode, with a tokenizer from whose text any drawn tokens come back."""

from __future__ import annotations

from typing import Any

import torch
from tiny_models import tiny_model
from tokenizers import Tokenizer, decoders, models
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from validator.plugins.monitor import ValidityMonitor

PROMPT = "Q: add 3 and it.\nA:"
WINDOWS = {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
           "sliding_window": 8, "head_dim": 8}


def character_tokenizer() -> PreTrainedTokenizerFast:
    """One token per character; none of 0..2 has a text."""
    characters = "\n" + "".join(map(chr, (*range(32, 127), *range(0x400, 0x4CE))))
    vocabulary = {t: i for i, t in enumerate(("<pad>", "<s>", "</s>", *characters))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>")


def make_pair(kind: str = "llama", **overrides: Any) -> tuple[Any, PreTrainedTokenizerFast]:
    model = tiny_model(kind, **(WINDOWS if kind == "gemma3_text" else {}), **overrides)
    return model, character_tokenizer()


def write(
    model: Any, ids: Tensor, monitor: ValidityMonitor | None = None, *, new: int = 24,
    seed: int = 3, **options: Any
) -> Tensor:
    """Sampled tokens that follow the prompts; special tokens are never drawn."""
    torch.manual_seed(seed)
    settings = {
        "attention_mask": torch.ones_like(ids), "max_new_tokens": new, "do_sample": True,
        "suppress_tokens": [0, 1, 2], "pad_token_id": 0} | options
    criteria = [] if monitor is None else [monitor]
    found: Tensor = model.generate(ids, stopping_criteria=criteria, **settings)
    return found
