"""The public formats: by hand on small records, and in full on the files themselves."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from validator.errors import TraceError
from validator.training.answers import check, parse_answer
from validator.training.datasets import load_traces, read_traces
from validator.training.formats import (
    PROMPT,
    PUBLIC_FORMATS,
    Where,
    line_spans,
    merge_problems,
    step_spans,
)
from validator.types import Trace

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


def _records(name: str) -> list[dict[str, Any]]:
    lines = (DATA / name).read_bytes().split(b"\n")
    return [json.loads(line) for line in lines if line]


def _texts(trace: Trace) -> list[str]:
    return [trace.completion[a:b] for a, b in trace.steps or ()]


def test_step_spans_repeat_and_nest() -> None:
    assert step_spans("aa aa", ["aa", "aa"]) == ((0, 2), (3, 5))
    assert step_spans("\nx = 1\n1", ["x = 1", "1"]) == ((1, 6), (7, 8))


@pytest.mark.parametrize(("steps", "number"), [(["b", "a"], 2), (["a", ""], 2), (["c"], 1)])
def test_a_step_that_is_not_there_is_an_error(steps: list[str], number: int) -> None:
    with pytest.raises(TraceError, match=f"step {number} of {len(steps)}"):
        step_spans("a b", steps)


def test_line_spans_pass_over_blank_lines() -> None:
    text = "\nfirst\n\n  \n second \n"
    assert [text[a:b] for a, b in line_spans(text)] == ["first", " second "]


def test_prompt_ends_without_white_space() -> None:
    assert PROMPT.format(question="Why?") == "Question: Why?\nAnswer:"


def test_gsm8k_by_hand() -> None:
    record = {"question": "1+1?", "answer": "One and one.\n1+1=<<1+1=2>>2\n#### 2"}
    (trace,) = PUBLIC_FORMATS["gsm8k"](record, Where("gsm8k_test", 5))
    assert (trace.id, trace.problem_id) == ("gsm8k-test-4-reference", "gsm8k-test-4")
    assert (trace.label, trace.answer, trace.status) == (1, "2", "ok")
    assert trace.prompt + trace.completion == "Question: 1+1?\nAnswer:\n" + record["answer"]
    assert _texts(trace) == record["answer"].split("\n")


def test_mr_gsm8k_by_hand() -> None:
    record = {
        "uuid": "u", "question_type": "original", "question": "Q?", "steps": ["a", "b", "#### 3"],
        "solution": "a\nb\n#### 3", "answer_correct": "wrong", "first_error_step_1based": 2,
        "ground_truth_answer": 4,
    }
    (trace,) = PUBLIC_FORMATS["mr-gsm8k"](record, Where("x", 1))
    assert (trace.label, trace.step_labels, trace.answer) == (0, (1, 0, None), "3")
    assert trace.meta["target"] == "4"
    with pytest.raises(TraceError, match="number 4, but there are 3"):
        PUBLIC_FORMATS["mr-gsm8k"]({**record, "first_error_step_1based": 4}, Where("x", 1))


def test_a_reversed_question_belongs_to_the_problem_of_its_original() -> None:
    record = {
        "uuid": "u", "question_type": "original", "question": "Ann eats 5 pies in 2 days. Why?",
        "steps": ["a"], "solution": "a", "answer_correct": "wrong", "first_error_step_1based": 1,
    }
    turned = {**record, "uuid": "v", "question": "Ann eats X pies in 2 days. Why? If we know the "
              "answer to the above question is 9, what is the value of unknown variable 'X'?"}
    other = {**record, "uuid": "w", "question": "Bob eats 5 pies in 2 days. Why?"}
    read = PUBLIC_FORMATS["mr-gsm8k"]
    ids = [read(r, Where("x", 1))[0].problem_id for r in (record, turned, other)]
    assert ids[0] == ids[1] != ids[2]


def _mistake(first: int | None, valid: bool) -> dict[str, Any]:
    return {"id": "t-1", "task": "t", "question": "Q", "steps": ["a", "b", "c"],
            "solution": "a\nb\nc", "target": "5", "answer": "4", "first_error_step": first,
            "is_valid": valid, "is_correct": False, "source_model": "m"}


def test_bigbench_mistake_labels_the_reasoning_not_the_answer() -> None:
    (wrong,) = PUBLIC_FORMATS["bigbench-mistake"](_mistake(0, False), Where("x", 1))
    (right,) = PUBLIC_FORMATS["bigbench-mistake"](_mistake(None, True), Where("x", 1))
    assert (wrong.label, wrong.step_labels) == (0, (0, None, None))
    assert (right.label, right.step_labels) == (1, (1, 1, 1))
    assert right.meta["is_correct"] is False
    with pytest.raises(TraceError, match="contradicts"):
        PUBLIC_FORMATS["bigbench-mistake"](_mistake(1, True), Where("x", 1))
    with pytest.raises(TraceError, match="'is_valid' must be bool, got int"):
        PUBLIC_FORMATS["bigbench-mistake"]({**_mistake(1, True), "is_valid": 0}, Where("x", 1))
    with pytest.raises(TraceError, match="missing key 'is_valid'"):
        PUBLIC_FORMATS["bigbench-mistake"]({"id": "a", "steps": ["a"], "first_error_step": 1},
                                    Where("x", 1))


def _pair(errors: list[int]) -> dict[str, Any]:
    return {"idx": "i", "class": "circular", "question": "Q", "steps_valid": ["a", "b"],
            "steps_corrupted": ["a", "x", "b"], "error_steps_1based": errors}


def test_prmbench_by_hand() -> None:
    original, modified = PUBLIC_FORMATS["prmbench"](_pair([2]), Where("x", 1))
    assert (original.label, original.step_labels, original.source) == (1, (1, 1), "original")
    assert (modified.label, modified.step_labels, modified.source) == (0, (1, 0, 1), "modified")
    assert original.problem_id == modified.problem_id == "i"
    assert original.meta["pair"] == modified.meta["pair"]
    assert modified.completion == "\na\nx\nb"
    assert PUBLIC_FORMATS["prmbench"](_pair([]), Where("x", 1))[1].label == 1


def test_prmbench_error_steps_that_do_not_exist_leave_the_steps_unlabelled() -> None:
    _, modified = PUBLIC_FORMATS["prmbench"](_pair([2, 4]), Where("x", 1))
    assert (modified.label, modified.step_labels) == (0, None)
    assert modified.meta["error_steps"] == [2, 4]


def test_merge_problems_joins_equal_ids_and_equal_prompts() -> None:
    given = [("p1", "Q a"), ("p2", "Q  a"), ("p2", "Q b"), ("p3", "Q b "), ("p4", "Q c")]
    traces = [Trace(str(i), p, prompt, "x") for i, (p, prompt) in enumerate(given)]
    merged = merge_problems(traces)
    assert [t.problem_id for t in merged] == ["p1", "p1", "p1", "p1", "p4"]
    assert [t.prompt for t in merged] == [t.prompt for t in traces]


def test_a_bad_record_quarantines_both_traces_of_its_line(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    broken = {**_pair([1]), "steps_corrupted": ["a", ""]}
    path.write_text(json.dumps(broken) + "\n" + json.dumps(_pair([2])) + "\n")
    result = read_traces(path, format="prmbench", skip_bad=True)
    assert len(result.traces) == 2
    assert [error.line for error in result.bad] == [1]


@pytest.mark.shared
def test_gsm8k_solutions_file() -> None:
    records = _records("gsm8k_solutions_dev.jsonl")
    traces = load_traces(DATA / "gsm8k_solutions_dev.jsonl", format="gsm8k-solutions")
    assert len(traces) == len(records) == 3600
    assert Counter(t.label for t in traces) == {1: 1392, 0: 2208}
    assert Counter(Counter(t.problem_id for t in traces).values()) == {4: 900}
    assert Counter(t.status for t in traces) == {"ok": 3591, "unparsed": 9}
    for record, trace in zip(records, traces, strict=True):
        assert trace.problem_id == record["problem_id"]
        assert trace.id == f"{record['problem_id']}-{record['source_model']}"
        assert trace.completion == "\n" + record["solution"]
        assert _texts(trace) == record["solution"].split("\n")
        assert trace.label == record["is_correct"]


@pytest.mark.shared
def test_checked_answers_agree_with_the_labels_of_all_3600_solutions() -> None:
    questions = {t.problem_id: t for t in load_traces(DATA / "gsm8k_test.jsonl", format="gsm8k")}
    for trace in load_traces(DATA / "gsm8k_solutions_dev.jsonl", format="gsm8k-solutions"):
        reference = questions[trace.problem_id]
        assert reference.prompt == trace.prompt
        assert reference.answer is not None
        assert check(trace.answer, reference.answer, "integer") == bool(trace.label), trace.id


@pytest.mark.shared
@pytest.mark.parametrize(("split", "rows"), [("train", 7473), ("test", 1319)])
def test_gsm8k_file(split: str, rows: int) -> None:
    records = _records(f"gsm8k_{split}.jsonl")
    traces = load_traces(DATA / f"gsm8k_{split}.jsonl", format="gsm8k")
    assert len(traces) == len(records) == rows
    assert {t.label for t in traces} == {1}
    for i, (record, trace) in enumerate(zip(records, traces, strict=True)):
        assert trace.problem_id == f"gsm8k-{split}-{i}"
        assert trace.answer == record["answer"].split("#### ")[1].replace(",", "")
        assert _texts(trace) == [line for line in record["answer"].split("\n") if line.strip()]
        assert parse_answer(trace.completion, "integer") == trace.answer


@pytest.mark.shared
def test_mr_gsm8k_file() -> None:
    records = _records("mr_gsm8k_subset.jsonl")
    traces = load_traces(DATA / "mr_gsm8k_subset.jsonl", format="mr-gsm8k")
    assert len(traces) == len(records) == 590
    assert {t.label for t in traces} == {0}
    assert len({t.problem_id for t in traces}) == 534
    for record, trace in zip(records, traces, strict=True):
        assert _texts(trace) == record["steps"]
        assert trace.step_labels is not None
        assert trace.step_labels.index(0) == record["first_error_step_1based"] - 1
        assert trace.step_labels.count(0) == 1
        assert (trace.answer is None) == (record["question_type"] == "POT")


@pytest.mark.shared
def test_bigbench_mistake_file() -> None:
    records = _records("bigbench_mistake_dev.jsonl")
    traces = load_traces(DATA / "bigbench_mistake_dev.jsonl", format="bigbench-mistake")
    assert len(traces) == len(records) == 1530
    assert Counter(t.label for t in traces) == {1: 344, 0: 1186}
    for record, trace in zip(records, traces, strict=True):
        assert _texts(trace) == record["steps"]
        assert trace.label == record["is_valid"]
        labels = list(trace.step_labels or ())
        assert (labels.index(0) if 0 in labels else None) == record["first_error_step"]


@pytest.mark.shared
def test_prmbench_file() -> None:
    records = _records("prmbench_dev.jsonl")
    traces = load_traces(DATA / "prmbench_dev.jsonl", format="prmbench")
    assert len(traces) == 2 * len(records) == 4516
    assert Counter(t.label for t in traces) == {1: 2258 + 72, 0: 2186}
    assert sum(t.step_labels is None for t in traces) == 32
    assert len({t.problem_id for t in traces}) == 453
    for record, original, modified in zip(records, traces[::2], traces[1::2], strict=True):
        assert _texts(original) == record["steps_valid"]
        assert _texts(modified) == record["steps_corrupted"]
        assert original.problem_id == modified.problem_id
        assert modified.completion == "\n" + record["solution"]
        if modified.step_labels is not None:
            found = [i for i, label in enumerate(modified.step_labels, 1) if label == 0]
            assert found == sorted(set(record["error_steps_1based"]))


@pytest.mark.shared
@pytest.mark.parametrize(("format", "name"), [
    ("prmbench", "prmbench_dev.jsonl"), ("mr-gsm8k", "mr_gsm8k_subset.jsonl"),
])
def test_no_prompt_is_shared_by_two_problems(format: str, name: str) -> None:
    problems: dict[str, set[str]] = {}
    for trace in load_traces(DATA / name, format=format):
        problems.setdefault(" ".join(trace.prompt.split()), set()).add(trace.problem_id)
    assert max(len(ids) for ids in problems.values()) == 1
