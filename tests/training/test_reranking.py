"""The report of a reranking, against the functions it is made of and against planted gains."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from validator.errors import LabelError, ParameterError
from validator.metrics import best_of_n, majority_vote, within_problem_auroc
from validator.training.reranking import (
    FIRST,
    MAJORITY,
    ORACLE,
    RANDOM,
    best_by,
    judge_reranking,
)


def sampled(signal: float, problems: int = 60, n: int = 6, seed: int = 0) -> dict[str, Any]:
    """Answers whose P(valid) tells right from wrong by ``signal``; log-prob carries nothing."""
    rng = np.random.default_rng(seed)
    share = rng.beta(1, 2, problems).repeat(n)
    y = (rng.random(problems * n) < share).astype(np.int64)
    margin = signal * (2 * y - 1) + rng.normal(size=y.size)
    return {
        "labels": y, "problems": [f"p{i // n}" for i in range(y.size)],
        "answers": ["7" if v else str(rng.integers(0, 5)) for v in y],
        "scores": {"validity": 1 / (1 + np.exp(-margin)), "mean_logprob": rng.normal(size=y.size)}}


def test_all_answers_give_what_the_plain_metrics_give() -> None:
    given = sampled(1.0)
    found = judge_reranking(**given, at=6, n_resamples=50)
    y, groups = given["labels"], given["problems"]
    last = {rule: curve[-1].estimate for rule, curve in found.curves.items()}
    assert found.sizes == (1, 2, 3, 4, 5, 6)
    assert last[best_by("validity")] == pytest.approx(
        best_of_n(y, given["scores"]["validity"], groups).values.mean())
    assert last[MAJORITY] == pytest.approx(majority_vote(y, given["answers"], groups).values.mean())
    assert last[RANDOM] == pytest.approx(y.reshape(-1, 6).mean())
    assert last[FIRST] == pytest.approx(y[::6].mean())
    assert last[ORACLE] == pytest.approx(y.reshape(-1, 6).max(1).mean())
    assert found.within["validity"].estimate == pytest.approx(
        within_problem_auroc(y, given["scores"]["validity"], groups))
    gain = last[best_by("validity")] - last[MAJORITY]
    assert found.gains[MAJORITY].estimate == pytest.approx(gain)
    assert found.gap_closed is not None
    assert found.gap_closed.estimate == pytest.approx(gain / (last[ORACLE] - last[MAJORITY]))
    json.dumps(found.to_json(), allow_nan=False)


def test_a_real_gain_is_said_and_none_is_not() -> None:
    real = judge_reranking(**sampled(1.5), at=6, n_resamples=200)
    assert "beats majority vote" in real.verdict
    assert "beats best of N by every other score" in real.verdict
    none = judge_reranking(**sampled(0.0, problems=400), at=6, n_resamples=200)
    assert "is not shown to beat best of N by mean_logprob" in none.verdict
    assert "is worse than majority vote" in none.verdict
    assert none.gap_closed is not None
    assert none.gap_closed.estimate < 0


def test_curves_rise_for_a_good_score_and_stay_for_none() -> None:
    found = judge_reranking(**sampled(1.5, problems=150), at=6, n_resamples=20)
    good = [i.estimate for i in found.curves[best_by("validity")]]
    assert good == sorted(good)
    useless = [i.estimate for i in found.curves[best_by("mean_logprob")]]
    assert max(useless) - min(useless) < 0.06


def test_a_missing_score_ranks_last_and_is_counted() -> None:
    given = sampled(1.0)
    given["scores"]["validity"][given["labels"] == 1] = np.nan
    found = judge_reranking(**given, at=6, n_resamples=20)
    assert found.facts["unscored"] == {"validity": int(given["labels"].sum())}
    # A valid answer is only taken where no answer of the problem has a score.
    assert found.curves[best_by("validity")][-1].estimate == pytest.approx(
        np.mean(given["labels"].reshape(-1, 6).all(1)))


def test_margins_may_rank_while_chances_vote() -> None:
    given = sampled(1.0)
    chances = given["scores"]["validity"]
    given["scores"]["validity"] = np.log(chances / (1 - chances))
    found = judge_reranking(**given, chances=chances, at=6, n_resamples=20)
    assert set(found.vote_gains) == {"vote weighted by P(valid)",
                                     "vote of the better half by P(valid)"}
    assert not judge_reranking(**given, at=6, n_resamples=20).vote_gains


def test_equal_answers_vote_together() -> None:
    found = judge_reranking(
        np.array([1, 1, 0, 0, 0, 0]), ["a", "a", "a", "b", "b", "b"],
        ["0.5", "1/2", "3", "1", "2", "3"], {}, n_resamples=20)
    assert found.curves[MAJORITY][-1].estimate == pytest.approx(0.5)
    assert found.verdict.startswith("There is no learned score")
    assert found.gap_closed is None


def test_without_answers_there_is_no_vote() -> None:
    given = sampled(1.0) | {"answers": [None] * 360}
    found = judge_reranking(**given, n_resamples=20)
    assert MAJORITY not in found.curves
    assert found.verdict.startswith("There is no learned score, or nothing to vote on")


def test_refused() -> None:
    given = sampled(1.0)
    with pytest.raises(ParameterError, match="at = 3"):
        judge_reranking(**given, at=3, sizes=[1, 2, 4])
    with pytest.raises(LabelError, match="nothing to choose among"):
        judge_reranking(np.array([0, 1]), ["a", "b"], [None, None], {})
