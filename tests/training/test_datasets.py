"""Traces in and out: round trips, and every way a line can be malformed."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from validator.errors import MalformedTraceError, ParameterError, TraceError
from validator.training import datasets
from validator.training.datasets import (
    FORMATS,
    load_traces,
    read_traces,
    trace_from_json,
    trace_to_json,
    write_traces,
)
from validator.types import Trace

FULL = Trace(
    id="p1-a", problem_id="p1", prompt="Q: 1+1?\nA:", completion=" 1+1 = 2 \u2028 \U0001f600\nso 2",
    label=1, steps=((1, 8), (9, 15)), step_labels=(1, None), source="tiny", answer="2",
    status="ok", meta={"target": "2", "nested": {"x": [1, 2.5, None]}},
)
PLAIN = Trace(id="p1-b", problem_id="p1", prompt="", completion=" 3")
CUT = Trace(id="p2-a", problem_id="p2", prompt="Q", completion=" 4", label=0, status="truncated")
GOOD = {"id": "a", "problem_id": "p", "prompt": "Q", "completion": " 12 34"}


def _file(folder: Path, *lines: object) -> Path:
    path = folder / "traces.jsonl"
    path.write_text("".join(
        (line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines
    ), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["t.jsonl", "t.jsonl.gz"])
def test_written_traces_read_back_equal(tmp_path: Path, name: str) -> None:
    path = write_traces(tmp_path / name, [FULL, PLAIN, CUT])
    assert read_traces(path).traces == (FULL, PLAIN, CUT)
    assert load_traces(str(path)) == [FULL, PLAIN, CUT]
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_json_form_is_the_documented_one() -> None:
    assert trace_to_json(PLAIN) == {
        "id": "p1-b", "problem_id": "p1", "prompt": "", "completion": " 3", "label": None,
    }
    assert trace_to_json(FULL)["steps"] == [[1, 8], [9, 15]]
    assert trace_from_json(GOOD) == Trace("a", "p", "Q", " 12 34")


def test_gzip_files_of_equal_traces_are_equal(tmp_path: Path) -> None:
    first, second = tmp_path / "x.jsonl.gz", tmp_path / "y.jsonl.gz"
    write_traces(first, [FULL])
    write_traces(second, [FULL])
    assert first.read_bytes() == second.read_bytes()
    assert json.loads(gzip.decompress(first.read_bytes()))["id"] == "p1-a"


@pytest.mark.parametrize(("change", "reason"), [
    ({"lable": 1}, "did you mean 'label'"),
    ({"zzz": 1}, "known: id, problem_id, prompt"),
    ({"id": 7}, "'id' must be a string, got 7"),
    ({"id": ""}, "'id' must not be empty"),
    ({"problem_id": ""}, "'problem_id' must not be empty"),
    ({"prompt": None}, "'prompt' must be a string"),
    ({"completion": ""}, "'completion' must not be empty"),
    ({"label": 2}, "label must be 1 (valid), 0 (invalid) or null, got 2"),
    ({"label": True}, "got True"),
    ({"label": "1"}, "got '1'"),
    ({"label": 1.0}, "got 1.0"),
    ({"steps": [[0, 1, 2]]}, "list of [start, end]"),
    ({"steps": [["0", 1]]}, "list of [start, end]"),
    ({"steps": "0-3"}, "list of [start, end]"),
    ({"steps": [[0, 7]]}, "leaves the completion"),
    ({"steps": [[2, 4], [3, 5]]}, "overlaps"),
    ({"steps": [[2, 2]]}, "empty"),
    ({"steps": [[0, 3]], "step_labels": [1, 0]}, "one entry per step"),
    ({"steps": [[0, 3]], "step_labels": [3]}, "step_labels[0] must be 1"),
    ({"steps": [[0, 3]], "step_labels": 1}, "'step_labels' must be a list"),
    ({"step_labels": [1]}, "one entry per step"),
    ({"answer": 5}, "'answer' must be a string"),
    ({"source": None}, "'source' must be a string"),
    ({"status": "done"}, "unknown status 'done'"),
    ({"meta": []}, "'meta' must be an object"),
])
def test_a_wrong_value_is_named(tmp_path: Path, change: dict[str, object], reason: str) -> None:
    path = _file(tmp_path, GOOD, {**GOOD, "id": "b", **change})
    result = read_traces(path, skip_bad=True)
    assert [t.id for t in result.traces] == ["a"]
    (bad,) = result.bad
    assert isinstance(bad, MalformedTraceError)
    assert bad.line == 2
    assert reason in bad.reason


@pytest.mark.parametrize("key", ["id", "problem_id", "prompt", "completion"])
def test_a_missing_key_is_named(key: str) -> None:
    with pytest.raises(TraceError, match=f"missing key '{key}'"):
        trace_from_json({k: v for k, v in GOOD.items() if k != key})


@pytest.mark.parametrize(("line", "reason"), [
    ("{not json", "Expecting property name"),
    ("[1]", "expected a JSON object, got list"),
    ('{"id": "b", "meta": {"x": NaN}}', "NaN is not JSON"),
    ('{"id": "b", "meta": {"x": -Infinity}}', "-Infinity is not JSON"),
    ('{"id": "b", "meta": {"x": 1e999}}', "overflows"),
    ('{"id": "b", "id": "c"}', "'id' is given twice"),
    ('{"id": "b\\ud800"}', "lone surrogate"),
    (json.dumps(GOOD), "already that of line 1"),
    ("[" * 100_000, "recursion"),
    ('{"id": ' + "9" * 5000 + "}", "digits"),
])
def test_a_line_that_is_no_trace_is_named(tmp_path: Path, line: str, reason: str) -> None:
    result = read_traces(_file(tmp_path, GOOD, line), skip_bad=True)
    assert len(result.traces) == 1
    assert reason in result.bad[0].reason


def test_malformed_lines_end_in_one_error_and_a_quarantine_file(tmp_path: Path) -> None:
    lines = [GOOD, "x", "", {**GOOD, "id": "c", "label": 9}, {**GOOD, "id": "d"}, "y", "z"]
    path = _file(tmp_path, *lines)
    with pytest.raises(TraceError) as caught:
        load_traces(path)
    kept = tmp_path / "traces.quarantine.jsonl"
    message = str(caught.value)
    assert "4 malformed line(s)" in message
    assert "and 1 more" in message
    assert "line 7" not in message
    assert all(part in message for part in ("line 2:", "line 4:", "line 6:", str(kept)))
    rows = [json.loads(line) for line in kept.read_text().splitlines()]
    assert [(r["file"], r["line"]) for r in rows] == [("traces.jsonl", n) for n in (2, 4, 6, 7)]
    assert [r["text"] for r in rows] == ["x", json.dumps(lines[3]), "y", "z"]
    assert "label" in rows[1]["reason"]


def test_skip_bad_keeps_the_good_lines_and_still_quarantines(tmp_path: Path) -> None:
    path = _file(tmp_path, GOOD, "x", {**GOOD, "id": "b"})
    kept = tmp_path / "elsewhere.jsonl"
    result = read_traces(path, skip_bad=True, quarantine=kept)
    assert [t.id for t in result.traces] == ["a", "b"]
    assert result.quarantine == kept
    assert len(kept.read_text().splitlines()) == 1
    assert not (tmp_path / "traces.quarantine.jsonl").exists()


def test_a_clean_file_leaves_no_quarantine(tmp_path: Path) -> None:
    result = read_traces(_file(tmp_path, GOOD))
    assert (result.bad, result.quarantine) == ((), None)
    assert len(list(tmp_path.iterdir())) == 1


def test_invalid_utf8_is_one_bad_line_not_a_crash(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_bytes(json.dumps(GOOD).encode() + b'\n{"id": "\xff"}\n')
    result = read_traces(path, skip_bad=True)
    assert result.bad[0].line == 2
    assert "utf-8" in result.bad[0].reason
    assert result.quarantine is not None
    assert json.loads(result.quarantine.read_text())["text"] == '{"id": "\\xff"}'


def test_quarantine_that_cannot_be_written_is_an_error_that_says_so(tmp_path: Path) -> None:
    path = _file(tmp_path, GOOD, "x")
    with pytest.raises(TraceError, match=r"line 2.*could not be written.*quarantine="):
        read_traces(path, skip_bad=True, quarantine=tmp_path / "missing" / "q.jsonl")
    with pytest.raises(TraceError, match="would replace the file"):
        read_traces(path, skip_bad=True, quarantine=path)


@pytest.mark.parametrize("content", ["", "\n \n"])
def test_an_empty_file_is_an_error(tmp_path: Path, content: str) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(content)
    with pytest.raises(TraceError, match="no traces"):
        load_traces(path)


def test_a_file_of_bad_lines_only_is_an_error_even_when_skipping(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="None of its lines is a trace"):
        load_traces(_file(tmp_path, "x"), skip_bad=True)


def test_limit_counts_lines_that_are_not_blank(tmp_path: Path) -> None:
    path = _file(tmp_path, GOOD, "", {**GOOD, "id": "b"}, "broken, but never reached")
    assert [t.id for t in load_traces(path, limit=2)] == ["a", "b"]
    with pytest.raises(ParameterError, match="at least 1"):
        load_traces(path, limit=0)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    cut = tmp_path / "cut.jsonl.gz"
    cut.write_bytes(gzip.compress(json.dumps(GOOD).encode() * 50)[:-12])
    plain = tmp_path / "plain.jsonl.gz"
    plain.write_text(json.dumps(GOOD))
    for path in (tmp_path / "none.jsonl", tmp_path, cut, plain):
        with pytest.raises(TraceError, match="cannot be read") as caught:
            load_traces(path)
        assert str(path) in str(caught.value)


def test_an_unknown_format_gets_a_suggestion(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="did you mean 'gsm8k'"):
        load_traces(_file(tmp_path, GOOD), format="gsm8")
    assert set(FORMATS) == {"jsonl", "gsm8k", "gsm8k-solutions", "mr-gsm8k", "bigbench-mistake",
                            "prmbench"}


@pytest.mark.parametrize(("traces", "reason"), [
    ([FULL, FULL], "occurs twice"),
    ([], "no traces to write"),
    ([Trace("a", "p", "", "")], "'completion' must not be empty"),
    ([Trace("a", "p", "", "x", meta={"n": float("nan")})], "'a' cannot be written"),
    ([Trace("a", "p", "", "x", meta={"n": {1, 2}})], "'a' cannot be written"),
    ([Trace("a", "p", "", "\ud800")], "'a' cannot be written"),
])
def test_what_could_not_be_read_is_not_written(
    tmp_path: Path, traces: list[Trace], reason: str
) -> None:
    path = _file(tmp_path, "what was there before")
    with pytest.raises(TraceError, match=reason):
        write_traces(path, traces)
    assert path.read_text() == "what was there before\n"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_reader_of_the_old_file_never_sees_half_of_the_new_one(tmp_path: Path) -> None:
    path = write_traces(tmp_path / "t.jsonl", [PLAIN])
    with path.open(encoding="utf-8") as reader:
        write_traces(path, [FULL, CUT])
        assert json.loads(reader.read())["id"] == PLAIN.id


def test_a_writer_that_is_interrupted_leaves_the_old_file(tmp_path: Path) -> None:
    path = write_traces(tmp_path / "t.jsonl", [PLAIN])

    def broken():  # type: ignore[no-untyped-def]
        yield FULL
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_traces(path, broken())
    assert load_traces(path) == [PLAIN]
    assert len(list(tmp_path.iterdir())) == 1


def test_writing_into_a_missing_folder_is_a_typed_error(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="cannot be written"):
        write_traces(tmp_path / "missing" / "t.jsonl", [PLAIN])


def test_public_names_exist() -> None:
    assert all(hasattr(datasets, name) for name in datasets.__all__)
