"""Sampling from a real server, ``transformers serve``, with the default model; then scored here."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from validator.errors import EndpointError
from validator.models.fetch import fetch
from validator.models.loading import load_model
from validator.plugins.endpoint import Endpoint, chat_prompts, sample_from_endpoint
from validator.training.answers import parse_answer
from validator.training.datasets import load_traces
from validator.training.decoding import Sampling
from validator.training.problems import problem_set, prompt_format

pytest.importorskip("openai")
pytest.importorskip("uvicorn")
pytestmark = [pytest.mark.slow, pytest.mark.model]

MODEL = "smollm2-135m-instruct"
DRAWING = {"generation_config": '{"do_sample": true, "top_k": 0}'}
PROBLEMS, STYLE = problem_set("one-step", 2), prompt_format("one-step")


@dataclass(frozen=True)
class Served:
    url: str
    model: str


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = str(fetch(MODEL))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = "from transformers.cli.transformers import main; main()"
    log = (tmp_path_factory.mktemp("serve") / "log").open("w+")
    process = subprocess.Popen(
        [sys.executable, "-c", program, "serve", folder, "--host", "127.0.0.1", "--port", str(port),
         "--device", "cpu", "--dtype", "float32"],
        env={**os.environ, "HF_HUB_OFFLINE": "1"}, stdout=log, stderr=subprocess.STDOUT)
    try:
        wait_until_healthy(f"http://127.0.0.1:{port}/health", process)
        yield Served(f"http://127.0.0.1:{port}/v1", folder)
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        log.close()


def wait_until_healthy(url: str, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 240
    while time.monotonic() < end:
        assert process.poll() is None, "the server ended; see its log"
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.5)
    raise AssertionError("the server did not begin to answer")


def sample(served: Served, output: Path, temperature: float, **options: Any) -> Any:
    shown = options.pop("shown", None)
    endpoint = Endpoint(served.url, served.model, concurrency=1, retries=0, **options)
    return sample_from_endpoint(endpoint, PROBLEMS, STYLE,
                                Sampling(2, temperature, max_new_tokens=24), output, shown=shown)


def test_two_problems_by_two_samples_labelled_and_readable(
    served: Served, tmp_path: Path
) -> None:
    done = sample(served, tmp_path / "t.jsonl", 1.0, extra=DRAWING)
    traces = load_traces(tmp_path / "t.jsonl")
    assert traces == list(done.traces)
    assert [t.id for t in traces] == [f"{p.id}#{k}" for p in PROBLEMS for k in range(2)]
    assert len({t.completion for t in traces}) == 4
    for trace in traces:
        assert "\n" not in trace.completion
        answer = parse_answer(trace.completion, STYLE.answer_style)
        assert trace.answer == answer
        assert trace.label == int(answer == trace.meta["target"])
    assert done.tokens >= 4
    again = sample(served, tmp_path / "again.jsonl", 1.0, extra=DRAWING)
    assert again.traces == done.traces  # the seeds are honoured by this server, one at a time


def test_greedy_answers_are_those_of_the_model_itself(served: Served, tmp_path: Path) -> None:
    done = sample(served, tmp_path / "t.jsonl", 0.0)
    loaded = load_model(MODEL)
    for trace in done.traces[::2]:
        ids = loaded.tokenizer(trace.prompt, return_tensors="pt")
        out = loaded.model.generate(**ids, max_new_tokens=24, do_sample=False)
        text = loaded.tokenizer.decode(out[0, ids["input_ids"].shape[1]:], skip_special_tokens=True)
        assert trace.completion == text.split("\n")[0]


def test_chat_answers_come_with_the_readers_template(served: Served, tmp_path: Path) -> None:
    prompts = chat_prompts(load_model(MODEL).tokenizer,
                           [STYLE.prompt(p.question) for p in PROBLEMS])
    done = sample(served, tmp_path / "t.jsonl", 1.0, api="chat", extra=DRAWING,
                  shown=(f"chat template of {MODEL}", prompts))
    assert [t.prompt for t in done.traces] == [p for p in prompts for _ in range(2)]
    assert all(t.prompt.endswith("<|im_start|>assistant\n") for t in done.traces)


def test_another_model_than_the_served_one_is_a_typed_error(
    served: Served, tmp_path: Path
) -> None:
    with pytest.raises(EndpointError, match=r"answered 400.*pinned to"):
        sample(Served(served.url, "another"), tmp_path / "t.jsonl", 1.0)
