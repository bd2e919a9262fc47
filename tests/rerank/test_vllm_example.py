"""The vLLM recipe: what can be tested without vLLM, with objects shaped like its own."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from validator.plugins.rerank.candidates import read_candidates
from validator.training.problems import Problem, problem_set, prompt_format

FILE = Path(__file__).parents[2] / "examples" / "vllm_best_of_n.py"
STYLE = prompt_format("one-step")
PROBLEMS = [Problem("a", "2 and 3?", "5"), Problem("b", "1 and 1?", "2")]


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("vllm_best_of_n", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def output(prompt: str, *texts: str) -> SimpleNamespace:
    """A ``RequestOutput``, its completions not in order."""
    found = [SimpleNamespace(index=k, text=t, finish_reason="stop") for k, t in enumerate(texts)]
    return SimpleNamespace(prompt=prompt, outputs=found[::-1])


def test_lines_are_what_rerank_reads(example: ModuleType, tmp_path: Path) -> None:
    outputs = [output(STYLE.prompt("2 and 3?"), " The answer is 5.", " The answer is 6.\nQ: x"),
               output(STYLE.prompt("1 and 1?"), "", " two")]
    lines = example.candidate_lines(outputs, PROBLEMS, STYLE)
    file = tmp_path / "c.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    read = list(read_candidates(file))
    assert [(t.id, t.completion, t.label, t.answer) for t in read] == [
        ("a#0", " The answer is 5.", 1, "5"), ("a#1", " The answer is 6.", 0, "6"),
        ("b#0", "", 0, None), ("b#1", " two", 0, None)]
    assert [t.prompt for t in read[::2]] == [STYLE.prompt(p.question) for p in PROBLEMS]


@pytest.mark.parametrize("outputs", [
    [output(STYLE.prompt("1 and 1?"), " 2"), output(STYLE.prompt("2 and 3?"), " 5")],
    [output(STYLE.prompt("2 and 3?"), " 5")],
])
def test_missing_or_misplaced_outputs_are_refused(example: ModuleType, outputs: Any) -> None:
    with pytest.raises(ValueError):
        example.candidate_lines(outputs, PROBLEMS, STYLE)


def test_main_asks_vllm_for_n_and_writes_every_answer(
    example: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class LLM:
        def __init__(self, **options: Any) -> None:
            assert options["model"] == "m"

        def generate(self, prompts: list[str], params: Any) -> list[Any]:
            assert (params.n, params.max_tokens) == (3, STYLE.max_new_tokens)
            assert params.stop == list(STYLE.stop)
            return [output(p, *(f" {k}" for k in range(params.n))) for p in prompts]

    stand_in: Any = ModuleType("vllm")
    stand_in.LLM, stand_in.SamplingParams = LLM, SimpleNamespace
    monkeypatch.setitem(sys.modules, "vllm", stand_in)
    file = tmp_path / "c.jsonl"
    assert example.main(["--model", "m", "--problems", "one-step", "--count", "4", "-n", "3",
                         "-o", str(file)]) == 0
    read = list(read_candidates(file))
    wanted = [f"{p.id}#{k}" for p in problem_set("one-step", 4) for k in range(3)]
    assert [t.id for t in read] == wanted


def test_without_vllm_the_example_says_what_to_install(
    example: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    argv = ["--model", "m", "--problems", "one-step", "-o", str(tmp_path / "c.jsonl")]
    assert example.main(argv) == 1
    assert "pip install vllm" in capsys.readouterr().err
