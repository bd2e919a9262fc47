"""Tiny random models and a byte-level tokenizer, so that most tests need no file and no network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedTokenizerFast

from validator.types import Trace

torch.set_num_threads(1)  # tiny models gain nothing from more, and stall where a core is busy

SHARED = Path(__file__).parents[2] / "shared" / "data"

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


@pytest.fixture(autouse=True)
def _threads(request: pytest.FixtureRequest) -> Iterator[None]:
    """Two threads for tests that run the real model."""
    real = request.node.get_closest_marker("model") is not None
    torch.set_num_threads(2 if real else 1)
    yield
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny() -> tuple[Any, PreTrainedTokenizerFast]:
    """A tiny random llama and its tokenizer."""
    return tiny_model(), byte_tokenizer()


@pytest.fixture(scope="session")
def make_tiny() -> Callable[..., Any]:
    """Factory of tiny random models by architecture."""
    return tiny_model


@pytest.fixture
def traces() -> list[Trace]:
    """Six traces of three problems with different lengths and both labels."""
    made = []
    for p in range(3):
        for k in range(2):
            text = f" {p} + {k} = {p + k}" + "." * (1 + p + 3 * k)
            made.append(Trace(f"p{p}#{k}", f"p{p}", f"Q: add {p} and it.\nA:", text, (p + k) % 2))
    return made


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of labelled traces kept beside the project."""
    return SHARED
