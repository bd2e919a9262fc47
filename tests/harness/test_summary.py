"""Metrics of documents against scikit-learn and against bootstraps written out here."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, roc_auc_score

from validator.plugins.harness.summary import chosen, metric_names, problem_of, summarise

SCORES = ("validity", "mean_logprob")


def columns(n: int = 40, repeats: int = 3, seed: int = 0) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(n):
        valid = rng.integers(0, 2, repeats)
        chance = np.clip(0.3 + 0.3 * valid + rng.normal(0, 0.2, repeats), 0.01, 0.99)
        made.append({
            "valid": valid.tolist(), "answer": [str(a) for a in rng.integers(0, 3, repeats)],
            "tokens": rng.integers(5, 30, repeats).tolist(),
            "score": {"validity": chance.tolist(),
                      "mean_logprob": rng.normal(size=repeats).round(1).tolist()}})
    return made


def flat(given: list[dict[str, Any]], key: str) -> np.ndarray:
    return np.array([v for c in given for v in (c[key] if key == "valid" else c["score"][key])])


def test_values_are_those_of_scikit_learn() -> None:
    given = columns()
    found = summarise(given, SCORES, 3, n_resamples=20)
    y, p = flat(given, "valid"), flat(given, "validity")
    assert found["auroc_validity"].value == pytest.approx(roc_auc_score(y, p))
    assert found["brier_validity"].value == pytest.approx(brier_score_loss(y, p))
    within = [roc_auc_score(c["valid"], c["score"]["validity"]) for c in given
              if 0 < sum(c["valid"]) < 3]
    assert found["auroc_within_validity"].value == pytest.approx(np.mean(within))
    order = np.argsort(-p)
    assert found["accuracy_at_50_validity"].value == pytest.approx(y[order[:60]].mean())
    assert found["accuracy_at_80_validity"].value == pytest.approx(y[order[:96]].mean())
    assert found["aurc_validity"].value == pytest.approx(
        np.mean([1 - y[order[:k]].mean() for k in range(1, 121)]))


def test_standard_errors_resample_documents_not_responses() -> None:
    given = columns(60)
    for column in given:  # three copies of one response: 60 independent ones, not 180
        for key in ("valid", "tokens"):
            column[key] = [column[key][0]] * 3
        column["score"] = {k: [v[0]] * 3 for k, v in column["score"].items()}
    found = summarise(given, SCORES, 3, n_resamples=1000)
    y, p = flat(given, "valid").reshape(-1, 3)[:, 0], flat(given, "validity").reshape(-1, 3)[:, 0]
    rng = np.random.default_rng(1)
    draws = []
    for _ in range(1000):
        rows = rng.integers(0, 60, 60)
        draws.append(roc_auc_score(y[rows], p[rows]))
    assert found["auroc_validity"].stderr == pytest.approx(np.std(draws, ddof=1), rel=0.1)


def test_a_missing_score_ranks_last_and_is_left_out_of_calibration() -> None:
    given = columns(20, 1)
    given[3]["score"]["validity"] = [None]
    found = summarise(given, SCORES, 1, n_resamples=20)
    y = flat(given, "valid")
    p = np.array([-1.0 if c["score"]["validity"][0] is None else c["score"]["validity"][0]
                  for c in given])
    assert found["auroc_validity"].value == pytest.approx(roc_auc_score(y, p))
    kept = p >= 0
    assert found["brier_validity"].value == pytest.approx(brier_score_loss(y[kept], p[kept]))


def test_seen_documents_count_for_label_free_scores_alone() -> None:
    given = columns(30, 2)
    for column in given[:10]:
        column["seen"] = True
    found, fresh = (summarise(g, SCORES, 2, n_resamples=20) for g in (given, given[10:]))
    everything = [{k: v for k, v in c.items() if k != "seen"} for c in given]
    whole = summarise(everything, SCORES, 2, n_resamples=20)
    for name in metric_names(SCORES, 2):
        assert found[name] == (fresh if name.endswith("validity") else whole)[name]
    for column in given:
        column["seen"] = True
    nothing = summarise(given, SCORES, 2, n_resamples=20)
    assert nothing["auroc_validity"] == (None, None)
    assert nothing["best_of_n_validity"] == (None, None)


def test_one_class_and_one_document_are_undefined() -> None:
    given = columns(10, 1)
    for column in given:
        column["valid"] = [0]
    found = summarise(given, SCORES, 1, n_resamples=20)
    assert found["auroc_validity"] == (None, None)
    assert found["brier_validity"].value is not None
    assert set(summarise(columns(1, 2), SCORES, 2).values()) == {(None, None)}


def test_choosing_by_hand() -> None:
    column = {"valid": [1, 0, 0, 1], "answer": ["18", "7", "7.0", "$18"], "tokens": [1] * 4,
              "score": {"validity": [0.2, 0.9, 0.3, 0.1], "mean_logprob": [None, -2, -2, None]}}
    found = chosen(column, SCORES)
    assert found == {
        "pass_at_1": 0.5,
        "majority_vote": 0.5,  # two votes each
        "weighted_vote_validity": 0.0,  # 1.2 against 0.3
        "oracle": 1.0, "best_of_n_validity": 0.0, "best_of_n_mean_logprob": 0.0}
    silent = {**column, "answer": [None] * 4,
              "score": {"validity": [None] * 4, "mean_logprob": [None] * 4}}
    assert chosen(silent, SCORES) == {
        "pass_at_1": 0.5, "majority_vote": 0.0, "weighted_vote_validity": 0.0, "oracle": 1.0,
        "best_of_n_validity": 0.5, "best_of_n_mean_logprob": 0.5}


def test_a_document_is_known_by_its_content() -> None:
    assert problem_of({"a": 1, "b": "x"}) == problem_of({"b": "x", "a": 1})
    assert problem_of({"a": 1}) != problem_of({"a": 2})
