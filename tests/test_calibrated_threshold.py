"""The calibrated threshold: an exhaustive search, and cross-fitting rebuilt from its parts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, balanced_accuracy_score, roc_auc_score

from validator.errors import FeatureMismatchError, LabelError, ParameterError
from validator.metrics import Resampler
from validator.splits import problem_folds
from validator.types import FeatureMatrix, Provenance, Trace
from validator.unsupervised import CalibratedThreshold
from validator.unsupervised.threshold import _statistics

LOGPROB = "mean_logprob__baseline"
STRONG = "fiedler_value__layer7__head_mean__completion"
GRAPH = [f"{d}__layer{i}__head_mean__completion" for i in (0, 7, 15)
         for d in ("fiedler_value", "spectral_gap_k2", "eigenvalue_entropy")]
NAMES = (*GRAPH, "log_self_attention__layer7__head0__completion", LOGPROB)


def matrix(n=80, names=NAMES, seed=0, signal=0.0, feature_set="mine"):
    """n traces, four of a problem; their labels lower the column STRONG by ``signal``."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(n, len(names))).astype(np.float32)
    labels = rng.integers(0, 2, size=n)
    if signal:
        values[:, names.index(STRONG)] -= signal * labels
    traces = tuple(Trace(f"{seed}-{i}", f"p{i // 4}", "q", " a", int(label))
                   for i, label in enumerate(labels))
    return FeatureMatrix(values, tuple(names), traces, np.ones((n, 2), dtype=np.int64),
                         Provenance("m", "r", feature_set, 1))


def exhaustive(features, y, criterion):
    """The best (column, direction) and its criterion over all cuts, one prediction at a time."""
    best = {}
    for name in GRAPH:
        x = features.select([name])[:, 0].astype(np.float64)
        cuts = [-np.inf, *(np.sort(x)[1:] + np.sort(x)[:-1]) / 2, np.inf]
        for direction in (1, -1):
            for cut in cuts:
                right = (direction * x > direction * cut) == (y == 1)
                value = (right.mean() if criterion == "accuracy"
                         else right[y == 1].mean() + right[y == 0].mean() - 1)
                best[name, direction] = max(best.get((name, direction), -1), value)
    return best


@pytest.mark.parametrize("criterion", ["youden", "accuracy"])
@pytest.mark.parametrize("seed", range(3))
def test_the_choice_is_the_best_of_an_exhaustive_search(criterion, seed):
    features = matrix(n=24, seed=seed, signal=1.0)
    features.values[:] = features.values.round(0)  # ties, which no cut can part
    fitted = CalibratedThreshold(criterion=criterion).fit(features)
    table = exhaustive(features, features.labels, criterion)
    assert fitted.value_ == pytest.approx(max(table.values()))
    assert table[fitted.column_, fitted.direction_] == pytest.approx(fitted.value_)
    predicted = fitted.predict(features)
    reached = (accuracy_score(features.labels, predicted) if criterion == "accuracy"
               else 2 * balanced_accuracy_score(features.labels, predicted) - 1)
    assert reached == pytest.approx(fitted.value_)


def test_of_columns_with_equal_criteria_the_better_ranking_is_kept():
    features = matrix(n=6, names=GRAPH[:3])
    features.values[:] = np.array([[0, 0, 0], [0, 0, 0], [5, 1.5, 1.5],  # the invalid
                                   [1, 1, 1], [2, 2, 2], [3, 3, 3]])  # the valid
    fitted = CalibratedThreshold().fit(features, [0, 0, 0, 1, 1, 1])
    assert fitted.value_ == pytest.approx(2 / 3)  # in all three; AUROC 6/9, 8/9, 8/9
    assert fitted.column_ == GRAPH[1]


def test_a_strong_column_is_found_with_its_sign():
    fitted = CalibratedThreshold().fit(matrix(n=200, signal=6.0))
    assert fitted.column_ == STRONG
    assert fitted.direction_ == -1  # the label lowers it
    assert fitted.n_groups_ == 50
    new = matrix(n=200, seed=1, signal=6.0)
    assert roc_auc_score(new.labels, fitted.score(new)) > 0.99
    assert accuracy_score(new.labels, fitted.predict(new)) > 0.95


def test_scores_are_ranks_among_the_labelled_traces():
    features, new = matrix(n=60, signal=2.0), matrix(seed=1, signal=2.0)
    fitted = CalibratedThreshold().fit(features)
    own, others = (fitted.direction_ * f.select([fitted.column_])[:, 0] for f in (features, new))
    expected = [((own < v).sum() + (own <= v).sum()) / (2 * own.size) for v in others]
    assert fitted.score(new) == pytest.approx(expected)
    assert np.array_equal(fitted.predict(new), others > fitted.threshold_)


def test_undefined_candidates_are_left_out_by_name_and_undefined_traces_score_half():
    features = matrix(n=60, signal=6.0)
    features.values[0, NAMES.index(GRAPH[0])] = np.nan
    fitted = CalibratedThreshold().fit(features)
    assert fitted.excluded_ == (GRAPH[0],)
    new = matrix(n=8, seed=1, signal=6.0)
    new.values[2, NAMES.index(fitted.column_)] = np.nan
    assert fitted.score(new)[2] == 0.5
    assert fitted.predict(new)[2] == 0
    with pytest.raises(ParameterError, match="no candidate is left"):
        CalibratedThreshold([GRAPH[0]]).fit(features)
    with pytest.raises(ParameterError, match="no candidate is left of 0"):
        CalibratedThreshold().fit(matrix(names=[LOGPROB]))


def test_out_of_sample_is_the_fits_on_the_other_problems():
    features = matrix(n=120, signal=1.0)
    y, problems = features.labels, features.problem_ids
    report = CalibratedThreshold().out_of_sample(features, n_splits=4, seed=3, n_resamples=200)
    scores, predictions = np.empty(len(y)), np.empty(len(y), dtype=int)
    for k, (train, test) in enumerate(problem_folds(problems, y, 4, 3)):
        fold = CalibratedThreshold().fit(features.take(train))
        assert report.chosen[k] == (fold.column_, fold.direction_, fold.threshold_)
        scores[test] = fold.score(features.take(test))
        predictions[test] = fold.predict(features.take(test))
    assert np.array_equal(report.scores, scores)
    assert np.array_equal(report.predictions, predictions)
    whole = CalibratedThreshold().fit(features)
    for found, s, p in ((report.out_of_sample, scores, predictions),
                        (report.in_sample, whole.score(features), whole.predict(features))):
        assert found["accuracy"].estimate == pytest.approx(accuracy_score(y, p))
        assert found["balanced_accuracy"].estimate == pytest.approx(balanced_accuracy_score(y, p))
        assert found["auroc"].estimate == pytest.approx(roc_auc_score(y, s))
        assert all(i.low <= i.estimate <= i.high for i in found.values())
    assert report.undefined == 0


def test_noise_looks_good_in_sample_only():
    """600 columns that know nothing: the optimism is what the choice alone brings."""
    names = [f"hfer_c0.5__layer{i}__head_mean__completion__hidden" for i in range(600)]
    report = CalibratedThreshold().out_of_sample(matrix(n=80, names=names), n_resamples=200)
    assert report.in_sample["balanced_accuracy"].estimate > 0.68
    assert report.out_of_sample["balanced_accuracy"].estimate < 0.62
    assert report.optimism["balanced_accuracy"].low > 0
    difference = (report.in_sample["auroc"].estimate - report.out_of_sample["auroc"].estimate)
    assert report.optimism["auroc"].estimate == pytest.approx(difference)


def test_held_out_traces_without_the_chosen_column_are_counted():
    features = matrix(n=120, signal=6.0)
    features.values[17, NAMES.index(STRONG)] = np.nan  # only the fold without trace 17 can use it
    report = CalibratedThreshold().out_of_sample(features, 4, 0, n_resamples=50)
    assert [column for column, _, _ in report.chosen].count(STRONG) == 1
    assert report.undefined == 1
    assert (report.scores[17], report.predictions[17]) == (0.5, 0)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1), st.sampled_from("pqrst")),
                min_size=8, max_size=40))
def test_resampled_accuracies_are_those_of_repeated_rows(rows):
    y, predicted, problems = (np.array(c) for c in zip(*rows, strict=True))
    if np.unique(y).size < 2 or np.unique(problems).size < 2:
        return
    resampler = Resampler(problems, 5, 0)
    found = _statistics(y, predicted.astype(float), predicted, resampler)
    for b, counts in enumerate(resampler.counts):
        drawn = np.repeat(np.arange(y.size), counts[resampler.index])
        assert found["accuracy"](resampler.counts)[b] == pytest.approx(
            accuracy_score(y[drawn], predicted[drawn]))
        if np.unique(y[drawn]).size == 2:
            assert found["balanced_accuracy"](resampler.counts)[b] == pytest.approx(
                balanced_accuracy_score(y[drawn], predicted[drawn]))
        else:
            assert np.isnan(found["balanced_accuracy"](resampler.counts)[b])


def test_calibration_needs_both_classes_and_the_same_features():
    features = matrix(n=40)
    with pytest.raises(LabelError, match="one class"):
        CalibratedThreshold().fit(features, np.ones(40))
    with pytest.raises(LabelError, match="labels"):
        CalibratedThreshold().fit(features, np.arange(39) % 2)
    with pytest.raises(ParameterError, match="criterion"):
        CalibratedThreshold(criterion="f1").fit(features)
    with pytest.raises(FeatureMismatchError, match="feature_set"):
        CalibratedThreshold().fit(features).predict(matrix(feature_set="other"))
