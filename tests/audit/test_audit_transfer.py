"""Scores for unseen sources: neither the problem nor the source was trained on."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from validator.audit.transfer import source_groups, transfer_scores, transfer_splits
from validator.errors import LabelError


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10_000), st.integers(2, 5))
def test_no_problem_and_no_source_crosses_a_split(seed: int, sources: int) -> None:
    rng = np.random.default_rng(seed)
    problems, who = rng.integers(0, 20, 150), rng.integers(0, sources, 150)
    y = rng.integers(0, 2, 150)
    assume(np.unique(problems).size >= 3)
    groups = source_groups(who)
    splits = transfer_splits(problems, y, groups, 3)
    for train, test in splits:
        assert not set(problems[train]) & set(problems[test])
        assert not set(who[train]) & set(who[test])
    assert sorted(np.concatenate([t for _, t in splits]).tolist()) == list(range(150))


def test_many_sources_are_left_out_in_groups_of_like_size() -> None:
    who = np.repeat([f"s{i}" for i in range(25)], np.arange(25, 0, -1))
    groups = source_groups(who, 10)
    assert np.unique(groups).size == 10
    assert all(np.unique(groups[who == s]).size == 1 for s in np.unique(who))
    assert groups[who == "s0"][0] == groups[who == "s10"][0] == groups[who == "s20"][0] == 0


def test_a_source_that_decides_the_label_is_said() -> None:
    y = np.arange(40) % 2
    with pytest.raises(LabelError, match="one class"):
        transfer_splits(np.arange(40) // 4, y, y, 2)


def test_scores_come_from_the_right_model() -> None:
    splits = [(np.array([2, 3]), np.array([0, 1])), (np.array([0, 1]), np.array([2, 3]))]
    steps = []
    scores = transfer_scores(splits, lambda train, test: train.sum() + test, 4,
                             lambda: steps.append(1))
    assert scores.tolist() == [5, 6, 3, 4]
    assert len(steps) == 2
