"""Rank correlation and regret of a criterion, against scipy and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from validator.errors import ParameterError
from validator.plugins.checkpoints.ranking import Criterion, judge_criterion, pick, rank_order

NAN = math.nan


@given(st.data(), st.integers(3, 12), st.booleans())
def test_spearman_is_scipy_s_with_ties(data: st.DataObject, size: int, higher: bool) -> None:
    small = st.lists(st.integers(0, 4).map(float), min_size=size, max_size=size)
    values, truth = data.draw(small), [v / 4 for v in data.draw(small)]
    found = judge_criterion(Criterion("c", tuple(values), higher), truth).spearman
    if len(set(values)) == 1 or len(set(truth)) == 1:
        assert found is None
        return
    expected = spearmanr(values if higher else [-v for v in values], truth).statistic
    assert found == pytest.approx(expected, abs=1e-12)


@given(st.data(), st.integers(1, 8), st.booleans())
def test_regret_by_brute_force(data: st.DataObject, size: int, higher: bool) -> None:
    maybe = st.lists(st.one_of(st.integers(0, 3).map(float), st.just(NAN)), min_size=size,
                     max_size=size)
    values, truth = data.draw(maybe), [v / 3 for v in data.draw(maybe)]
    best: int | None = None
    for i, v in enumerate(values):
        if not math.isnan(v) and (
                best is None or (v > values[best] if higher else v < values[best])):
            best = i
    found = judge_criterion(Criterion("c", tuple(values), higher), truth)
    assert found.picked == best
    if best is None or math.isnan(truth[best]):
        assert found.regret is None
        assert found.accuracy is None
    else:
        top = max(t for t in truth if not math.isnan(t))
        assert found.accuracy == truth[best]
        assert found.regret == pytest.approx(top - truth[best])
        assert 0 <= found.regret <= 1
    assert found.compared == sum(
        not math.isnan(a) and not math.isnan(b) for a, b in zip(values, truth, strict=True))


def test_the_earliest_of_equals_and_never_a_nan() -> None:
    assert pick([NAN, 2.0, 3.0, 3.0]) == 2
    assert pick([NAN, 2.0, 3.0, 2.0], higher_is_better=False) == 1
    assert pick([NAN, NAN]) is None
    assert rank_order([1.0, NAN, 3.0, 3.0, 2.0]) == [2, 3, 4, 0, 1]
    assert rank_order([1.0, NAN, 3.0, 3.0, 2.0], higher_is_better=False) == [0, 4, 2, 3, 1]


def test_a_loss_points_the_other_way() -> None:
    loss, truth = (3.0, 2.0, 1.0), [0.1, 0.2, 0.3]
    right = judge_criterion(Criterion("loss", loss, higher_is_better=False), truth)
    wrong = judge_criterion(Criterion("loss", loss), truth)
    assert (right.spearman, right.regret, right.picked) == (1.0, 0.0, 2)
    assert (wrong.spearman, wrong.picked) == (-1.0, 0)
    assert wrong.regret == pytest.approx(0.2)


def test_two_points_have_no_correlation_and_shapes_must_agree() -> None:
    assert judge_criterion(Criterion("c", (1.0, 2.0)), [0.1, 0.2]).spearman is None
    assert judge_criterion(Criterion("c", (1.0, NAN, 2.0)), [0.1, 0.3, 0.2]).compared == 2
    with pytest.raises(ParameterError, match="2 values for 3 accuracies"):
        judge_criterion(Criterion("c", (1.0, 2.0)), [0.1, 0.2, 0.3])
    assert np.isclose(
        judge_criterion(Criterion("c", (1.0, NAN, 2.0)), [0.1, 0.3, 0.2]).regret or 0, 0.1)
