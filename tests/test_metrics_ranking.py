"""AUROC and its relatives against scikit-learn and against counting pairs."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from validator.errors import LabelError, ParameterError, ScoreError
from validator.metrics import (
    auprc,
    auroc,
    length_matched_auroc,
    within_problem_auroc,
    within_problem_values,
)


@st.composite
def labelled_scores(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    n = draw(st.integers(2, 40))
    labels = np.array(draw(st.lists(st.integers(0, 1), min_size=n, max_size=n)))
    labels[:2] = 0, 1
    scores = draw(st.lists(st.integers(-4, 4), min_size=n, max_size=n))  # many ties
    return labels, np.array(scores, dtype=float)


def concordance(labels, scores, comparable=lambda i, j: True):
    valid, invalid = np.flatnonzero(labels == 1), np.flatnonzero(labels == 0)
    pairs = [(i, j) for i, j in itertools.product(valid, invalid) if comparable(i, j)]
    return np.mean([(scores[i] > scores[j]) + 0.5 * (scores[i] == scores[j]) for i, j in pairs])


@given(labelled_scores())
def test_auroc_is_sklearns_with_ties(data):
    assert auroc(*data) == pytest.approx(roc_auc_score(*data), abs=1e-12)


@given(labelled_scores(), st.randoms(use_true_random=False))
def test_weighted_auroc_is_sklearns(data, random):
    weights = np.array([random.choice([0.0, 0.3, 1.0, 2.5]) for _ in data[0]])
    weights[:2] = 1
    expected = roc_auc_score(*data, sample_weight=weights)
    assert auroc(*data, weights) == pytest.approx(expected, abs=1e-12)


@given(labelled_scores())
def test_auprc_is_average_precision(data):
    assert auprc(*data) == pytest.approx(average_precision_score(*data), abs=1e-12)


@given(labelled_scores())
def test_auroc_does_not_change_under_increasing_maps(data):
    labels, scores = data
    assert auroc(labels, np.exp(scores / 3) * 7 - 2) == auroc(labels, scores)


@given(labelled_scores())
def test_negated_scores_give_the_complement(data):
    labels, scores = data
    assert auroc(labels, -scores) == pytest.approx(1 - auroc(labels, scores), abs=1e-12)
    assert auroc(1 - labels, scores) == pytest.approx(1 - auroc(labels, scores), abs=1e-12)


def test_ties_count_half_and_infinities_rank():
    assert auroc([0, 1, 0, 1], [2.0, 2.0, 2.0, 2.0]) == 0.5
    assert auroc([0, 1, 1], [-np.inf, 0.0, np.inf]) == 1.0


@given(labelled_scores(), st.randoms(use_true_random=False))
def test_within_problem_auroc_is_the_mean_over_mixed_problems(data, random):
    labels, scores = data
    groups = np.array([f"p{random.randrange(5)}" for _ in labels])
    groups[:2] = "p0"  # the first two labels differ
    expected = [
        roc_auc_score(labels[groups == g], scores[groups == g])
        for g in np.unique(groups) if len(set(labels[groups == g])) == 2
    ]
    assert within_problem_auroc(labels, scores, groups) == pytest.approx(np.mean(expected))
    assert within_problem_values(labels, scores, groups)[1] == pytest.approx(np.array(expected))


def test_within_problem_auroc_cannot_be_won_by_telling_problems_apart():
    labels = np.array([1, 1, 1, 0] * 5 + [0, 0, 0, 1] * 5)
    groups = np.repeat(np.arange(10), 4)
    difficulty = -groups.astype(float)
    assert auroc(labels, difficulty) > 0.7
    assert within_problem_auroc(labels, difficulty, groups) == 0.5


@given(labelled_scores(), st.randoms(use_true_random=False), st.integers(1, 6))
def test_length_matched_auroc_counts_pairs_inside_quantile_bins(data, random, bins):
    labels, scores = data
    lengths = np.array([random.randrange(30) for _ in labels])
    lengths[1] = lengths[0]
    inner = [sorted(lengths)[k * len(lengths) // bins] for k in range(1, bins)]
    where = [sum(length >= edge for edge in inner) for length in lengths]
    expected = concordance(labels, scores, lambda i, j: where[i] == where[j])
    assert length_matched_auroc(labels, scores, lengths, bins) == pytest.approx(expected)


def test_length_matched_auroc_of_a_length_meter_is_near_one_half():
    rng = np.random.default_rng(0)
    lengths = rng.integers(10, 400, size=4000)
    labels = (rng.random(4000) < lengths / 400).astype(int)
    score = lengths + rng.normal(scale=1e-3, size=4000)
    assert auroc(labels, score) > 0.8
    assert length_matched_auroc(labels, score, lengths, bins=40) < 0.55


@pytest.mark.parametrize("metric", [auroc, auprc])
@pytest.mark.parametrize(
    ("labels", "scores", "error"),
    [
        ([1, 1], [0.1, 0.2], LabelError),
        ([0, 0], [0.1, 0.2], LabelError),
        ([0, 2], [0.1, 0.2], LabelError),
        ([0, None], [0.1, 0.2], LabelError),
        ([], [], LabelError),
        ([0, 1], [0.1, np.nan], ScoreError),
        ([0, 1], [0.1], ScoreError),
    ],
)
def test_what_has_no_value_raises(metric, labels, scores, error):
    with pytest.raises(error):
        metric(labels, scores)


def test_weights_that_leave_one_class_raise():
    with pytest.raises(LabelError, match="only one class"):
        auroc([0, 1], [0.0, 1.0], [1, 0])
    with pytest.raises(LabelError):
        auroc([0, 1], [0.0, 1.0], [0, 0])
    with pytest.raises(ScoreError, match="not negative"):
        auroc([0, 1], [0.0, 1.0], [1, -1])


def test_no_comparable_pair_raises():
    with pytest.raises(LabelError, match="none of 2 problems"):
        within_problem_auroc([0, 1], [0.0, 1.0], ["a", "b"])
    with pytest.raises(LabelError, match="no length bin"):
        length_matched_auroc([0, 1], [0.0, 1.0], [1, 100], bins=2)
    with pytest.raises(ParameterError):
        length_matched_auroc([0, 1], [0.0, 1.0], [1, 1], bins=0)
    with pytest.raises(ScoreError, match="finite"):
        length_matched_auroc([0, 1], [0.0, 1.0], [1, np.inf])
    with pytest.raises(LabelError, match="problem ids"):
        within_problem_auroc([0, 1], [0.0, 1.0], ["a"])
