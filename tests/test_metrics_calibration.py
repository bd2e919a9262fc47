"""Calibration and risk-coverage against scikit-learn and against their definitions, written out."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss

from validator.errors import LabelError, ParameterError, ScoreError
from validator.metrics import aurc, brier, ece

SIZES = st.integers(1, 60)


def sample(n: int, seed: int = 0):
    rng = np.random.default_rng(seed + n)
    return rng.integers(0, 2, n), np.round(rng.random(n), 1)  # rounded: on the bin edges


@given(SIZES)
def test_brier_is_sklearns(n):
    y, p = sample(n)
    assert brier(y, p) == pytest.approx(brier_score_loss(y, p, pos_label=1))


@given(SIZES, st.integers(1, 12))
def test_ece_is_its_definition(n, bins):
    y, p = sample(n)
    edges = np.linspace(0, 1, bins + 1)
    expected = 0.0
    for m in range(bins):
        inside = (p > edges[m]) & (p <= edges[m + 1]) | ((m == 0) & (p == 0))
        if inside.any():
            expected += inside.mean() * abs(y[inside].mean() - p[inside].mean())
    assert ece(y, p, bins) == pytest.approx(expected, abs=1e-12)


def test_ece_of_known_cases():
    assert ece([1, 1, 0, 0], [1.0, 1.0, 0.0, 0.0]) == 0
    assert ece([0, 0, 1, 1], [1.0, 1.0, 0.0, 0.0]) == 1
    assert ece([1, 0], [0.75, 0.75]) == pytest.approx(0.25)


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 2)), min_size=1, max_size=6))
def test_aurc_averages_over_the_orders_of_ties(rows):
    y, s = (np.array(column) for column in zip(*rows, strict=True))
    steps = np.arange(1, y.size + 1)
    areas = [
        np.mean(np.cumsum(1 - y[list(order)]) / steps)
        for order in itertools.permutations(range(y.size))
        if (np.diff(s[list(order)]) <= 0).all()
    ]
    assert aurc(y, s) == pytest.approx(np.mean(areas))


def test_aurc_rewards_rejecting_the_invalid_first():
    y = np.array([1] * 6 + [0] * 4)
    assert aurc(y, np.zeros(10)) == pytest.approx(0.4)  # no information: the share of invalid
    assert aurc(y, y) < 0.4 < aurc(y, -y)


@pytest.mark.parametrize("metric", [brier, ece])
@pytest.mark.parametrize("p", [[-0.1, 0.5], [0.5, 1.1], [0.5, np.nan], [0.5]])
def test_what_is_no_probability_raises(metric, p):
    with pytest.raises(ScoreError):
        metric([0, 1], p)


def test_bad_arguments_raise():
    with pytest.raises(ParameterError):
        ece([0, 1], [0.1, 0.2], bins=0)
    with pytest.raises(LabelError):
        brier([], [])
    with pytest.raises(ScoreError):
        aurc([0, 1], [np.nan, 0])
