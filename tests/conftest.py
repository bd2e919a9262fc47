"""Tiny random models and a byte-level tokenizer, so that most tests need no file and no network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import byte_tokenizer, tiny_model
from transformers import PreTrainedTokenizerFast

from validator.types import Trace

torch.set_num_threads(1)  # tiny models gain nothing from more, and stall where a core is busy

SHARED = Path(__file__).parents[2] / "shared" / "data"


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
