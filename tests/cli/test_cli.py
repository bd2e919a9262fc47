"""The command line as a user meets it: help, exit codes, JSON, whole small runs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from validator.cli.main import COMMANDS, main
from validator.training.datasets import write_traces
from validator.types import Trace


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny: Any) -> Path:
    """A tiny random model saved as a local folder."""
    path = tmp_path_factory.mktemp("models") / "tiny"
    tiny[0].save_pretrained(path)
    tiny[1].save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def trace_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Traces of 24 problems x 4, right where the answer ends in a full stop."""
    made = [
        Trace(f"p{p}#{k}", f"p{p}", f"Q: {p} and {k}?\nA:", f" {p + k} is it{'.' * (k % 3)}",
              int(k % 3 > 0), answer=str(p + k % 2))
        for p in range(24) for k in range(4)
    ]
    path = tmp_path_factory.mktemp("traces") / "traces.jsonl"
    write_traces(path, made)
    return path


def run(capsys: pytest.CaptureFixture[str], *argv: object) -> tuple[int, str, str]:
    code = main([str(a) for a in argv])
    out, err = capsys.readouterr()
    return code, out, " ".join(err.split())


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    assert re.search(r"example:\n  validator " + command, capsys.readouterr().out)


def test_wrong_usage_is_exit_2(capsys: pytest.CaptureFixture[str]) -> None:
    for argv in ([], ["nonsense"], ["extract"]):
        with pytest.raises(SystemExit) as stopped:
            main(argv)
        assert stopped.value.code == 2
    assert "usage: validator" in capsys.readouterr().err


def test_extract_train_evaluate(
    folder: Path, trace_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    features, artifact = tmp_path / "f.parquet", tmp_path / "artifact"
    code, out, _ = run(capsys, "extract", trace_file, "--model", folder, "-o", features, "--json")
    facts = json.loads(out)
    assert (code, facts["traces"], facts["model"]) == (0, 96, "tiny")
    code, out, _ = run(capsys, "train", features, "-o", artifact, "--folds", 3, "--report",
                       tmp_path / "r.html", "--json-output", tmp_path / "r.json")
    assert code == 0
    assert "length + log-prob" in out
    assert "within problems" in out
    assert "verdict" in out
    numbers = json.loads((tmp_path / "r.json").read_text())
    assert {r["key"] for r in numbers["rows"]} >= {"length", "logprob", "surface", "learned"}
    assert all(r["auroc"]["low"] <= r["auroc"]["estimate"] <= r["auroc"]["high"]
               for r in numbers["rows"])
    code, _, err = run(capsys, "evaluate", artifact, features)
    assert code == 1
    assert "--cross-validate" in err
    code, out, _ = run(capsys, "evaluate", artifact, features, "--cross-validate", "--folds", 3,
                       "--json")
    assert code == 0
    again = {r["key"]: r["auroc"] for r in json.loads(out)["rows"]}
    assert again["learned"] == {r["key"]: r["auroc"] for r in numbers["rows"]}["learned"]


def test_evaluate_leaves_training_problems_out_and_says_so(
    folder: Path, trace_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    some, whole = tmp_path / "some.parquet", tmp_path / "all.parquet"
    run(capsys, "extract", trace_file, "--model", folder, "-o", some, "--limit", 48)
    run(capsys, "extract", trace_file, "--model", folder, "-o", whole)
    run(capsys, "train", some, "-o", tmp_path / "a", "--folds", 3)
    code, out, err = run(capsys, "evaluate", tmp_path / "a", whole, "--folds", 3, "--json")
    assert code == 0, err
    assert json.loads(out)["facts"]["traces"] == 48
    assert "48 traces are of problems the artifact was trained on" in err


def test_features_of_another_model_are_refused(
    folder: Path, trace_file: Path, tmp_path: Path, tiny: Any,
    capsys: pytest.CaptureFixture[str], make_tiny: Any
) -> None:
    other = tmp_path / "other"
    make_tiny("qwen2").save_pretrained(other)
    tiny[1].save_pretrained(other)
    for name, model in (("mine", folder), ("theirs", other)):
        run(capsys, "extract", trace_file, "--model", model, "-o", tmp_path / f"{name}.parquet")
    run(capsys, "train", tmp_path / "mine.parquet", "-o", tmp_path / "a", "--folds", 3)
    code, _, err = run(capsys, "evaluate", tmp_path / "a", tmp_path / "theirs.parquet")
    assert code == 1
    assert "revision: expected" in err


@pytest.mark.parametrize(("lines", "match"), [
    ("", "no traces"),
    ("{\n", "line 1"),
    ('{"id": "a", "problem_id": "p", "prompt": "q", "completion": ""}\n', "completion"),
])
def test_bad_trace_files_are_exit_1_with_the_reason(
    lines: str, match: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "bad.jsonl"
    file.write_text(lines)
    code, _, err = run(capsys, "extract", file, "--model", folder, "-o", tmp_path / "f.parquet")
    assert code == 1
    assert match in err
    assert not (tmp_path / "f.parquet").exists()


def test_skip_bad_goes_on_and_counts(
    folder: Path, trace_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mixed.jsonl"
    file.write_text("nonsense\n" + trace_file.read_text())
    code, out, _ = run(capsys, "extract", file, "--model", folder, "-o", tmp_path / "f.parquet",
                       "--skip-bad", "--limit", 9, "--json")
    facts = json.loads(out)
    assert (code, facts["malformed_lines_skipped"], facts["traces"]) == (0, 1, 8)
    assert (tmp_path / "mixed.quarantine.jsonl").exists()


def test_one_class_only_is_a_typed_error(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "ones.jsonl"
    write_traces(file, [Trace(f"t{i}", f"p{i}", "Q:", f" {i} abc", 1) for i in range(12)])
    run(capsys, "extract", file, "--model", folder, "-o", tmp_path / "f.parquet")
    code, _, err = run(capsys, "train", tmp_path / "f.parquet", "-o", tmp_path / "a")
    assert code == 1
    assert "class" in err
    assert not (tmp_path / "a").exists()


def test_unknown_model_and_unreadable_features_are_exit_1(
    trace_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    code, _, err = run(capsys, "extract", trace_file, "--model", "smolm2-135m-instruct",
                       "-o", tmp_path / "f.parquet")
    assert code == 1
    assert "smollm2-135m-instruct" in err
    code, _, err = run(capsys, "train", tmp_path / "none.parquet", "-o", tmp_path / "a")
    assert code == 1
    assert "cannot read" in err


def test_sample_writes_traces_and_resumes(
    tiny: Any, make_tiny: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "long"
    make_tiny("llama", max_position_embeddings=1024).save_pretrained(model)
    tiny[1].save_pretrained(model)
    problems = tmp_path / "problems.jsonl"
    problems.write_text('{"question": "1+1?", "answer": "2"}\n{"question": "2+2?", "answer": 4}\n')
    argv = ["sample", "--model", model, "--problems", problems, "-n", 2, "--max-new-tokens", 4,
            "-o", tmp_path / "t.jsonl", "--json"]
    code, out, _ = run(capsys, *argv)
    first = json.loads(out)
    assert (code, first["traces"], first["found_finished"]) == (0, 4, 0)
    assert first["shares_prefix"]
    code, out, _ = run(capsys, *argv)
    assert (code, json.loads(out)["found_finished"]) == (0, 4)


def test_sample_without_room_in_the_context_says_what_to_do(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(capsys, "sample", "--model", folder, "--problems", "one-step", "--count", 2,
                       "-o", tmp_path / "t.jsonl")
    assert code == 1
    assert "lower max_new_tokens" in err


def test_interruption_is_exit_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("validator.training.datasets.read_traces", interrupted)
    code, _, err = run(capsys, "extract", "x.jsonl", "-o", "f.parquet")
    assert code == 130
    assert "interrupted" in err


def test_errors_keep_square_brackets(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(capsys, "train", tmp_path / "[x].parquet", "-o", tmp_path / "a")
    assert code == 1
    assert "[x].parquet" in err


def test_a_second_extraction_computes_nothing(
    folder: Path, trace_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("extract", trace_file, "--model", folder, "--limit", 8, "--store",
                 tmp_path / "store", "--json", "-o")
    first = json.loads(run(capsys, *arguments, tmp_path / "a.parquet")[1])
    second = json.loads(run(capsys, *arguments, tmp_path / "b.parquet")[1])
    assert (first["rows_from_store"], second["rows_from_store"]) == (0, 8)
    assert first["batches_computed"] > second["batches_computed"] == 0
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_a_store_that_cannot_be_written_is_exit_1(
    folder: Path, trace_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "store"
    store.write_text("not a folder")
    code, _, err = run(capsys, "extract", trace_file, "--model", folder, "--limit", 8, "--store",
                       store, "-o", tmp_path / "f.parquet")
    assert code == 1
    assert "store" in err
    assert not (tmp_path / "f.parquet").exists()


def test_the_solver_is_named_and_warnings_are_sentences(
    folder: Path, trace_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("validator.features.solvers.LONG_NODES", 1)
    monkeypatch.setattr("validator.features.solvers.LONG_SECONDS", 0.0)
    code, out, err = run(capsys, "extract", trace_file, "--model", folder, "--limit", 4,
                         "--no-store", "-o", tmp_path / "f.parquet", "--json")
    assert code == 0
    assert json.loads(out)["solver"] == "exact"
    assert "warning: trace" in err
    assert ".py" not in err
    code, out, _ = run(capsys, "extract", trace_file, "--model", folder, "--limit", 4, "--solver",
                       "lanczos", "--no-store", "-o", tmp_path / "f.parquet", "--json")
    assert json.loads(out)["solver"].startswith("lanczos(probes=8")
    assert json.loads(out)["solver_beyond_tolerance"] == 0


def test_scores_are_written_and_a_file_that_cannot_be_is_named(
    folder: Path, trace_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("score", trace_file, "--model", folder, "--no-store", "--limit", 4)
    code, out, err = run(capsys, *options, "-o", tmp_path / "deep" / "s.jsonl", "--json")
    assert code == 0
    assert "no classifier ships for" in err
    rows = json.loads(out)["scores"]
    lines = (tmp_path / "deep" / "s.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == rows
    assert all(r["p_valid"] is None and "mean_logprob" in r["label_free"] for r in rows)
    code, _, err = run(capsys, *options, "-o", trace_file / "s.jsonl")
    assert code == 1
    assert "error:" in err
    assert str(trace_file) in err.replace("\n", "")
    (tmp_path / "empty.jsonl").touch()
    code, _, err = run(capsys, "score", tmp_path / "empty.jsonl", "--model", folder, "--no-store")
    assert code == 1
    assert "no trace" in err
