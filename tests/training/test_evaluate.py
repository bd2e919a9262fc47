"""Out-of-sample comparison: finds planted signal, finds none in shuffled labels, leaks nothing."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from validator.audit import BestSingleColumn, SurfaceBaseline, surface_texts
from validator.classifier import ValidityClassifier, load_artifact
from validator.columns import BASELINES, Column
from validator.errors import FeatureMismatchError, LabelError
from validator.training.comparison import compare
from validator.training.evaluate import (
    FAMILIES,
    bounded,
    column_families,
    cross_validate,
    stack,
)
from validator.training.fit import artifact_scores, train, unseen_rows
from validator.types import FeatureMatrix, Provenance, Trace

NAMES = tuple(
    [str(Column(b)) for b in BASELINES]
    + [str(Column("fiedler_value", layer, None, "completion")) for layer in range(6)]
    + [str(Column("attended_mean", layer, 0, "completion", "surprisal")) for layer in range(6)]
)


def synthetic(signal: float, seed: int = 0, problems: int = 60, n: int = 6) -> FeatureMatrix:
    """Features of which the first graph column carries the label, by ``signal`` deviations."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, problems * n)
    values = rng.normal(size=(problems * n, len(NAMES))).astype(np.float32)
    values[:, len(BASELINES)] += signal * labels
    lengths = rng.integers(5, 30, problems * n)
    values[:, 1] = lengths
    traces = tuple(
        Trace(f"p{i // n}#{i % n}", f"p{i // n}", f"Q: {i // n}", f" {rng.integers(0, 99)}", int(y),
              answer=str(int(y) if y else rng.integers(2, 5)))
        for i, y in enumerate(labels))
    return FeatureMatrix(values, NAMES, traces, np.column_stack([lengths, lengths]),
                         Provenance("m", "r", "default", 1))


def test_planted_signal_is_found_and_the_increment_is_positive() -> None:
    comparison = compare(cross_validate(synthetic(1.5), ValidityClassifier(C=0.1), n_splits=5))
    rows = {r.key: r for r in comparison.rows}
    assert set(rows) == set(FAMILIES) - {"probe"}
    assert rows["learned"].auroc.estimate > 0.75
    assert rows["single"].auroc.estimate > 0.75
    assert rows["length+logprob"].auroc.high < 0.6  # lengths are random here
    assert comparison.increments["spectra over length + log-prob"]["auroc"].low > 0.1
    assert comparison.verdict.startswith("Here spectra add information beyond length + log-prob")
    assert comparison.facts["single_columns"] == {NAMES[len(BASELINES)]: 5}
    assert comparison.choosing["oracle"].estimate > comparison.choosing["first answer"].estimate


def with_states(features: FeatureMatrix, signal: float) -> FeatureMatrix:
    """The same beside hidden states of which the first coordinate carries the label."""
    states = np.random.default_rng(1).normal(size=(len(features), 4)).astype(np.float32)
    states[:, 0] += signal * features.labels
    names = [str(Column("state_mean", 0, None, "completion", "", d, "d")) for d in range(4)]
    return dataclasses.replace(
        features, values=np.hstack([features.values, states]), names=(*features.names, *names),
        provenance=Provenance("m", "r", "default+probe", 1))


def test_hidden_states_are_read_by_the_probe_alone(tmp_path: Path) -> None:
    plain = synthetic(1.0)
    probed = with_states(plain, 4.0)
    alone, beside = (cross_validate(f, ValidityClassifier(C=0.1), n_splits=5)
                     for f in (plain, probed))
    assert set(beside.scores) - set(alone.scores) == {"probe"}
    for key, values in alone.scores.items():
        np.testing.assert_array_equal(beside.scores[key], values)
    rows = {r.key: r.name for r in compare(beside).rows}
    assert rows["probe"] == "hidden-state probe"
    assert roc_auc_score(plain.labels, beside.scores["probe"]) > 0.98
    run = train(probed, ValidityClassifier(C=0.1), tmp_path / "a", n_splits=5)
    artifact = load_artifact(run.artifact)
    assert artifact.provenance.feature_set == "default"
    np.testing.assert_array_equal(
        artifact_scores(artifact, plain), artifact_scores(artifact, probed))


def test_a_feature_set_without_a_head_mean_graph_is_judged_without_its_single_columns(
    tmp_path: Path,
) -> None:
    full = synthetic(1.5)
    heads = [str(Column("log_self_attention", layer, 0, "completion")) for layer in range(6)]
    fast = dataclasses.replace(full, names=(*NAMES[:5], *heads, *NAMES[11:]))
    run = train(fast, ValidityClassifier(C=0.1), tmp_path / "a", n_splits=5)
    assert "single" not in run.cross_validated.scores
    assert run.comparison.facts["single_columns"] == {}
    rows = {r.key: r for r in run.comparison.rows}
    assert set(rows) == set(FAMILIES) - {"probe", "single"}
    assert rows["spectra"].auroc.estimate > 0.75


@pytest.mark.slow
def test_shuffled_labels_give_nothing() -> None:
    """Over 20 seeds the mean AUROC is a half, and no more than a few intervals miss it."""
    estimates, missed = [], 0
    for seed in range(20):
        oof = cross_validate(synthetic(0.0, seed), ValidityClassifier(C=0.1), n_splits=5)
        row = next(r for r in compare(oof, n_resamples=200).rows if r.key == "learned")
        estimates.append(row.auroc.estimate)
        missed += not row.auroc.low <= 0.5 <= row.auroc.high
    assert abs(np.mean(estimates) - 0.5) < 0.03
    assert missed <= 5


def test_no_signal_is_said_plainly() -> None:
    comparison = compare(cross_validate(synthetic(0.0, 3), ValidityClassifier(C=0.1), n_splits=5))
    assert "cannot be shown that spectra add" in comparison.verdict


def test_every_row_is_scored_out_of_fold_as_by_hand() -> None:
    features = synthetic(1.0)
    oof = cross_validate(features, ValidityClassifier(C=0.1), n_splits=5)
    columns = column_families(features.names)["learned"]
    from validator.splits import problem_folds

    by_hand = np.full(len(features.traces), np.nan)
    for fit, test in problem_folds(features.problem_ids, features.labels, 5, 0):
        X = features.values[:, columns]
        model = ValidityClassifier(C=0.1).fit(X[fit], features.labels[fit])
        by_hand[test] = model.decision_function(X[test])
    np.testing.assert_allclose(oof.scores["learned"], by_hand)
    row = next(r for r in compare(oof).rows if r.key == "learned")
    assert row.auroc.estimate == pytest.approx(roc_auc_score(features.labels, by_hand))
    assert all(np.isfinite(s).all() for s in oof.scores.values())


def test_families_part_graph_columns_from_token_signals_and_baselines() -> None:
    families = column_families(NAMES)
    assert [len(families[k]) for k in ("baselines", "spectra", "learned")] == [5, 6, 12]


def test_one_class_and_unlabelled_traces_are_typed_errors() -> None:
    features = synthetic(1.0)
    valid = features.take(np.flatnonzero(features.labels))
    with pytest.raises(LabelError, match=r"one class|both"):
        cross_validate(valid, ValidityClassifier())
    import dataclasses

    blank = dataclasses.replace(features.traces[3], label=None)
    unlabelled = dataclasses.replace(
        features, traces=(*features.traces[:3], blank, *features.traces[4:]))
    with pytest.raises(LabelError, match="1 of 360 traces have no label, first: 'p0#3'"):
        cross_validate(unlabelled, ValidityClassifier())


def test_train_saves_what_it_judged_and_evaluation_leaves_seen_problems_out(
    tmp_path: Path,
) -> None:
    features = synthetic(1.5)
    known = features.take(np.flatnonzero(features.problem_ids < "p4"))
    run = train(known, ValidityClassifier(C=0.1), tmp_path / "a", n_splits=5)
    artifact = load_artifact(run.artifact)
    rows = unseen_rows(artifact, features)
    assert set(features.problem_ids[rows]).isdisjoint(known.problem_ids)
    assert len(rows) + len(known.traces) == len(features.traces)
    scores = artifact_scores(artifact, features.take(rows))
    assert roc_auc_score(features.labels[rows], scores) > 0.75
    evaluation = artifact.manifest["metadata"]["evaluation"]
    assert evaluation["verdict"] == run.comparison.verdict
    with pytest.raises(LabelError, match="--cross-validate"):
        unseen_rows(artifact, known)


def test_features_of_another_model_are_refused(tmp_path: Path) -> None:
    import dataclasses

    features = synthetic(1.5)
    artifact = load_artifact(
        train(features, ValidityClassifier(C=0.1), tmp_path / "a", n_splits=5).artifact)
    other = dataclasses.replace(features, provenance=Provenance("m", "other", "default", 1))
    with pytest.raises(FeatureMismatchError, match="revision: expected 'r', got 'other'"):
        artifact_scores(artifact, other)


def test_given_scores_are_judged_as_they_stand() -> None:
    features = synthetic(1.0)
    given = np.random.default_rng(0).normal(size=len(features.traces))
    oof = cross_validate(features, ValidityClassifier(C=0.1), n_splits=5, learned=given)
    np.testing.assert_array_equal(oof.scores["learned"], given)


def test_best_single_column_is_the_largest_separation_and_ranks_are_in_range() -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 200)
    X = rng.normal(size=(200, 5))
    X[:, 3] -= 1.2 * y
    X[0, 1] = np.nan
    model = BestSingleColumn().fit(X, y)
    separations = [abs(roc_auc_score(y, X[:, j]) - 0.5) for j in (0, 2, 3, 4)]
    assert (model.column_, model.sign_) == ((0, 2, 3, 4)[int(np.argmax(separations))], -1.0)
    scores = model.decision_function(X)
    assert roc_auc_score(y, scores) == pytest.approx(1 - roc_auc_score(y, X[:, 3]))
    assert np.abs(scores).max() <= 1
    assert model.decision_function(np.full((1, 5), np.nan)).tolist() == [0.0]


def test_surface_baseline_reads_question_and_answer_without_the_shared_prompt() -> None:
    traces = [Trace(str(i), str(i), f"exemplars Q{i}:", f" {'yes' if i % 2 else 'no'}", i % 2)
              for i in range(40)]
    texts = surface_texts(traces)
    assert texts[3] == "3: yes"
    labels = np.array([t.label for t in traces])
    model = SurfaceBaseline().fit(texts[:30], labels[:30])
    assert roc_auc_score(labels[30:], model.decision_function(texts[30:])) == 1.0


def test_one_far_outlier_does_not_decide_a_stack() -> None:
    """A trace far outside the training columns gets log-odds in the thousands, the wrong way."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 400)
    score = 2.0 * (2 * y - 1) + rng.normal(0, 1.5, 400)
    score[np.flatnonzero(y == 0)[0]] = 8000.0
    base = rng.normal(size=(400, 2))
    train, test = np.arange(300), np.arange(300, 400)

    def judged(column: np.ndarray) -> float:
        columns = np.column_stack([base, column])
        return float(roc_auc_score(y[test], stack(columns[train], y[train], columns[test])))

    assert judged(bounded(score)) > 0.95
    assert judged(score) < 0.9  # what it was without the bound
