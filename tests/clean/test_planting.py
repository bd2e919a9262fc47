"""Planted corruption: as small as promised, the same every time, and each text checked by hand."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from validator.errors import ParameterError
from validator.plugins.clean import KINDS, corrupted_copies, plant, plant_each, plant_share
from validator.training.formats import line_spans
from validator.types import Trace

TEXT = ("\nShe sold 48/2 = <<48/2=24>>24 clips.\nThen 10 more, so 24+10 = <<24+10=34>>34 clips."
        "\nThat is 1,034 cents.\n#### 34")
DONORS = ("Question: two?\nAnswer:", "Question: three?\nAnswer:")


def solution(i: int = 0, text: str = TEXT, **given: object) -> Trace:
    return Trace(f"t{i}", f"p{i}", f"Question: {i}?\nAnswer:", text, 1, **given)  # type: ignore[arg-type]


def lines(trace: Trace) -> list[str]:
    return trace.completion.split("\n")


@pytest.mark.parametrize("seed", range(12))
def test_altered_number_changes_one_literal_of_one_step_before_the_last(seed: int) -> None:
    found = plant(solution(), "altered_number", seed=seed)
    assert found is not None
    assert len(found.completion) == len(TEXT)
    changed = [(a, b) for a, b in zip(TEXT.split("\n"), lines(found), strict=True) if a != b]
    assert len(changed) == 1
    before, after = (re.findall(r"\d[\d,]*", side) for side in changed[0])
    differing = {(a, b) for a, b in zip(before, after, strict=True) if a != b}
    assert len(differing) == 1
    old, new = differing.pop()
    assert before.count(old) == sum(a == old for a, b in zip(before, after, strict=True) if a != b)
    assert len(old) == len(new)
    assert sum(a != b for a, b in zip(old, new, strict=True)) == 1
    assert not new.startswith("0")
    assert lines(found)[-1] == "#### 34"


def test_wrong_answer_changes_the_last_line_alone() -> None:
    found = plant(solution(), "wrong_answer")
    assert found is not None
    assert lines(found)[:-1] == TEXT.split("\n")[:-1]
    assert re.fullmatch(r"#### [1-9]\d", lines(found)[-1])
    assert lines(found)[-1] != "#### 34"
    assert found.answer is None


def test_swapped_step_exchanges_neighbours_and_moves_their_spans() -> None:
    trace = solution(steps=line_spans(TEXT), step_labels=(1, 1, 1, 1))
    found = plant(trace, "swapped_step", seed=3)
    assert found is not None
    assert found.completion != TEXT
    assert Counter(lines(found)) == Counter(TEXT.split("\n"))
    moved = [i for i, (a, b) in enumerate(zip(TEXT.split("\n"), lines(found), strict=True))
             if a != b]
    assert len(moved) == 2
    assert moved[1] == moved[0] + 1
    assert moved[1] < 4  # the last step stays
    assert found.steps == line_spans(found.completion)
    assert found.step_labels is None


def test_mismatched_question_takes_the_prompt_of_another() -> None:
    own = solution()
    found = plant(own, "mismatched_question", [own.prompt, *DONORS])
    assert found is not None
    assert found.prompt in DONORS
    assert found.completion == TEXT


@pytest.mark.parametrize("kind", KINDS)
def test_label_kind_and_determinism(kind: str) -> None:
    first, again = (plant(solution(), kind, DONORS, seed=5) for _ in range(2))
    assert first == again
    assert first is not None
    assert first.label == 0
    assert first.meta["planted"] == kind
    assert any(plant(solution(), kind, DONORS, seed=s) != first for s in range(6, 20))


@pytest.mark.parametrize(("kind", "text"), [
    ("altered_number", "no number here\n#### 4"), ("swapped_step", "a\nb"),
    ("swapped_step", "same\nsame\n#### 4"), ("wrong_answer", "none"),
    ("mismatched_question", TEXT)])
def test_what_cannot_be_corrupted_is_not(kind: str, text: str) -> None:
    assert plant(solution(text=text), kind) is None


@pytest.mark.parametrize("number", ["7", "10", "0.5", "1,000", "3.07", "100"])
def test_numbers_keep_their_form(number: str) -> None:
    for seed in range(20):
        found = plant(solution(text=f"a\n#### {number}"), "wrong_answer", seed=seed)
        assert found is not None
        new = found.completion.removeprefix("a\n#### ")
        assert re.sub(r"\d", "d", new) == re.sub(r"\d", "d", number)
        assert float(new.replace(",", "")) != float(number.replace(",", ""))
        assert not (new[0] == "0" and number[0] != "0" and new[1:2].isdigit())


def test_share_and_kinds_are_exact_and_the_rest_is_untouched() -> None:
    traces = [solution(i) for i in range(80)]
    found = plant_share(traces, 0.1, DONORS, seed=1)
    assert Counter(t.meta.get("planted") for t in found if t.label == 0) == dict.fromkeys(KINDS, 2)
    assert [t.id for t in found] == [t.id for t in traces]
    assert all(a == b for a, b in zip(traces, found, strict=True) if b.label == 1)
    assert found == plant_share(traces, 0.1, DONORS, seed=1)
    assert found != plant_share(traces, 0.1, DONORS, seed=2)


def test_copies_take_kinds_in_turn_and_prompts_of_their_own_part() -> None:
    traces = [solution(i) for i in range(40)]
    assert Counter(t.meta["planted"] for t in plant_each(traces, DONORS)) == dict.fromkeys(
        KINDS, 10)
    copies = corrupted_copies(traces, seed=4)
    assert {t.problem_id for t in copies} == {t.problem_id for t in traces}
    asked = {t.prompt: t.problem_id for t in traces}
    pairs = [(t.problem_id, asked[t.prompt]) for t in copies
             if t.meta["planted"] == "mismatched_question"]
    assert pairs
    from validator.plugins.clean.planted import problem_halves

    part = dict(zip([t.problem_id for t in traces],
                    problem_halves([t.problem_id for t in traces], 2, 4), strict=True))
    assert all(part[a] == part[b] and a != b for a, b in pairs)


def test_refusals() -> None:
    with pytest.raises(ParameterError, match="kind must be one of"):
        plant(solution(), "typo")
    with pytest.raises(ParameterError, match="share"):
        plant_share([solution()], 1.5)
    with pytest.raises(ParameterError, match="smaller share"):
        plant_share([solution(i, "none") for i in range(9)], 0.5, kinds=("wrong_answer",))
