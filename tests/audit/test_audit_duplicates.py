"""Near duplicates against sets of 5-grams; distinct questions stay apart."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from validator.audit.duplicates import merge_near_duplicates, near_duplicates
from validator.audit.sample import question_texts
from validator.errors import ParameterError
from validator.types import Trace

LONG = "A train leaves the station at nine and drives {} miles before it stops for the night."


def trace(i: int, problem: str, question: str) -> Trace:
    return Trace(f"t{i}", problem, f"Exemplars.\nQ: {question}\nA:", "x", i % 2)


def shingles(text: str) -> set[str]:
    text = " ".join(text.lower().split())
    return {text[k:k + 5] for k in range(max(1, len(text) - 4))}


def test_pairs_equal_the_double_loop_over_sets() -> None:
    rng = np.random.default_rng(0)
    base = [" ".join(rng.choice(LONG.split(), 12)) for _ in range(8)]
    questions = [b[:k] + str(k) + b[k:] for b in base for k in (10, 25, 40)] + ["hi", "ho"]
    traces = [trace(i, f"p{i}", q) for i, q in enumerate(questions)]
    known = [shingles(q) for q in question_texts(traces)]
    expected = {}
    for i, j in itertools.combinations(range(len(traces)), 2):
        value = len(known[i] & known[j]) / len(known[i] | known[j])
        if value > 0.6:
            expected[f"p{i}", f"p{j}"] = value
    found = near_duplicates(traces, 0.6)
    assert len(expected) > 8
    assert {(d.first, d.second): d.similarity for d in found} == pytest.approx(expected)
    assert [d.similarity for d in found] == sorted(expected.values(), reverse=True)


def test_copies_are_found_and_merged_and_others_are_not() -> None:
    traces = [
        trace(0, "a", LONG.format(40)), trace(1, "b", LONG.format(50)), trace(2, "a", "ignored"),
        trace(3, "c", "How many pens does Lena have if she buys twelve and gives away four?"),
        trace(4, "d", LONG.format(40).upper().replace(" ", "  ")), trace(5, "c", "How many?"),
    ]
    assert {(d.first, d.second) for d in near_duplicates(traces)} == {
        ("a", "b"), ("a", "d"), ("b", "d")}
    assert near_duplicates(traces)[0].similarity == 1.0
    assert merge_near_duplicates(traces) == ("a", "a", "a", "c", "a", "c")


def test_the_same_problem_and_empty_questions_are_no_duplicates() -> None:
    assert near_duplicates([trace(0, "a", LONG), trace(1, "a", LONG + "!")]) == ()
    assert near_duplicates([Trace("1", "a", "", "x", 1), Trace("2", "b", "", "y", 0)]) == ()


def test_chains_merge() -> None:
    """The last is like the second, the second like the first, the last not like the first."""
    steps = [LONG, LONG.replace("night", "winter"), LONG.replace("night", "winter").replace(
        "A train", "Some bus"), "How many pens?"]
    traces = [trace(i, f"p{i}", s) for i, s in enumerate(steps)]
    pairs = {(d.first, d.second) for d in near_duplicates(traces)}
    assert pairs == {("p0", "p1"), ("p1", "p2")}
    assert merge_near_duplicates(traces) == ("p0", "p0", "p0", "p3")


def test_questions_lose_what_all_prompts_share() -> None:
    traces = [trace(0, "a", "one plus two?"), trace(1, "b", "six less four?")]
    assert question_texts(traces) == ["one plus two", "six less four"]
    assert question_texts([trace(0, "a", "same"), trace(1, "b", "same")]) == ["", ""]


def test_a_threshold_out_of_range_is_refused() -> None:
    with pytest.raises(ParameterError, match="threshold"):
        near_duplicates([], 1.0)
