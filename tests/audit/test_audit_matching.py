"""Matched and within-source AUROC against double loops; their bootstrap against copied rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from validator.audit.matching import (
    length_pair_auroc,
    length_pairs,
    source_strata,
    strata_statistic,
)
from validator.errors import LabelError, ParameterError
from validator.metrics import Resampler, auroc, clustered_interval


def brute_pairs(y: np.ndarray, s: np.ndarray, size: np.ndarray, caliper: float) -> float:
    values = []
    for i in np.flatnonzero(y == 1):
        gaps = {int(j): abs(size[j] - size[i]) for j in np.flatnonzero(y == 0)}
        least = min(gaps.values())
        if least > caliper * size[i]:
            continue
        matched = [j for j, gap in gaps.items() if gap == least]
        values.append(np.mean([(s[i] > s[j]) + 0.5 * (s[i] == s[j]) for j in matched]))
    return float(np.mean(values)) if values else float("nan")


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.05, 0.1, 0.5]), st.integers(2, 40))
def test_nearest_length_pairs_equal_the_double_loop(seed: int, caliper: float, n: int) -> None:
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % 2)
    s, size = rng.integers(0, 6, n), rng.integers(1, 60, n)
    expected = brute_pairs(y, s, size, caliper)
    if np.isnan(expected):
        with pytest.raises(LabelError, match="caliper"):
            length_pair_auroc(y, s, size, caliper)
    else:
        assert length_pair_auroc(y, s, size, caliper) == pytest.approx(expected, abs=1e-12)


def test_ties_on_both_sides_are_all_matched() -> None:
    y, size = np.array([1, 0, 0, 0, 0]), np.array([100, 95, 105, 105, 120])
    (rows, weight), = length_pairs(y, size)
    assert sorted(rows.tolist()) == [0, 1, 2, 3]
    assert weight == pytest.approx(1 / 3)
    assert length_pair_auroc(y, [2, 1, 3, 2, 9], size) == pytest.approx((1 + 0 + 0.5) / 3)


def test_a_length_meter_is_at_chance_among_traces_of_equal_length() -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 600)
    size = rng.integers(20, 60, 600) + 10 * (1 - y)
    assert auroc(y, -size) > 0.65
    assert length_pair_auroc(y, -size, size) == pytest.approx(0.5, abs=0.05)
    assert length_pair_auroc(y, y, size) == 1.0


def test_bootstrap_weights_equal_copied_rows() -> None:
    """Each row of a problem drawn twice is there twice; the matches are those of the data."""
    rng = np.random.default_rng(1)
    groups = np.repeat(np.arange(12), 4)
    y, s, size = rng.integers(0, 2, 48), rng.integers(0, 9, 48), rng.integers(5, 25, 48)
    strata = length_pairs(y, size, 0.3)
    resampler = Resampler(groups, 30, seed=2)
    values = strata_statistic(y, s, strata, resampler)(resampler.counts)
    for counts, value in zip(resampler.counts, values, strict=True):
        top = bottom = 0.0
        for rows, weight in strata:
            for i in rows[y[rows] == 1]:
                for j in rows[y[rows] == 0]:
                    w = weight * counts[groups[i]] * counts[groups[j]]
                    top += w * ((s[i] > s[j]) + 0.5 * (s[i] == s[j]))
                    bottom += w
        assert value == pytest.approx(top / bottom)


def test_within_source_is_the_mean_of_sources_weighted_by_pairs() -> None:
    rng = np.random.default_rng(3)
    who = np.array(list("abcd"))[rng.integers(0, 4, 200)]
    y = np.where(who == "d", 1, rng.integers(0, 2, 200))  # d wrote valid traces only
    s = rng.normal(size=200) + y
    resampler = Resampler(np.arange(200) // 4, 50)
    statistic = strata_statistic(y, s, source_strata(y, who), resampler)
    pairs = [y[who == w].sum() * (1 - y[who == w]).sum() for w in "abc"]
    expected = np.average([auroc(y[who == w], s[who == w]) for w in "abc"], weights=pairs)
    assert clustered_interval(statistic, resampler).estimate == pytest.approx(expected)


def test_a_source_that_decides_the_label_leaves_no_pairs() -> None:
    assert source_strata([1, 1, 0], ["a", "a", "b"]) == []


def test_a_negative_caliper_is_refused() -> None:
    with pytest.raises(ParameterError, match="caliper"):
        length_pairs([1, 0], [2, 2], -0.1)


@pytest.mark.slow
def test_intervals_cover_the_true_value() -> None:
    """95% intervals of 200 samples of 40 clustered problems; the truth is that of 4,000."""
    def sample(seed: int, problems: int) -> tuple[np.ndarray, ...]:
        rng = np.random.default_rng(seed)
        groups = np.repeat(np.arange(problems), 5)
        shared = rng.normal(size=problems)[groups]
        y = (rng.random(groups.size) < 1 / (1 + np.exp(-shared))).astype(int)
        size = rng.integers(30, 90, groups.size) + 8 * (1 - y)
        return groups, y, size, 0.6 * y + 0.7 * shared + rng.normal(size=groups.size) - size / 40

    _, y, size, s = sample(1000, 4000)
    truth = length_pair_auroc(y, s, size)
    covered = 0
    for seed in range(200):
        groups, y, size, s = sample(seed, 40)
        resampler = Resampler(groups, 400, seed)
        interval = clustered_interval(
            strata_statistic(y, s, length_pairs(y, size), resampler), resampler)
        covered += interval.low <= truth <= interval.high
    assert 175 <= covered <= 199
