"""Candidates as they are read, line by line."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from validator.errors import MalformedTraceError, TraceError
from validator.plugins.rerank import prompt_candidates, read_candidates
from validator.trace_json import trace_to_json
from validator.types import Trace


def write(path: Path, *records: Any) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
    return path


def test_both_forms_and_an_empty_candidate(tmp_path: Path) -> None:
    trace = Trace("a#0", "a", "Q: 1 + 1?\nA:", " 2", 1, answer="2")
    blank = trace_to_json(trace) | {"id": "a#1", "completion": "", "label": 0}
    path = write(tmp_path / "c.jsonl", trace_to_json(trace), blank,
                 {"prompt": "Q:", "candidates": ["x", ""], "labels": [1, 0]},
                 {"id": "named", "prompt": "Q:", "candidates": ["y"], "answers": ["3"]})
    found = list(read_candidates(path))
    assert found[0] == trace
    assert (found[1].id, found[1].completion, found[1].label) == ("a#1", "", 0)
    assert [(t.id, t.problem_id, t.completion, t.label) for t in found[2:4]] == [
        ("line-3#0", "line-3", "x", 1), ("line-3#1", "line-3", "", 0)]
    assert (found[4].id, found[4].answer, found[4].label) == ("named#0", "3", None)


def test_a_stream_is_read_as_far_as_it_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = io.BytesIO(b'{"prompt": "p", "candidates": ["x"]}\nbroken\n')
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=lines))
    source = read_candidates("-")
    assert next(source).completion == "x"
    with pytest.raises(MalformedTraceError, match="standard input, line 2"):
        next(source)


def test_gzip(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl.gz"
    with gzip.open(path, "wt") as file:
        file.write('{"prompt": "p", "candidates": ["x"]}\n')
    assert [t.completion for t in read_candidates(path)] == ["x"]


@pytest.mark.parametrize(("record", "match"), [
    ([1], "expected a JSON object, got list"),
    ({"prompt": "p", "candidates": "text"}, "list of texts"),
    ({"prompt": 3, "candidates": ["x"]}, "'prompt' must be a text"),
    ({"prompt": "p", "candidates": []}, "no candidates"),
    ({"prompt": "p", "candidates": ["x"], "label": [1]}, "unknown keys label"),
    ({"prompt": "p", "candidates": ["x"], "labels": [1, 0]}, "expected 1 labels"),
    ({"prompt": "p", "candidates": ["x"], "labels": [2]}, "label must be"),
    ({"id": "a", "prompt": "p"}, "problem_id"),
])
def test_a_malformed_line_is_named(tmp_path: Path, record: Any, match: str) -> None:
    path = write(tmp_path / "c.jsonl", {"prompt": "p", "candidates": ["x"]}, record)
    with pytest.raises(MalformedTraceError, match=match) as caught:
        list(read_candidates(path))
    assert (caught.value.line, caught.value.path) == (2, str(path))


def test_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="no candidates"):
        list(read_candidates(write(tmp_path / "empty.jsonl")))
    with pytest.raises(TraceError, match="cannot be read"):
        list(read_candidates(tmp_path / "missing.jsonl"))
    with pytest.raises(TraceError, match="at least one"):
        prompt_candidates("p", [])
