"""R-precision against counting by hand and against all orders of tied rows."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from validator.errors import LabelError
from validator.metrics import Resampler, r_precision, r_precision_statistic


def counted(labels: np.ndarray, scores: np.ndarray) -> float:
    r = int((labels == 0).sum())
    return float((labels[np.argsort(scores, kind="stable")[:r]] == 0).mean())


@pytest.mark.parametrize("seed", range(5))
def test_without_ties_it_is_counted(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels, scores = rng.integers(0, 2, 40), rng.normal(size=40)
    assert r_precision(labels, scores) == pytest.approx(counted(labels, scores))


def test_ties_are_the_mean_over_orders() -> None:
    labels, scores = np.array([0, 1, 0, 1, 0]), np.array([1.0, 1.0, 1.0, 2.0, 2.0])
    orders = [counted(labels[list(p)], scores[list(p)]) for p in permutations(range(5))]
    assert r_precision(labels, scores) == pytest.approx(np.mean(orders))
    assert r_precision(labels, np.zeros(5)) == pytest.approx(0.6)


def test_weights_are_copies_and_resamples_are_draws() -> None:
    rng = np.random.default_rng(1)
    labels, scores = rng.integers(0, 2, 30), rng.integers(0, 9, 30).astype(float)
    weights = rng.integers(0, 4, 30)
    rows = np.repeat(np.arange(30), weights)
    assert r_precision(labels, scores, weights) == pytest.approx(
        r_precision(labels[rows], scores[rows]))
    problems = np.array([f"p{i // 3}" for i in range(30)])
    resampler = Resampler(problems, 20, 0)
    drawn = r_precision_statistic(labels, scores, resampler)(resampler.counts)
    for value, counts in zip(drawn, resampler.counts, strict=True):
        own = np.concatenate([np.flatnonzero(resampler.index == p) for p, c in enumerate(counts)
                              for _ in range(c)])
        assert value == pytest.approx(r_precision(labels[own], scores[own]))


def test_one_class_is_refused_and_a_draw_without_invalid_rows_is_undefined() -> None:
    with pytest.raises(LabelError):
        r_precision([1, 1], [0.0, 1.0])
    resampler = Resampler(["a", "b"], 1, 0)
    statistic = r_precision_statistic([1, 0], [0.0, 1.0], resampler)
    assert np.isnan(statistic(np.array([[2, 0]]))[0])
