"""Filtering and sorting, against Python's own filter and sort."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from validator.errors import ParameterError
from validator.types import Trace
from validator.windtunnels.contract import Problem, Tunnel
from validator.windtunnels.filter_sort import FilterSortTunnel
from validator.windtunnels.sorting import RULES, Sorting
from validator.windtunnels.symbols import EOS, symbol_tokenizer

TUNNEL = FilterSortTunnel()
STYLES = ("flat", "text")


def problem_of(seed: int, tunnel: FilterSortTunnel = TUNNEL) -> Problem:
    return tunnel.sample(np.random.default_rng(seed))


def oracle(sorting: Sorting) -> tuple[list[int], list[int]]:
    holds = {"even": lambda n: not n & 1, "odd": lambda n: n & 1 == 1,
             "above": lambda n: n >= sorting.threshold + 1,
             "below": lambda n: n <= sorting.threshold - 1}[sorting.rule]
    kept = list(filter(holds, sorting.numbers))
    return kept, sorted(kept)


def oracle_completion(sorting: Sorting, style: str) -> str:
    kept, placed = oracle(sorting)
    if style == "flat":
        return " ".join([*map(str, kept), "|", *map(str, placed)])
    return "\n".join([*(f"keep {n}" for n in kept), *(f"place {n}" for n in placed)])


def test_the_tunnel_keeps_the_contract() -> None:
    assert isinstance(TUNNEL, Tunnel)


def test_problems_are_what_the_settings_say() -> None:
    problems = TUNNEL.problems(TUNNEL.sample_arrays(np.random.default_rng(0), 300))
    assert {p.content.rule for p in problems} == set(RULES)
    assert {len(p.content.numbers) for p in problems} == set(range(8, 17))
    assert {len(oracle(p.content)[0]) for p in problems} == {2, 3, 4, 5, 6}
    assert all(p.meta["depth"] == len(oracle(p.content)[0]) for p in problems)
    assert all(len(set(p.content.numbers)) == len(p.content.numbers) for p in problems)
    assert all(10 <= n < 50 for p in problems for n in p.content.numbers)
    assert len({p.id for p in problems}) == 300


@pytest.mark.parametrize("style", STYLES)
def test_the_solution_is_filtered_then_sorted(style: str) -> None:
    for seed in range(40):
        problem = problem_of(seed)
        trace = TUNNEL.render(problem, style)
        assert trace.completion == oracle_completion(problem.content, style)
        assert (trace.label, set(trace.step_labels or ())) == (1, {1})
        assert ", ".join(map(str, problem.content.numbers)) in trace.prompt.replace(
            " " if style == "flat" else "\0", ", ")


def test_token_batches_are_the_rendered_problems() -> None:
    tokenizer = symbol_tokenizer(TUNNEL.symbols("flat"))
    problems = TUNNEL.problems(TUNNEL.sample_arrays(np.random.default_rng(3), 60))
    batch = TUNNEL.token_batch(np.random.default_rng(3), 60, "flat")
    assert batch.problem_ids == tuple(p.id for p in problems)
    for problem, ids, labels in zip(problems, batch.ids, batch.labels, strict=True):
        trace = TUNNEL.render(problem, "flat")
        prompt = tokenizer(trace.prompt)["input_ids"]
        whole = tokenizer(trace.prompt + trace.completion)["input_ids"] + [tokenizer.eos_token_id]
        assert ids[: len(whole)].tolist() == whole
        assert not ids[len(whole):].any()
        supervised = np.flatnonzero(labels != -100)
        assert supervised.tolist() == list(range(len(prompt), len(whole)))
        assert labels[supervised].tolist() == whole[len(prompt):]


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("kind", TUNNEL.corruptions)
def test_a_twin_is_wrong_and_as_long(kind: str, style: str) -> None:
    for seed in range(40):
        problem = problem_of(seed)
        right = TUNNEL.render(problem, style)
        wrong = TUNNEL.corrupt(problem, style, kind, np.random.default_rng(seed))
        assert wrong.prompt == right.prompt
        assert wrong.completion != right.completion
        assert [*map(len, wrong.completion.split())] == [*map(len, right.completion.split())]
        assert (wrong.label, wrong.meta["corruption"]) == (0, kind)
        assert wrong.step_labels == tuple(map(int, TUNNEL.verify(problem, wrong)))
        assert 0 in (wrong.step_labels or ())
        assert not TUNNEL.valid(problem, wrong)


@pytest.mark.parametrize("seed", range(10))
def test_what_each_corruption_does(seed: int) -> None:
    problem = problem_of(seed)
    kept, placed = oracle(problem.content)

    def stages(kind: str) -> list[list[int]]:
        wrong = TUNNEL.corrupt(problem, "flat", kind, np.random.default_rng(seed))
        return [[int(word) for word in part.split()] for part in wrong.completion.split("|")]

    first, second = stages("swapped")
    assert sum(a != b for a, b in zip(first, kept, strict=True)) == 2
    assert second == placed
    first, second = stages("off_rule")
    (strange,) = set(first) - set(kept)
    assert strange in problem.content.numbers
    assert second == sorted(first)
    first, second = stages("early_stop")
    assert first == kept
    assert second == sorted(second)
    assert set(second) < set(placed)
    assert second[0] == placed[0]
    first, second = stages("bad_order")
    assert first == kept
    assert sorted(second) == placed != second


def test_verdicts_by_hand() -> None:
    problem = Problem("by hand", Sorting((34, 71, 12, 40), "even", 50))

    def verdicts(completion: str, style: str = "flat") -> tuple[tuple[Any, ...], int | None]:
        trace = TUNNEL.judge(problem, style, completion, trace_id="t")
        return trace.step_labels or (), trace.label

    assert verdicts("34 12 40 | 12 34 40") == ((1,) * 7, 1)
    # Wrongly kept, but sorted rightly; passed over; placed twice; placed though never kept.
    assert verdicts("34 71 12 40 | 12 34 40 71") == ((1, 0, 1, 1, 1, 1, 1, 1, 1), 0)
    assert verdicts("34 40 | 34 40") == ((1, 0, 1, 1, 1), 0)
    assert verdicts("34 12 40 | 12 12 34 40") == ((1,) * 5 + (0, 1, 1), 0)
    assert verdicts("34 12 40 | 12 34 99 40") == ((1,) * 6 + (0, 1), 0)
    # Turned too early, turned twice, not ended, not begun, gone on.
    assert verdicts("34 12 | 12 34") == ((1, 1, 0, 1, 1), 0)
    assert verdicts("34 12 40 | | 12 34 40") == ((1,) * 4 + (0, 1, 1, 1), 0)
    assert verdicts("34 12 40 | 12 34") == ((1,) * 6, 0)
    assert verdicts("") == ((), 0)
    assert verdicts("34 12 40 | 12 34 40 40") == ((1,) * 7 + (0,), 0)
    assert verdicts("Keep 34.\n- keep 12\n\nkeep 40\nplace 12\nplace 34\nplace 40", "text"
                    ) == ((1,) * 6, 1)
    assert verdicts("keep 34\nkeep 12\nplace 12\nkeep 40", "text") == ((1, 1, 0, 0), 0)


@given(text=st.text(alphabet="0123456789| \nkeplacx.-\u0663", max_size=40),
       style=st.sampled_from(STYLES))
@settings(max_examples=150, deadline=None)
def test_whatever_a_model_writes_is_judged(text: str, style: str) -> None:
    problem = problem_of(1)
    trace = TUNNEL.judge(problem, style, text, trace_id="t")
    assert len(trace.step_labels or ()) == len(trace.steps or ())
    right = oracle_completion(problem.content, style)
    assert (trace.label == 1) == (text.split() == right.split())


def test_the_posterior_is_the_solution_and_then_the_end() -> None:
    problem = problem_of(8)
    trace = TUNNEL.render(problem, "flat")
    written: list[str] = []
    for symbol in [*trace.completion.split(), EOS]:
        belief = TUNNEL.posterior(problem, trace.prompt.split() + written)
        assert belief.support == {symbol}
        assert belief.probabilities.sum() == 1
        written.append(symbol)
    with pytest.raises(ParameterError, match="must begin with the problem's prompt"):
        TUNNEL.posterior(problem, ["34"])


def test_a_step_is_right_exactly_where_the_posterior_says_so() -> None:
    for seed, kind in enumerate(TUNNEL.corruptions * 5):
        problem = problem_of(seed)
        wrong = TUNNEL.corrupt(problem, "flat", kind, np.random.default_rng(seed))
        prompt, words = wrong.prompt.split(), wrong.completion.split()
        supported = tuple(word in TUNNEL.posterior(problem, prompt + words[:i]).support
                          for i, word in enumerate(words))
        assert supported == TUNNEL.verify(problem, Trace(
            "t", problem.id, wrong.prompt, wrong.completion))


@pytest.mark.parametrize("wrong", [
    {"kept": (1, 4)}, {"kept": (4, 2)}, {"numbers": (6, 16)}, {"numbers": (12, 9)},
    {"values": 32}, {"values": 91}])
def test_settings_that_cannot_be_met_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ParameterError, match="must be"):
        FilterSortTunnel(**wrong)


def test_unknown_styles_and_kinds_are_refused() -> None:
    with pytest.raises(ParameterError, match="no style 'edges'"):
        TUNNEL.render(problem_of(0), "edges")
    with pytest.raises(ParameterError, match="no corruption 'off_path'"):
        TUNNEL.corrupt(problem_of(0), "flat", "off_path", np.random.default_rng(0))
    with pytest.raises(ParameterError, match="reads the style flat"):
        TUNNEL.token_batch(np.random.default_rng(0), 2, "text")
    assert TUNNEL.symbols("text") == ()
