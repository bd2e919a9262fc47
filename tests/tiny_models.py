"""A tiny random model and a byte-level tokenizer, made here."""

from __future__ import annotations

from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedTokenizerFast

SMALL: dict[str, Any] = {
    "vocab_size": 300, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}


def tiny_model(kind: str = "llama", **overrides: Any) -> Any:
    """A random causal LM of the given architecture, in float32, always the same weights."""
    torch.manual_seed(0)
    settings = SMALL | overrides
    if kind == "gpt2":
        settings = {"vocab_size": 300, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 256,
                    "bos_token_id": 1, "eos_token_id": 2}
    config = CONFIG_MAPPING[kind](**settings)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte, with a beginning-of-sequence token that is not added on its own."""
    specials = ["<pad>", "<s>", "</s>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(specials + alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>")
