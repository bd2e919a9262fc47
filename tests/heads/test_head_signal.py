"""AUROC of single heads: planted signal is found, noise is not, choosing costs what it costs."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from validator import ValidityClassifier
from validator.errors import FeatureMismatchError, LabelError
from validator.explain.head_signal import head_columns, head_signal
from validator.splits import problem_folds
from validator.types import FeatureMatrix, Provenance, Trace

NAMES = (
    *(f"{name}__layer{k}__head{h}__completion" for k in (0, 4) for h in (0, 1, 2)
      for name in ("log_self_attention", "attention_entropy_quantile_q0.5")),
    "fiedler_value__layer0__head_mean__completion", "mean_logprob__baseline")


def features(signal: float, count: int = 120, seed: int = 1) -> FeatureMatrix:
    """Noise, but for head 4.1, which knows the label as well as ``signal`` says."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, count)
    values = rng.normal(size=(count, len(NAMES))).astype(np.float32)
    values[:, 8] += signal * labels
    traces = tuple(Trace(f"t{i}", f"p{i // 3}", "Q", "A", int(y)) for i, y in enumerate(labels))
    return FeatureMatrix(values, NAMES, traces, rng.integers(5, 9, (count, 2)),
                         Provenance("m", "r", "s", 1))


def test_columns_belong_to_their_head() -> None:
    found = head_columns(NAMES)
    assert list(found) == [(0, 0), (0, 1), (0, 2), (4, 0), (4, 1), (4, 2)]
    np.testing.assert_array_equal(found[4, 1], [8, 9])
    with pytest.raises(FeatureMismatchError, match="no columns of single heads"):
        head_columns(NAMES[-2:])


def test_planted_signal_is_found_and_equals_a_loop_over_folds() -> None:
    matrix = features(signal=2.0)
    done: list[tuple[int, int]] = []
    found = head_signal(matrix, n_splits=4, n_resamples=100, progress=lambda *a: done.append(a))
    assert done[-1] == (6, 6)
    assert (found.columns, found.traces, found.problems) == (2, 120, 40)
    expected = np.empty(120)
    for train, test in problem_folds(matrix.problem_ids, matrix.labels, 4, 0):
        model = ValidityClassifier("logistic").fit(
            matrix.values[train][:, [8, 9]], matrix.labels[train])
        expected[test] = model.decision_function(matrix.values[test][:, [8, 9]])
    best = found.heads.index((4, 1))
    assert found.auroc[best].estimate == pytest.approx(roc_auc_score(matrix.labels, expected))
    assert found.auroc[best].low > 0.8
    assert found.chosen == ((4, 1),) * 4
    chosen = found.beside["best head, chosen in training folds"]
    assert chosen.estimate == pytest.approx(found.auroc[best].estimate)
    length = found.beside["completion length"].estimate
    assert length == pytest.approx(roc_auc_score(matrix.labels, matrix.lengths[:, 1]))
    logprob = found.beside["mean log-prob"].estimate
    assert logprob == pytest.approx(roc_auc_score(matrix.labels, matrix.values[:, -1]))


@pytest.mark.slow
def test_the_best_of_noise_is_not_worth_what_it_seems() -> None:
    seeming, honest = [], []
    for seed in range(3):
        found = head_signal(features(0.0, seed=seed), n_splits=2, n_resamples=20)
        seeming.append(max(i.estimate for i in found.auroc))
        honest.append(found.beside["best head, chosen in training folds"].estimate)
    assert np.mean(seeming) > 0.53  # the best of six heads that know nothing
    assert np.mean(honest) < 0.53  # chance; below it where folds are rich in one class
    assert np.mean(seeming) - np.mean(honest) > 0.03


def test_one_class_is_refused() -> None:
    matrix = features(1.0)
    with pytest.raises(LabelError):
        head_signal(matrix.take(np.flatnonzero(matrix.labels == 1)))
