"""Scores judged as given, against scikit-learn and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from validator.errors import LabelError
from validator.metrics import brier
from validator.training.given_scores import judge_scores


def responses(signal: float, problems: int = 60, n: int = 4, seed: int = 0) -> dict[str, object]:
    """P(valid) with ``signal`` of its own; the other scores carry nothing."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, problems * n)
    margin = signal * (2 * y - 1) + rng.normal(size=y.size)
    lengths = rng.integers(5, 40, y.size)
    return {
        "labels": y, "problems": [f"p{i // n}" for i in range(y.size)],
        "scores": {"validity": 1 / (1 + np.exp(-margin)), "completion_length": -lengths * 1.0,
                   "mean_logprob": rng.normal(size=y.size)},
        "lengths": lengths, "answers": ["7" if v else str(rng.integers(0, 5)) for v in y]}


def test_rows_are_scikit_learns_numbers() -> None:
    given = responses(0.8)
    found = judge_scores(**given, n_resamples=100)  # type: ignore[arg-type]
    y, scores = given["labels"], given["scores"]
    assert isinstance(y, np.ndarray)
    assert isinstance(scores, dict)
    for row in found.rows:
        assert row.auroc.estimate == pytest.approx(roc_auc_score(y, scores[row.key]))
        assert row.auroc.low < row.auroc.estimate < row.auroc.high
    assert found.calibration["brier"] == pytest.approx(brier(y, scores["validity"]))
    assert found.choosing["oracle"].estimate == pytest.approx(
        np.mean([y[i:i + 4].max() for i in range(0, 240, 4)]))
    assert found.choosing["first answer"].estimate == pytest.approx(y[::4].mean())
    assert list(found.choosing) == ["first answer", "majority vote", "vote weighted by P(valid)",
                                    "oracle"]


def test_a_real_gain_is_shown_and_none_is_not() -> None:
    real = judge_scores(**responses(0.8), n_resamples=200)  # type: ignore[arg-type]
    assert real.increment is not None
    assert real.increment.low > 0
    assert "adds information beyond completion length and mean logprob" in real.verdict
    gains = []
    for seed in range(10):
        none = judge_scores(**responses(0.0, seed=seed), n_resamples=100)  # type: ignore[arg-type]
        assert none.increment is not None
        gains.append(none.increment)
        assert ("cannot be shown that the learned score adds" in none.verdict) == (
            none.increment.low <= 0 <= none.increment.high)
    assert abs(np.mean([g.estimate for g in gains])) < 0.03
    assert sum(g.low > 0 for g in gains) <= 2


def test_a_missing_score_ranks_last_and_is_counted() -> None:
    given = responses(0.8)
    scores = given["scores"]
    assert isinstance(scores, dict)
    scores["validity"][3] = np.nan
    found = judge_scores(**given, n_resamples=50)  # type: ignore[arg-type]
    assert found.facts["unscored"] == {"validity": 1}
    assert found.rows[0].auroc.estimate == pytest.approx(
        roc_auc_score(given["labels"], np.nan_to_num(scores["validity"], nan=-1.0)))


def test_one_response_each_has_nothing_to_choose() -> None:
    given = responses(0.8, problems=80, n=1)
    found = judge_scores(**given, n_resamples=50)  # type: ignore[arg-type]
    assert found.choosing == {}
    assert found.over_majority is None
    assert all(r.best_of_n is None and r.within is None for r in found.rows)


def test_without_a_learned_score_the_verdict_says_so() -> None:
    given = responses(0.8)
    scores = given["scores"]
    assert isinstance(scores, dict)
    del scores["validity"]
    found = judge_scores(**given, n_resamples=50)  # type: ignore[arg-type]
    assert (found.increment, found.calibration) == (None, {})
    assert found.verdict == "There is no learned score to judge."
    assert found.to_json()["verdict"] == found.verdict


def test_one_class_is_an_error() -> None:
    given = responses(0.8)
    given["labels"] = np.zeros(240, dtype=int)
    with pytest.raises(LabelError, match="only one class"):
        judge_scores(**given)  # type: ignore[arg-type]
