"""Text models: the cached ones equal those fitted from scratch; formatting is what it says."""

from __future__ import annotations

import numpy as np
import pytest
from planted import planted
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from validator.audit import SurfaceBaseline, surface_texts
from validator.audit.alone import formatting_scores, source_scores, text_scores
from validator.audit.formatting import FORMATTING, formatting_features
from validator.audit.ngrams import NgramTable
from validator.audit.permutation import blind_folds, shuffled_labels
from validator.errors import LabelError
from validator.splits import problem_folds

TRACES = planted(0, problems=15)
TEXTS = surface_texts(TRACES)
Y = np.array([t.label for t in TRACES])
P = np.array([t.problem_id for t in TRACES])
FOLDS = problem_folds(P, Y, 3)


def test_cached_ngrams_are_the_surface_baseline() -> None:
    scores = text_scores(NgramTable("char").fit(TEXTS), Y, FOLDS)
    for train, test in FOLDS:
        model = SurfaceBaseline().fit([TEXTS[i] for i in train], Y[train])
        expected = model.decision_function([TEXTS[i] for i in test])
        np.testing.assert_allclose(scores[test], expected, atol=1e-5)


def test_words_are_a_unigram_model() -> None:
    train, test = FOLDS[0]
    model = make_pipeline(
        TfidfVectorizer(token_pattern=r"\S+", sublinear_tf=True, min_df=2),
        LogisticRegression(C=10.0, solver="liblinear", max_iter=1000, random_state=0),
    ).fit([TEXTS[i] for i in train], Y[train])
    found = NgramTable("word").fit(TEXTS).fit_score(train, test, Y)
    np.testing.assert_allclose(found, model.decision_function([TEXTS[i] for i in test]), atol=1e-5)


def test_centroid_scores_equal_dense_class_means() -> None:
    table = NgramTable("char").fit(TEXTS)
    labels = np.vstack([Y, shuffled_labels(Y, P, 70)])  # more than one block
    folds = blind_folds(P, 3)
    scores = table.centroid_scores(labels, folds)
    Z = TfidfVectorizer(analyzer="char", ngram_range=(1, 5), sublinear_tf=True, min_df=2)
    Z = Z.fit_transform(TEXTS).toarray()
    for train, test in folds:
        for y, row in zip(labels[[0, 70]], scores[[0, 70]], strict=True):
            direction = (y[train] - y[train].mean()) @ Z[train]
            np.testing.assert_allclose(row[test], (Z[test] - Z[train].mean(axis=0)) @ direction,
                                       atol=1e-9)


def test_empty_texts_are_a_typed_error() -> None:
    with pytest.raises(LabelError, match="no word"):
        NgramTable("word").fit(["", " "])


@pytest.mark.parametrize(("text", "expected"), [
    ("a.\n", {"trailing newline": 1, "final full stop": 1, "line breaks": 0}),
    ("a \t", {"trailing spaces": 1, "trailing newline": 0}),
    ("\n\nab", {"leading newline": 1, "leading blank line": 1, "line breaks": 0}),
    ("\nab\nc", {"leading newline": 1, "leading blank line": 0, "line breaks": 25}),
    ("ab\n\ncd", {"blank lines": 100 / 6, "line breaks": 200 / 6}),
    ("ab \ncd", {"spaces at line ends": 100 / 6}),
    ("#### 5", {"#### mark": 1, "digits": 100 / 6}),
    ("# A\n- b", {"headings": 100 / 7, "list items": 100 / 7, "capital letters": 100 / 7}),
    ("**b**", {"bold markdown": 40}),
    ("$x$\\le", {"dollar signs": 200 / 6, "LaTeX commands": 100 / 6}),
    ("(1) <2>", {"brackets": 200 / 7, "angle brackets": 200 / 7}),
    ("a  b\tc", {"double spaces": 100 / 6, "tabs": 100 / 6}),
    ("1+1=2é", {"operators": 200 / 6, "not ASCII": 100 / 6}),
    ("", {"digits": 0, "trailing newline": 0}),
])
def test_formatting_numbers(text: str, expected: dict[str, float]) -> None:
    found = dict(zip(FORMATTING, formatting_features([text])[0], strict=True))
    assert {name: found[name] for name in expected} == pytest.approx(expected)


def test_formatting_is_a_logistic_on_all_of_it() -> None:
    values = formatting_features([t.completion for t in planted(1, "newline", problems=15)])
    y = np.array([t.label for t in planted(1, "newline", problems=15)])
    scores = formatting_scores(values, y, FOLDS)
    train, test = FOLDS[1]
    model = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=1000))
    model.fit(values[train], y[train])
    np.testing.assert_allclose(scores[test], model.decision_function(values[test]))
    assert roc_auc_score(y, scores) > 0.99


def test_source_scores_are_smoothed_training_shares() -> None:
    sources = np.array(["a", "a", "b", "b", "c", "a"])
    y = np.array([1, 0, 1, 1, 0, 1])
    train, test = np.array([0, 1, 2, 3]), np.array([4, 5])
    scores = source_scores(sources, y, [(train, test), (test, train)])
    assert scores[4] == 0.0  # c was not seen
    assert scores[5] == pytest.approx((1 + 0.75) / 3 - 0.75)
