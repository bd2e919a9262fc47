"""Tiny random models and a byte-level tokenizer, so that most tests need no file and no network."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from tiny_models import byte_tokenizer, tiny_model
from transformers import PreTrainedTokenizerFast

from validator.types import Trace

torch.set_num_threads(1)  # tiny models gain nothing from more, and stall where a core is busy

SHARED = Path(__file__).parents[2] / "shared" / "data"


LONGEST = (
    "test_readme.py", "test_checkpoint_guides.py", "test_endpoint_server.py",
    "test_real_model.py")
"""Files that are begun first where several processes share the tests, a file each at a time. Of
those that hold :func:`lm_eval_lock` one alone: another would wait for it."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first, all else as it was: no process is left alone with one at the end."""
    order = {name: i for i, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))


@pytest.fixture(scope="session")
def lm_eval_lock(tmp_path_factory: pytest.TempPathFactory) -> FileLock:
    """Held by tests that install tasks into lm-eval, which all processes share."""
    return FileLock(tmp_path_factory.getbasetemp().parent / "lm-eval.lock")


@pytest.fixture(autouse=True)
def _threads(request: pytest.FixtureRequest) -> Iterator[None]:
    """Two threads for tests that run the real model, unless another process has tests as well."""
    real = request.node.get_closest_marker("model") is not None
    torch.set_num_threads(2 if real and "PYTEST_XDIST_WORKER" not in os.environ else 1)
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
