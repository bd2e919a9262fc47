"""Generated problems: right by an independent reading of the template, distinct, reproducible."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from validator.configs.loading import read_yaml
from validator.errors import MalformedTraceError, ParameterError, TraceError
from validator.training.answers import parse_answer
from validator.training.problems import (
    evaluate_expression,
    problem_set,
    prompt_format,
    read_problems,
)

BUILT_IN = ["one-step", "two-step", "arithmetic"]


@pytest.mark.parametrize("name", BUILT_IN)
@pytest.mark.parametrize("seed", [0, 1])
def test_targets_are_right_and_questions_differ(name: str, seed: int) -> None:
    problems = problem_set(name, 200, seed)
    assert len({p.question for p in problems}) == len({p.id for p in problems}) == 200
    largest = read_yaml(f"problems/{name}.yaml")["largest"]
    for problem in problems:
        value = eval(problem.meta["expression"], {"__builtins__": {}}, dict(problem.meta["values"]))
        assert float(problem.target) == value
        assert 0 < value <= largest
        assert "{" not in problem.question
        for number in problem.meta["values"].values():
            assert str(number) in problem.question


@pytest.mark.parametrize("name", BUILT_IN)
def test_operations_take_turns(name: str) -> None:
    asked = [p.meta["expression"] for p in problem_set(name, 210)]
    counts = {e: asked.count(e) for e in asked}
    assert max(counts.values()) - min(counts.values()) <= 1


@pytest.mark.parametrize("name", BUILT_IN)
def test_same_seed_same_problems_and_more_begin_with_fewer(name: str) -> None:
    assert problem_set(name, 40, 3) == problem_set(name, 40, 3)
    assert problem_set(name, 40, 3)[:10] == problem_set(name, 10, 3)
    assert problem_set(name, 40, 3) != problem_set(name, 40, 4)


@pytest.mark.parametrize("name", BUILT_IN)
def test_the_exemplars_own_answers_are_right(name: str) -> None:
    style = prompt_format(name)
    for question, answer in style.exemplars:
        assert answer.startswith(" ")
        *working, _ = answer.split(". ") if ". " in answer else [f"{question} {answer}", ""]
        for step in working:
            left, right = step.split("=")
            assert eval(left) == float(right)
        last = working[-1].split("=")[1].strip()
        assert parse_answer(answer, style.answer_style) == last
        assert not any(s in answer for s in style.stop)


def test_prompt_shows_exemplars_then_the_question() -> None:
    prompt = prompt_format("one-step").prompt("How many?")
    assert prompt.endswith("\n\nQ: How many?\nA:")
    assert prompt.count("\nA:") == 5


@given(st.integers(1, 99), st.integers(1, 99), st.integers(1, 99))
def test_expressions_are_exact(a: int, b: int, c: int) -> None:
    values = {"a": a, "b": b, "c": c}
    assert evaluate_expression("(a - b) * c + a", values) == (a - b) * c + a
    assert evaluate_expression("a / b", values) * b == a


def test_expressions_hold_nothing_else() -> None:
    with pytest.raises(ParameterError, match="not an expression"):
        evaluate_expression("__import__('os')", {})


def test_unknown_set_and_too_many_are_typed_errors() -> None:
    with pytest.raises(ParameterError, match="one-step, two-step"):
        problem_set("three-step", 1)
    with pytest.raises(ParameterError, match="ask for fewer"):
        problem_set("arithmetic", 5_000)
    for name in ("one-step", "gsm_symbolic"):
        with pytest.raises(ParameterError, match="at least 1, got -1"):
            problem_set(name, -1)


def test_reasoning_gym_problems_carry_integer_targets() -> None:
    problems = problem_set("gsm_symbolic", 5, 1)
    assert problems == problem_set("gsm_symbolic", 5, 1)
    assert all(p.target.lstrip("-").isdigit() for p in problems)
    many = problem_set("gsm_symbolic", 300, 1)
    assert many[:5] == problems
    assert len({p.question for p in many}) == 300


def test_problems_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text('{"question": "1+1?", "answer": "so it is\\n#### 1,002"}\n\n'
                    '{"id": "x", "question": "2+2?", "answer": 4}\n')
    first, second = read_problems(file)
    assert (first.id, first.target) == ("mine-1", "1002")
    assert (second.id, second.target) == ("x", "4")


def test_only_thousands_separators_are_cut_and_only_line_feeds_end_lines(tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text('{"question": "a\u2028b", "answer": "(1, 2)"}\n', encoding="utf-8")
    (problem,) = read_problems(file)
    assert (problem.question, problem.target) == ("a\u2028b", "(1, 2)")


@pytest.mark.parametrize(("line", "reason"), [
    ("{", "not JSON"), ("[]", "JSON object"), ('{"question": "a"}', "'answer'"),
    ('{"question": "", "answer": "1"}', "'question'"),
    ('{"question": " ", "answer": "1"}', "'question'"),
    ('{"question": "a", "answer": true}', "'answer'"),
    ('{"question": "a", "answer": NaN}', "not JSON"),
    ('{"question": "a", "answer": "so ####"}', "nothing follows"),
    ('{"question": "a", "answer": "1", "id": null}', "'id'"),
])
def test_bad_problem_lines_are_named(line: str, reason: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text(json.dumps({"question": "a", "answer": "1"}) + "\n" + line + "\n")
    with pytest.raises(MalformedTraceError, match=f"line 2.*{reason}"):
        read_problems(file)


def test_repeated_ids_and_empty_files_are_errors(tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text('{"id": "x", "question": "a", "answer": "1"}\n' * 2)
    with pytest.raises(MalformedTraceError, match="used on line 1"):
        read_problems(file)
    file.write_text("")
    with pytest.raises(TraceError, match="no problems"):
        read_problems(file)
    with pytest.raises(TraceError, match="cannot read"):
        read_problems(tmp_path / "none.jsonl")


@pytest.mark.shared
def test_the_gsm8k_benchmark_reads_as_problems(shared_data: Path) -> None:
    problems = read_problems(shared_data / "gsm8k_test.jsonl")
    assert len(problems) == 1319
    assert problems[0].target == "18"
    assert all(float(p.target) == int(p.target) for p in problems)
