"""Sampling from a server, against a small one in a thread that answers as told."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from validator.cli.main import main
from validator.errors import EndpointError, ParameterError, ValidatorError, ValidatorWarning
from validator.plugins.endpoint import Endpoint, chat_prompts, sample_from_endpoint
from validator.training.datasets import load_traces
from validator.training.decoding import Sampling
from validator.training.problems import Problem, PromptFormat
from validator.training.sampling import EMPTY

pytest.importorskip("openai")

STYLE = PromptFormat("t", "Q: {question} A:", "last-number", (("0 0", " 0"),), "\n", ("\n",), 6)
PROBLEMS = [Problem(f"p{i}", f"{i} {i}", str(2 * i)) for i in range(4)]
N = 3

Reply = tuple[int, Any]


class FakeServer:
    """Keeps every request; ``rule`` turns the k-th (path, body) into a status and a body."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, Any], str]] = []
        self.rule: Callable[[int, str, dict[str, Any]], Reply] = lambda k, path, body: (
            200, completion(path, body, body.get("n", 1)))
        lock, outer = threading.Lock(), self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                with lock:
                    k = len(outer.requests)
                    outer.requests.append((self.path, body, self.headers["authorization"]))
                status, reply = outer.rule(k, self.path, body)
                data = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("retry-after-ms", "1")
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/v1"

    def bodies(self) -> list[dict[str, Any]]:
        return [body for _, body, _ in self.requests]


def completion(path: str, body: dict[str, Any], count: int, **fields: Any) -> dict[str, Any]:
    """``count`` choices whose text holds the seed and the choice's place, so that all differ."""
    def choice(k: int) -> dict[str, Any]:
        text = fields.get("text", f" {body['seed']} {k} so 2\nQ: not asked")
        said = {"message": {"role": "assistant", "content": text}} if "chat" in path else {
            "text": text}
        return {"index": k, "finish_reason": fields.get("reason", "stop"), **said}

    return {"id": "x", "object": "text_completion", "created": 0, "model": body["model"],
            "choices": [choice(k) for k in range(count)],
            "usage": {"completion_tokens": 5 * count, "prompt_tokens": 1, "total_tokens": 1}}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    made = FakeServer()
    thread = threading.Thread(target=made.http.serve_forever, args=(0.01,))
    thread.start()
    yield made
    made.http.shutdown()
    thread.join()
    made.http.server_close()


def run(server: FakeServer, output: Path, *, shown: Any = None, n: int = N, **options: Any) -> Any:
    endpoint = Endpoint(server.url, "m", **{"retries": 2, **options})
    return sample_from_endpoint(endpoint, PROBLEMS, STYLE, Sampling(n, 0.8, 0.9, 6, 7), output,
                                shown=shown)


def test_the_file_holds_n_labelled_traces_of_each_problem(
    server: FakeServer, tmp_path: Path
) -> None:
    done = run(server, tmp_path / "t.jsonl")
    assert load_traces(tmp_path / "t.jsonl") == list(done.traces)
    assert [t.id for t in done.traces] == [f"p{i}#{k}" for i in range(4) for k in range(N)]
    assert len({t.completion for t in done.traces}) == 4 * N
    for trace, problem in zip(done.traces, [p for p in PROBLEMS for _ in range(N)], strict=True):
        assert trace.prompt == STYLE.prompt(problem.question)
        assert trace.completion.endswith("so 2")  # cut where the server left the stop in
        assert (trace.answer, trace.label, trace.status) == ("2", int(problem.id == "p1"), "ok")
        assert (trace.source, trace.meta["target"]) == ("m", problem.target)
    assert (done.tokens, done.resumed, done.empty) == (5 * 4 * N, 0, 0)


def test_one_request_a_problem_asks_for_exactly_what_was_set(
    server: FakeServer, tmp_path: Path
) -> None:
    run(server, tmp_path / "t.jsonl", extra={"top_k": 5})
    wanted = {"model": "m", "temperature": 0.8, "top_p": 0.9, "max_tokens": 6, "n": N,
              "stop": ["\n"], "top_k": 5}
    assert {path for path, _, _ in server.requests} == {"/v1/completions"}
    assert sorted(b["prompt"] for b in server.bodies()) == [
        STYLE.prompt(p.question) for p in PROBLEMS]
    for body in server.bodies():
        assert {k: v for k, v in body.items() if k not in ("prompt", "seed")} == wanted
    assert len({b["seed"] for b in server.bodies()}) == 4


@pytest.mark.parametrize("given", [1, 2])
def test_a_server_that_gives_fewer_is_asked_again_and_no_sample_is_lost_or_doubled(
    given: int, server: FakeServer, tmp_path: Path
) -> None:
    server.rule = lambda k, path, body: (200, completion(path, body, min(given, body.get("n", 1))))
    done = run(server, tmp_path / "t.jsonl")
    assert len(done.traces) == len({t.completion for t in done.traces}) == 4 * N
    assert len({b["seed"] for b in server.bodies()}) == len(server.requests) == 4 * -(-N // given)


def test_a_server_that_gives_more_is_cut_to_n(server: FakeServer, tmp_path: Path) -> None:
    server.rule = lambda k, path, body: (200, completion(path, body, 5))
    assert len(run(server, tmp_path / "t.jsonl").traces) == 4 * N


@pytest.mark.parametrize("status", [400, 422])
def test_a_server_that_refuses_n_is_asked_for_one_at_a_time(
    status: int, server: FakeServer, tmp_path: Path
) -> None:
    server.rule = lambda k, path, body: (
        (status, {"error": "n must be 1"}) if "n" in body else (200, completion(path, body, 1)))
    done = run(server, tmp_path / "t.jsonl", concurrency=1)
    assert len({t.completion for t in done.traces}) == 4 * N
    assert sum("n" in b for b in server.bodies()) == 1  # learnt from the first refusal


def test_busy_servers_are_asked_again(server: FakeServer, tmp_path: Path) -> None:
    server.rule = lambda k, path, body: (
        (429 if k == 0 else 503, {}) if k < 2 else (200, completion(path, body, N)))
    assert len(run(server, tmp_path / "t.jsonl", concurrency=1).traces) == 4 * N
    assert len(server.requests) == 4 + 2


@pytest.mark.parametrize(("reply", "reason"), [
    ((500, {"error": {"message": "out of memory"}}), "p2.*answered 500.*out of memory"),
    ((404, {"detail": "no such model"}), "p2.*answered 404.*no such model.*model's name"),
    ((401, {}), "p2.*answered 401.*OPENAI_API_KEY"),
    ((200, b"{torn"), "p2.*sent no completion"),
    ((200, b"<html>"), "p2.*sent no completion"),
    ((200, {"choices": []}), "p2.*sent no completion"),
    ((200, {"choices": [{"index": 0}]}), "p2.*without text"),
    ((200, [1]), "p2.*sent no completion"),
])
@pytest.mark.parametrize("concurrency", [1, 8])
def test_a_failure_names_problem_and_status_and_costs_nothing_that_came_before(
    concurrency: int, reply: Reply, reason: str, server: FakeServer, tmp_path: Path
) -> None:
    kind = server.rule
    server.rule = lambda k, path, body: (
        reply if "2 2" in body["prompt"] else kind(k, path, body))
    output = tmp_path / "t.jsonl"
    with pytest.raises(EndpointError, match=reason):
        run(server, output, concurrency=concurrency)
    kept = load_traces(tmp_path / "t.jsonl.partial")
    assert {t.problem_id for t in kept} >= {"p0", "p1"}
    server.rule, before = kind, len(server.requests)
    again = run(server, output)
    assert again.resumed == len(kept)
    assert len(again.traces) == 4 * N
    assert len(server.requests) - before == 4 - len(kept) // N
    assert all(t in again.traces for t in kept)


def test_no_server_and_no_answer_in_time_are_typed_errors(
    server: FakeServer, tmp_path: Path
) -> None:
    asked = threading.Event()
    server.rule = lambda k, path, body: (asked.wait(5), (500, {}))[1]
    with pytest.raises(EndpointError, match=r"no answer in 0\.2 seconds, 1 times"):
        run(server, tmp_path / "t.jsonl", timeout=0.2, retries=0)
    asked.set()
    with pytest.raises(EndpointError, match="is not reached"):
        sample_from_endpoint(Endpoint("http://127.0.0.1:1/v1", "m", retries=0), PROBLEMS, STYLE,
                             Sampling(1), tmp_path / "u.jsonl")


@pytest.mark.parametrize(("fields", "status", "completion_text"), [
    ({"reason": "length", "text": " 2 or"}, "truncated", " 2 or"),
    ({"reason": "length", "text": " 2\nQ:"}, "ok", " 2"),
    ({"reason": "stop", "text": ""}, "unparsed", EMPTY),
    ({"reason": "content_filter", "text": " 2"}, "truncated", " 2"),
])
def test_how_an_answer_ended(
    fields: dict[str, Any], status: str, completion_text: str, server: FakeServer, tmp_path: Path
) -> None:
    server.rule = lambda k, path, body: (200, completion(path, body, N, **fields))
    with pytest.warns(ValidatorWarning, match="seems not to sample"):
        done = run(server, tmp_path / "t.jsonl")
    assert {(t.status, t.completion) for t in done.traces} == {(status, completion_text)}


def test_chat_sends_one_message_and_shows_the_reader_what_it_is_told(
    server: FakeServer, tmp_path: Path
) -> None:
    shown = [f"<user>{p.id}" for p in PROBLEMS]
    done = run(server, tmp_path / "t.jsonl", api="chat", shown=("template of r", shown))
    assert {path for path, _, _ in server.requests} == {"/v1/chat/completions"}
    assert sorted(b["messages"][0]["content"] for b in server.bodies()) == [
        STYLE.prompt(p.question) for p in PROBLEMS]
    assert [t.prompt for t in done.traces] == [s for s in shown for _ in range(N)]
    assert all(t.meta["shown"] == "template of r" for t in done.traces)
    with pytest.raises(ParameterError, match=r"other settings \(shown\)"):
        run(server, tmp_path / "t.jsonl", api="chat", shown=("plain prompt", shown))


def test_a_chat_answer_without_text_is_an_empty_answer(
    server: FakeServer, tmp_path: Path
) -> None:
    server.rule = lambda k, path, body: (200, completion(path, body, N, text=None))
    with pytest.warns(ValidatorWarning, match="seems not to sample"):
        assert run(server, tmp_path / "t.jsonl", api="chat").empty == 4 * N


def test_the_chat_template_is_the_readers(tiny: Any) -> None:
    with pytest.raises(ParameterError, match="no chat template"):
        chat_prompts(tiny[1], ["a"])

    class Templated:
        chat_template = "t"

        def apply_chat_template(self, messages: Any, **options: Any) -> str:
            assert options == {"tokenize": False, "add_generation_prompt": True}
            return f"<{messages[0]['role']}>{messages[0]['content']}<assistant>"

    assert chat_prompts(Templated(), ["a", "b"]) == [
        "<user>a<assistant>", "<user>b<assistant>"]


def test_the_key_is_sent_and_written_nowhere(
    server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    run(server, tmp_path / "t.jsonl")
    assert {key for _, _, key in server.requests} == {"Bearer sk-secret"}
    assert all("sk-secret" not in p.read_text() for p in tmp_path.iterdir())
    manifest = json.loads((tmp_path / "t.jsonl.manifest.json").read_text())
    assert (manifest["model"], manifest["endpoint"]) == ("m", server.url)
    assert "batch_size" not in manifest["sampling"]


def test_without_the_package_it_says_what_to_install(
    server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(ValidatorError, match=r"pip install 'spectral-validator\[openai\]'"):
        run(server, tmp_path / "t.jsonl")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("options", "reason"), [
    ({"url": "127.0.0.1:8000"}, "url must be like"),
    ({"url": "http://me:pass@h/v1"}, "without user, password"),
    ({"url": "http://h/v1?key=pass"}, "without user, password"),
    ({"model": ""}, "model must be"),
    ({"api": "responses"}, "api must be one of completions, chat"),
    ({"concurrency": 0}, "concurrency must be"),
    ({"timeout": 0.0}, "timeout must be"),
    ({"retries": -1}, "retries must be"),
])
def test_settings_that_cannot_be_are_refused_without_repeating_a_password(
    options: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ParameterError, match=reason) as caught:
        Endpoint(**{"url": "http://h/v1", "model": "m", **options})
    assert "pass@" not in str(caught.value)
    assert "=pass" not in str(caught.value)


def command(capsys: pytest.CaptureFixture[str], *argv: object) -> tuple[int, str, str]:
    code = main(["sample", *map(str, argv)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_command_samples_from_a_server_and_resumes(
    server: FakeServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--endpoint", server.url, "--endpoint-model", "m", "--problems", "one-step", "--count",
            2, "-n", N, "--endpoint-extra", '{"top_k": 0}', "-o", tmp_path / "t.jsonl", "--json"]
    code, out, _ = command(capsys, *argv)
    first = json.loads(out)
    assert (code, first["traces"], first["found_finished"]) == (0, 2 * N, 0)
    assert first["character_length_auroc"] is None  # one class only
    assert "shares_prefix" not in first
    assert [b["top_k"] for b in server.bodies()] == [0, 0]
    code, out, _ = command(capsys, *argv)
    assert (code, json.loads(out)["found_finished"], len(server.requests)) == (0, 2 * N, 2)


@pytest.mark.parametrize(("argv", "reason"), [
    (["--endpoint-model", "m"], "without --endpoint URL"),
    (["--endpoint", "http://h/v1"], "needs --endpoint-model"),
    (["--endpoint", "http://h/v1", "--endpoint-model", "m", "--model", "r"], "has no part"),
    (["--endpoint", "http://h/v1", "--endpoint-model", "m", "--endpoint-extra", "[]"], "object"),
    (["--endpoint", "http://h/v1", "--endpoint-model", "m", "--endpoint-extra", "{"], "not JSON"),
])
def test_options_of_the_command_that_do_not_fit_are_exit_1(
    argv: list[str], reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = command(capsys, "--problems", "one-step", "-o", tmp_path / "t.jsonl", *argv)
    assert code == 1
    assert reason in err
    assert not list(tmp_path.iterdir())
