"""One tiny model for all tests that do not ask for another."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from decoding_models import PROMPT, make_pair
from torch import Tensor
from transformers import PreTrainedTokenizerFast


@pytest.fixture(scope="session")
def llama() -> tuple[Any, PreTrainedTokenizerFast]:
    return make_pair()


@pytest.fixture(scope="session")
def prompt_ids(llama: tuple[Any, PreTrainedTokenizerFast]) -> Tensor:
    return torch.tensor([llama[1](PROMPT)["input_ids"]])
