"""Selection rules against enumerating every way a tie can fall."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from validator.errors import LabelError, ScoreError
from validator.metrics import best_of_n, first_answer, majority_vote, oracle, weighted_vote

ROWS = st.lists(
    st.tuples(st.integers(0, 1), st.integers(0, 2), st.sampled_from("pqr"),
              st.sampled_from(["4", "5", "6", None])),
    min_size=1, max_size=20,
)


def columns(rows):
    return tuple(list(column) for column in zip(*rows, strict=True))


def by_problem(rows):
    return {g: [row for row in rows if row[2] == g] for g in sorted({row[2] for row in rows})}


@given(ROWS)
def test_best_of_n_averages_over_tied_best_answers(rows):
    labels, scores, groups, _ = columns(rows)
    problems, values = best_of_n(labels, scores, groups)
    expected = []
    for mine in by_problem(rows).values():
        best = max(row[1] for row in mine)
        expected.append(np.mean([row[0] for row in mine if row[1] == best]))
    assert list(problems) == list(by_problem(rows))
    assert values == pytest.approx(np.array(expected))


@given(ROWS)
def test_first_answer_and_oracle(rows):
    labels, _, groups, _ = columns(rows)
    split = by_problem(rows).values()
    assert list(first_answer(labels, groups).values) == [mine[0][0] for mine in split]
    assert list(oracle(labels, groups).values) == [max(row[0] for row in mine) for mine in split]


def election(mine, weight):
    votes = Counter()
    for row in mine:
        if row[3] is not None:
            votes[row[3]] += weight(row)
    if not any(row[3] is not None for row in mine):
        return 0.0
    tied = [answer for answer, count in votes.items() if count == max(votes.values())]
    return np.mean([np.mean([row[0] for row in mine if row[3] == answer]) for answer in tied])


@given(ROWS)
def test_votes_count_parsed_answers_and_average_ties(rows):
    labels, scores, groups, answers = columns(rows)
    split = by_problem(rows).values()
    majority = majority_vote(labels, answers, groups).values
    weighted = weighted_vote(labels, answers, scores, groups).values
    assert majority == pytest.approx(np.array([election(mine, lambda row: 1) for mine in split]))
    assert weighted == pytest.approx(np.array([election(mine, lambda row: row[1])
                                               for mine in split]))


def test_the_cases_of_a_vote():
    labels, groups = [1, 1, 0, 0, 0], ["a"] * 5
    assert majority_vote(labels, ["4", "4", "5", "6", "7"], groups).values[0] == 1
    assert majority_vote(labels, ["4", "4", "5", "5", "7"], groups).values[0] == 0.5
    assert majority_vote(labels, ["4", "4", None, None, None], groups).values[0] == 1
    assert majority_vote(labels, [None] * 5, groups).values[0] == 0
    assert weighted_vote(labels, ["4", "4", "5", "5", "7"], [1, 1, 2, 2, 3], groups).values[0] == 0


def test_equal_votes_tie_whatever_the_rounding():
    answers, groups = ["x", "x", "x", "y"], ["a"] * 4
    votes = [0.1, 0.2, 0.3, 0.6]  # 0.1 + 0.2 + 0.3 is 0.6000000000000001 when added in turn
    assert weighted_vote([1, 1, 1, 0], answers, votes, groups).values[0] == 0.5


@given(ROWS)
def test_the_oracle_is_the_ceiling(rows):
    labels, scores, groups, answers = columns(rows)
    ceiling = oracle(labels, groups).values
    for chosen in (best_of_n(labels, scores, groups), first_answer(labels, groups),
                   majority_vote(labels, answers, groups)):
        assert (chosen.values <= ceiling).all()


def test_negative_votes_and_missing_answers_raise():
    with pytest.raises(ScoreError, match=r"P\(valid\)"):
        weighted_vote([0, 1], ["4", "5"], [-1.0, -2.0], ["a", "a"])
    with pytest.raises(LabelError, match="2 answers"):
        majority_vote([0, 1], ["4"], ["a", "a"])
    with pytest.raises(ScoreError):
        best_of_n([0, 1], [np.nan, 1.0], ["a", "a"])
