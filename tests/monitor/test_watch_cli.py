"""``validator watch`` on a saved tiny model: plain lines, JSON lines, the live view, bad input."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from decoding_models import PROMPT, make_pair
from rich.console import Console

from validator.cli import watch
from validator.cli.main import main


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model, tokenizer = make_pair()
    path = tmp_path_factory.mktemp("models") / "tiny"
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def arguments(folder: Path, *more: str) -> list[str]:
    return ["watch", "--prompt", PROMPT, "--model", str(folder), "--max-new-tokens", "12",
            "--temperature", "1", "--score", "mean_logprob", *more]


def test_json_lines_are_one_event_each(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments(folder, "--json", "--below", "-1")) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    tokens = [e for e in events if e["event"] == "token"]
    assert [t["index"] for t in tokens] == list(range(12))
    assert [t["score"] is None for t in tokens] == [True] * 3 + [False] * 9
    assert [e["index"] for e in events if e["event"] == "anomaly"] == [3]
    end = events[-1]
    assert end["event"] == "end"
    assert end["score"] == tokens[-1]["score"] == pytest.approx(end["mean_logprob"], abs=1e-5)
    assert end["text"] == "".join(t["text"] for t in tokens)
    assert (end["tokens"], end["finished"], end["stopped"]) == (12, False, False)


def test_plain_lines_where_there_is_no_terminal(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(folder, "--below", "-1", "--stop-on-anomaly")) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["token", "score", "-log", "p", "text"]
    assert [line.split()[0] for line in lines[1:5]] == ["0", "1", "2", "3"]
    assert lines[5].startswith("anomaly at token 4")
    assert lines[6].startswith("5 tokens, stopped by the monitor; score -5.")


def test_a_terminal_gets_the_text_in_colour(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        watch, "console", lambda: Console(force_terminal=True, width=80, color_system="truecolor"))
    assert main(arguments(folder)) == 0
    out = capsys.readouterr().out
    assert "token 12" in out
    assert "12 tokens, cut off by the token limit" in out


def test_the_colour_goes_from_red_to_green_and_only_with_a_probability() -> None:
    assert watch.token_style(0.0, True) == "rgb(220,0,60)"
    assert watch.token_style(1.0, True) == "rgb(0,170,60)"
    assert watch.token_style(0.5, False) == watch.token_style(None, True) == "default"


def test_without_a_score_it_says_so(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["watch", "--prompt", PROMPT, "--model", str(folder), "--max-new-tokens", "3"]
    assert main(asked) == 0
    captured = capsys.readouterr()
    assert "no classifier of prefixes ships" in " ".join(captured.err.split())
    assert "score -, mean log-prob -" in captured.out


@pytest.mark.parametrize(("more", "message"), [
    (["--stop-on-anomaly"], "needs --below"),
    (["--temperature", "-1"], "temperature must be 0 or more"),
    (["--artifact", "nowhere"], "not both"),
    (["--max-new-tokens", "400"], "positions for 256"),
])
def test_bad_input(
    more: list[str], message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(folder, *more)) == 1
    assert message in " ".join(capsys.readouterr().err.split())


def test_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["watch", "--model", "x"])
    assert stopped.value.code == 2
    assert "--prompt" in capsys.readouterr().err


def test_a_prompt_file_that_cannot_be_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "prompt.txt"
    for message in ("No such file", "it is not UTF-8"):
        assert main(["watch", "--model", "x", "--prompt-file", str(path)]) == 1
        told = " ".join(capsys.readouterr().err.split())
        assert message in told
        assert "--prompt" in told
        path.write_bytes(b"\xff\xfe\xfa")
