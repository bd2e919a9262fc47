"""Judging right against wrong: pairs of equal length only, folds by problem, paired gains."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from validator.metrics import Resampler, clustered_interval, paired_difference
from validator.windtunnels.study_draws import Draws
from validator.windtunnels.study_judging import (
    INCREMENTS,
    STACKS,
    Contest,
    comparable,
    constant_signals,
    cross_fitted,
    judge,
)
from validator.windtunnels.study_signals import Signals

SIZE = 40


def contest(seed: int = 0, useful: float = 2.0) -> Contest:
    """Twins: one column of ``attention`` tells, nothing else does."""
    rng = np.random.default_rng(seed)
    labels = np.r_[np.ones(SIZE), np.zeros(SIZE)].astype(np.int64)
    problems = np.tile(np.array([f"p{i}" for i in range(SIZE)]), 2)
    length = np.tile(rng.integers(4, 7, SIZE), 2)
    noise = {name: rng.normal(size=(2 * SIZE, 3)) for name in (
        "attention", "identity-aware", "log-prob", "counts", "hidden states")}
    noise["attention"][:, 1] += useful * labels
    texts = tuple(" ".join(rng.choice(list("abcdef"), 6)) for _ in labels)
    return Contest(Signals({**noise, "length": length[:, None].astype(float)}, texts), labels,
                   problems, length.astype(np.str_))


@pytest.fixture(scope="module")
def fitted() -> tuple[Contest, dict[str, NDArray[np.float64]]]:
    """A contest with all its scores."""
    found = contest()
    return found, cross_fitted(found, seed=0)


def by_hand(labels: NDArray[np.int64], scores: NDArray[np.float64], strata: NDArray[np.str_]
            ) -> float:
    won, pairs = 0.0, 0
    for i in np.flatnonzero(labels == 1):
        for j in np.flatnonzero((labels == 0) & (strata == strata[i])):
            won += 1.0 if scores[i] > scores[j] else 0.5 if scores[i] == scores[j] else 0.0
            pairs += 1
    return won / pairs


def test_auroc_is_over_pairs_of_one_stratum() -> None:
    found = contest()
    scores = np.round(np.random.default_rng(1).normal(size=2 * SIZE), 1)
    resampler = Resampler(found.problems, 2)
    draws = Draws.of(found.statistic(scores, resampler), resampler)
    assert draws.estimate == pytest.approx(by_hand(found.labels, scores, found.strata))
    rows = found.strata == found.strata[0]
    one = Contest(found.signals, found.labels[rows], found.problems[rows], found.strata[rows])
    own = Resampler(one.problems, 2)
    assert Draws.of(one.statistic(scores[rows], own), own).estimate == pytest.approx(
        roc_auc_score(one.labels, scores[rows]))


def test_rows_that_can_be_compared() -> None:
    labels = np.array([1, 0, 1, 1, 0, 0])
    strata = np.array(["a", "a", "b", "b", "c", "a"])
    brute = [i for i in range(6) if any(
        strata[i] == strata[j] and labels[i] != labels[j] for j in range(6))]
    assert comparable(labels, strata).tolist() == brute == [0, 1, 5]


def test_what_is_equal_throughout_each_stratum_is_constant() -> None:
    assert constant_signals(contest()) == {"length"}


def test_scores_are_out_of_fold_and_combinations_use_what_tells(
    fitted: tuple[Contest, dict[str, NDArray[np.float64]]]
) -> None:
    found, scores = fitted
    assert set(scores) == {*found.signals.values, "n-grams", *STACKS}
    assert all(np.isfinite(s).all() for s in scores.values())
    value = {n: by_hand(found.labels, s, found.strata) for n, s in scores.items()}
    assert (scores["length"] == 0).all()
    assert value["attention"] > 0.8
    assert value["baselines + attention"] > 0.8
    assert value["log-prob"] < 0.68
    few = cross_fitted(found, seed=0, only=["log-prob + attention"])
    assert set(few) == {"log-prob", "attention", "log-prob + attention"}
    np.testing.assert_array_equal(few["log-prob + attention"], scores["log-prob + attention"])


def test_labels_by_chance_are_not_learned() -> None:
    values = []
    for seed in range(4):
        found = contest(seed, useful=0.0)
        scores = cross_fitted(found, seed=0, only=["log-prob + attention"], n_inner=2)
        values.append(by_hand(found.labels, scores["log-prob + attention"], found.strata))
    assert abs(np.mean(values) - 0.5) < 0.1


def test_judged_intervals_are_those_of_the_metrics(
    fitted: tuple[Contest, dict[str, NDArray[np.float64]]]
) -> None:
    found, scores = fitted
    judged, resampler = judge(found, seed=0, n_resamples=50), Resampler(found.problems, 50, 0)
    assert (judged.right, judged.wrong, judged.problems) == (SIZE, SIZE, SIZE)
    assert judged.constant == {"length"}
    assert judged.auroc["length"].interval().low == judged.auroc["length"].estimate == 0.5
    wanted = clustered_interval(found.statistic(scores["attention"], resampler), resampler)
    assert judged.auroc["attention"].interval() == wanted
    above, below = INCREMENTS[0]
    paired = paired_difference(*(found.statistic(scores[n], resampler) for n in (above, below)),
                               resampler)
    gain = (judged.auroc[above] - judged.auroc[below]).interval()
    assert gain.estimate == pytest.approx(paired.estimate)
    assert (gain.low, gain.high) == pytest.approx((paired.low, paired.high))
    right, wrong = scores["attention"][:SIZE], scores["attention"][SIZE:]
    assert judged.within["attention"].estimate == pytest.approx(np.mean(right > wrong))


def test_the_mean_over_models_is_drawn_apart() -> None:
    rng = np.random.default_rng(0)
    parts = [Draws(m, m + rng.normal(size=4000)) for m in (0.0, 1.0, 2.0)]
    mean = Draws.mean(parts).interval()
    assert mean.estimate == 1.0
    assert (mean.low, mean.high) == pytest.approx((1 - 1.96 / 3**0.5, 1 + 1.96 / 3**0.5), abs=0.06)
    gaps = Draws(0.0, np.array([np.nan, 1.0, 3.0])).interval(0.5)
    assert (gaps.low, gaps.high, gaps.undefined) == (1.5, 2.5, 1)
