"""Means and intervals by resampling problems one at a time."""

from __future__ import annotations

import numpy as np
import pytest

from validator.errors import LabelError
from validator.explain.head_ablation import Ablation
from validator.explain.head_changes import mean_changes, separation_changes
from validator.metrics import Resampler
from validator.types import Trace


def ablation(labels: list[int | None], problems: list[str], gap: bool = False) -> Ablation:
    rng = np.random.default_rng(3)
    plain = rng.normal(size=(len(labels), 2))
    ablated = rng.normal(size=(3, len(labels), 2))
    if gap:
        plain[0, 1] = np.nan
    traces = tuple(Trace(f"t{i}", p, "Q", "A", label)
                   for i, (p, label) in enumerate(zip(problems, labels, strict=True)))
    return Ablation(((0, 0), (0, 1), (2, 5)), ("a", "b"), traces, plain, ablated)


PROBLEMS = ["p0", "p0", "p1", "p2", "p2", "p2", "p3", "p4"]
LABELS: list[int | None] = [1, 0, 1, 0, 0, 1, 1, 0]


@pytest.mark.parametrize("gap", [False, True])
def test_intervals_equal_a_loop_over_draws(gap: bool) -> None:
    found = ablation(LABELS, PROBLEMS, gap)
    result = mean_changes(found, n_resamples=50, seed=5)
    resampler = Resampler(PROBLEMS, 50, 5)
    for k in range(3):
        for q in range(2):
            change = found.ablated[k, :, q] - found.plain[:, q]
            draws = [np.nanmean(np.concatenate([
                np.repeat(change[i], counts[resampler.index[i]]) for i in range(8)]))
                for counts in resampler.counts]
            assert result.mean[k, q] == pytest.approx(np.nanmean(change))
            low, high = np.quantile(draws, [0.025, 0.975])
            assert (result.low[k, q], result.high[k, q]) == pytest.approx((low, high))


def test_separation_is_valid_less_invalid() -> None:
    found = ablation(LABELS, PROBLEMS)
    result = separation_changes(found, n_resamples=50)
    assert result is not None
    valid = np.array(LABELS) == 1
    change = found.changes
    np.testing.assert_allclose(
        result.mean, change[:, valid].mean(axis=1) - change[:, ~valid].mean(axis=1))
    assert (result.low <= result.mean).all()
    assert (result.mean <= result.high).all()
    assert separation_changes(ablation([1] * 8, PROBLEMS)) is None
    assert separation_changes(ablation([None] * 8, PROBLEMS)) is None


def test_one_problem_has_no_interval() -> None:
    with pytest.raises(LabelError, match="no spread"):
        mean_changes(ablation(LABELS, ["p"] * 8))
