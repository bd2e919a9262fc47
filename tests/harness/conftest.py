"""A tiny reader in a folder, a small benchmark file, and a model that answers by heart."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_benchmark import Parrot, questions, right_or_wrong
from tiny_models import byte_tokenizer, tiny_model

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what lm-eval and its dependencies say of each other
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.tasks import TaskManager

@pytest.fixture(scope="session")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random llama, saved as a folder."""
    folder = tmp_path_factory.mktemp("reader") / "tiny-reader"
    tiny_model(max_position_embeddings=2048).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def benchmark(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve documents with the columns of GSM8K."""
    path = tmp_path_factory.mktemp("data") / "sums.jsonl"
    path.write_text("".join(json.dumps(q) + "\n" for q in questions()), encoding="utf-8")
    return path


@pytest.fixture
def evaluate(
    benchmark: Path, reader: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., dict[str, Any]]:
    """Run a task of ours on the small benchmark with a model that answers by heart."""
    from validator.plugins.harness import responses
    from validator.plugins.harness.command import TASKS

    monkeypatch.setattr(responses, "_last", None)

    def run(task: str = "gsm8k_spectral", *, answer: Callable[[str, int], str] = right_or_wrong,
            lm: Any = None, read: bool = True, include: Path | None = None,
            metadata: dict[str, Any] | None = None, **options: Any) -> dict[str, Any]:
        told = {"data_files": str(benchmark), "features": "paper",
                "reader_device": "cpu", **({"reader": str(reader)} if read else {}),
                **(metadata or {})}
        manager = TaskManager(include_path=[str(TASKS), *([str(include)] if include else [])],
                              include_defaults=False, metadata=told)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found: dict[str, Any] = simple_evaluate(
                lm or Parrot(answer), tasks=[task], task_manager=manager, metadata=told,
                bootstrap_iters=100, log_samples=True, **options)
        return found

    return run
