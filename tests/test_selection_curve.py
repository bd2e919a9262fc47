"""Curves over the number of answers, against enumeration of every subset."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from validator.errors import ParameterError, ScoreError
from validator.metrics import (
    SelectionCurves,
    best_of_n,
    first_answer,
    majority_vote,
    oracle,
    weighted_vote,
)

SIZES = (1, 2, 3, 5, 6)


@pytest.fixture
def answers():
    rng = np.random.default_rng(3)
    groups = np.repeat(["a", "b", "c", "d"], 6)
    labels = rng.integers(0, 2, 24)
    labels[18:] = 0
    given = [None if v == 4 else str(v) for v in rng.integers(0, 5, 24)]
    scores = np.round(rng.random(24), 1)  # ties
    return labels, groups, given, scores


def every_subset(value, labels, groups, n, *columns):
    """Mean over all subsets of n answers of each problem, by the rules that see all answers."""
    found = []
    for problem in np.unique(groups):
        rows = np.flatnonzero(groups == problem)
        values = [
            value(labels[list(part)], *([c[i] for i in part] for c in columns),
                  ["p"] * n).values[0]
            for part in combinations(rows.tolist(), n)]
        found.append(np.mean(values))
    return np.array(found)


def test_best_of_n_is_the_mean_over_every_subset(answers):
    labels, groups, _, scores = answers
    found = SelectionCurves(labels, groups, SIZES).best(scores)
    for i, n in enumerate(SIZES):
        expected = every_subset(best_of_n, labels, groups, n, scores)
        np.testing.assert_allclose(found[:, i], expected, atol=1e-12)


def test_oracle_is_the_mean_over_every_subset(answers):
    labels, groups, _, _ = answers
    found = SelectionCurves(labels, groups, SIZES).oracle()
    for i, n in enumerate(SIZES):
        expected = every_subset(oracle, labels, groups, n)
        np.testing.assert_allclose(found[:, i], expected, atol=1e-12)


@pytest.mark.parametrize("weigh", [False, True])
def test_votes_converge_to_the_mean_over_every_subset(answers, weigh):
    labels, groups, given, scores = answers
    curves = SelectionCurves(labels, groups, SIZES, n_orders=8000)
    found = curves.vote(given, scores) if weigh else curves.vote(given)
    for i, n in enumerate(SIZES):
        expected = (every_subset(weighted_vote, labels, groups, n, given, scores) if weigh
                    else every_subset(majority_vote, labels, groups, n, given))
        np.testing.assert_allclose(found[:, i], expected, atol=0 if n == 6 else 0.02)


def test_a_vote_of_all_answers_needs_no_order(answers):
    labels, groups, given, scores = answers
    curves = SelectionCurves(labels, groups, [6], n_orders=1, seed=5)
    np.testing.assert_allclose(
        curves.vote(given)[:, 0], majority_vote(labels, given, groups).values)
    np.testing.assert_allclose(
        curves.vote(given, scores)[:, 0], weighted_vote(labels, given, scores, groups).values)


def test_a_filtered_vote_is_a_majority_vote_of_those_kept(answers):
    labels, groups, given, scores = answers
    distinct = scores + np.linspace(0, 0.01, 24)
    found = SelectionCurves(labels, groups, [6]).filtered_vote(given, distinct, keep=0.5)
    for p, problem in enumerate(np.unique(groups)):
        rows = np.flatnonzero(groups == problem)
        kept = rows[np.argsort(-distinct[rows])[:3]]
        expected = majority_vote(labels[kept], [given[i] for i in kept], ["p"] * 3).values[0]
        assert found[p, 0] == pytest.approx(expected)


def test_a_filtered_vote_that_keeps_all_is_a_majority_vote(answers):
    labels, groups, given, scores = answers
    curves = SelectionCurves(labels, groups, SIZES, n_orders=20)
    np.testing.assert_allclose(
        curves.filtered_vote(given, scores, keep=1.0), curves.vote(given), atol=1e-12)


def test_first_and_random_do_not_depend_on_the_number(answers):
    labels, groups, _, _ = answers
    curves = SelectionCurves(labels, groups, SIZES)
    assert (curves.first() == first_answer(labels, groups).values[:, None]).all()
    shares = [labels[groups == p].mean() for p in np.unique(groups)]
    np.testing.assert_allclose(curves.random(), np.tile(np.array(shares)[:, None], len(SIZES)))
    np.testing.assert_allclose(curves.best(np.zeros(24)), curves.random(), atol=1e-12)


def test_one_answer_is_a_random_one_whatever_the_score(answers):
    labels, groups, _, scores = answers
    curves = SelectionCurves(labels, groups, [1])
    np.testing.assert_allclose(curves.best(scores), curves.random(), atol=1e-12)
    np.testing.assert_allclose(curves.oracle(), curves.random(), atol=1e-12)


def test_a_problem_with_fewer_answers_counts_with_all_it_has():
    labels, groups = [1, 0, 0, 1, 0], ["a", "a", "b", "b", "b"]
    found = SelectionCurves(labels, groups, [2, 3]).best([0.1, 0.9, 0.2, 0.3, 0.1])
    assert found[0].tolist() == [0, 0]
    assert found[1].tolist() == pytest.approx([2 / 3, 1])


def test_an_answer_without_a_score_ranks_last(answers):
    labels, groups, _, scores = answers
    lowest = scores.copy()
    lowest[[0, 7]] = -1e9
    missing = scores.copy()
    missing[[0, 7]] = -np.inf
    curves = SelectionCurves(labels, groups, SIZES)
    np.testing.assert_array_equal(curves.best(missing), curves.best(lowest))


def test_orders_are_those_of_the_seed(answers):
    labels, groups, given, _ = answers
    one, same, other = (SelectionCurves(labels, groups, [3], 8, seed).vote(given)
                        for seed in (0, 0, 1))
    assert (one == same).all()
    assert (one != other).any()


@pytest.mark.parametrize("sizes", [[], [0, 1], [2, 1], [1, 1]])
def test_sizes_must_ascend(sizes):
    with pytest.raises(ParameterError, match="ascend"):
        SelectionCurves([0, 1], ["a", "a"], sizes)


def test_weights_must_not_be_negative(answers):
    labels, groups, given, scores = answers
    with pytest.raises(ScoreError, match="vote with P"):
        SelectionCurves(labels, groups, [2]).vote(given, scores - 1)
