"""Steps out of fold: planted signal is found, and every number is the one worked out by hand."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from validator.audit import SurfaceBaseline
from validator.classifier import ValidityClassifier, load_artifact
from validator.columns import BASELINES, Column
from validator.errors import FeatureMismatchError, LabelError, ParameterError, ScoreError
from validator.metrics.localization import (
    NO_ERROR,
    UNKNOWN,
    best_threshold,
    hits,
    localization_f1,
)
from validator.splits import problem_folds
from validator.training.principal import PrincipalAxes
from validator.training.step_comparison import StepComparison, compare_steps
from validator.training.step_fit import save_step_classifier
from validator.training.step_table import StepTable
from validator.training.steps import (
    RULES,
    STEP_FAMILIES,
    CrossValidatedSteps,
    cross_validate_steps,
)
from validator.types import FeatureMatrix, Provenance, Trace

GRAPH = tuple(
    [str(Column("fiedler_value", layer, None, "completion")) for layer in range(4)]
    + [str(Column("attended_mean", layer, 0, "completion", "surprisal")) for layer in range(4)])
STATES = tuple(str(Column("state_last", 1, None, "completion", parameter=float(d),
                          parameter_key="d")) for d in range(3))
NAMES = tuple(str(Column(b)) for b in BASELINES) + GRAPH
SIGNAL = len(BASELINES)
"""The column that carries the planted signal."""


def step_features(
    signal: float, seed: int = 0, problems: int = 40, *, censored: bool = True,
    names: tuple[str, ...] = NAMES,
) -> FeatureMatrix:
    """Two traces a problem, of 3 to 6 steps; every other one goes wrong at a random step.

    ``censored``: steps after the first error have no label; else they are valid.
    """
    rng = np.random.default_rng(seed)
    traces, labels, lengths = [], [], []
    for p in range(problems):
        for t in range(2):
            size = int(rng.integers(3, 7))
            error = int(rng.integers(0, size)) if t else size
            texts = [f" step {rng.integers(0, 9)} gives {rng.integers(0, 9)}." for _ in range(size)]
            used = 12
            for k, text in enumerate(texts):
                after = None if censored else 1
                label = 1 if k < error else 0 if k == error else after
                tokens = int(rng.integers(3, 12))
                traces.append(Trace(
                    f"p{p}.{t}#step{k}", f"p{p}", f"Question: {p}?\nAnswer:" + "".join(texts[:k]),
                    text, label, meta={"trace": f"p{p}.{t}", "step": k}))
                labels.append(0 if k == error else 1)
                lengths.append((used, tokens))
                used += tokens
    values = rng.normal(size=(len(traces), len(names))).astype(np.float32)
    values[:, SIGNAL] += signal * np.array(labels)
    sizes = np.array(lengths, dtype=np.int64)
    values[:, :2] = sizes
    return FeatureMatrix(values, names, tuple(traces), sizes, Provenance("m", "r", "default", 1))


CLASSIFIER = ValidityClassifier(C=0.1)


@pytest.fixture(scope="module")
def planted() -> CrossValidatedSteps:
    return cross_validate_steps(step_features(2.5), CLASSIFIER)


@pytest.fixture(scope="module")
def compared(planted: CrossValidatedSteps) -> StepComparison:
    return compare_steps(planted, n_resamples=300)


def test_planted_signal_is_found_by_every_measure(compared: StepComparison) -> None:
    rows = {r.key: r.values for r in compared.ranking}
    assert set(rows) == {k for k in STEP_FAMILIES if "probe" not in k}
    for metric in ("auroc", "at_position", "at_length"):
        assert rows["learned"][metric].low > 0.75
        assert rows["length"][metric].low < 0.6
    placed = {r.key: r.values for r in compared.location}
    assert placed["learned"]["lowest"].estimate > placed["random"]["lowest"].high
    assert placed["learned"]["f1"].low > placed["random"]["f1"].high
    assert placed["first"]["f1"].estimate == 0
    added = {d.metric: d.value for d in compared.nested["position + length + log-prob + surface"]}
    assert added["at_position"].low > 0.1
    assert added["f1"].low > 0
    assert compared.verdict.startswith(
        "At equal step index (AUROC), spectra add to position + length + log-prob + surface: +")


def test_no_signal_is_said_plainly() -> None:
    oof = cross_validate_steps(step_features(0.0, 5), CLASSIFIER, n_splits=3)
    verdict = compare_steps(oof, n_resamples=200).verdict
    assert verdict.count("it cannot be shown that spectra add") == 2


def test_unlabelled_steps_are_counted_scored_and_never_fitted_to(
    planted: CrossValidatedSteps, compared: StepComparison
) -> None:
    unlabelled = planted.table.labels < 0
    assert compared.facts["unlabelled"] == unlabelled.sum() > 0
    assert compared.notes[0].startswith(f"{unlabelled.sum()} of {unlabelled.size} steps have no")
    assert all(np.isfinite(s).all() for s in planted.scores.values())
    features = step_features(2.5)
    values = features.values.copy()
    values[unlabelled] = 1e6  # would wreck every fit that saw them
    changed = dataclasses.replace(features, values=values)
    again = cross_validate_steps(changed, CLASSIFIER)
    np.testing.assert_array_equal(again.scores["baselines+learned"][~unlabelled],
                                  planted.scores["baselines+learned"][~unlabelled])


def test_the_wrong_step_being_last_is_noticed_and_position_is_perfect_within_traces(
    compared: StepComparison,
) -> None:
    rows = {r.key: r.values for r in compared.ranking}
    assert compared.facts["later"] == 1.0
    assert "read the column at equal step index" in compared.notes[-1]
    assert rows["position"]["within"].estimate > 0.95
    assert rows["position"]["at_position"].high < 0.75
    spread = compare_steps(cross_validate_steps(
        step_features(2.5, censored=False), CLASSIFIER, n_splits=3), n_resamples=50)
    assert 0.3 < spread.facts["later"] < 0.7
    assert spread.notes == ()


def outer(features: FeatureMatrix, known: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    table = StepTable.of(features)
    return [(known[a], np.flatnonzero(np.isin(table.problem_ids, table.problem_ids[known[b]])))
            for a, b in problem_folds(table.problem_ids[known], table.labels[known], 5, 0)]


def test_every_step_is_scored_out_of_fold_as_by_hand(planted: CrossValidatedSteps) -> None:
    features = step_features(2.5)
    y, problems = planted.table.labels, features.problem_ids
    known = np.flatnonzero(y >= 0)
    X, lengths = features.values[:, SIGNAL:], features.lengths[:, 1:].astype(float)
    texts = [t.completion for t in features.traces], [t.prompt for t in features.traces]
    for i, (fit, test) in enumerate(outer(features, known)):
        assert (planted.fold[test] == i).all()
        assert not set(problems[fit]) & set(problems[test])
        learned = ValidityClassifier(C=0.1).fit(X[fit], y[fit]).decision_function(X[test])
        np.testing.assert_allclose(planted.scores["learned"][test], learned)
        length = make_pipeline(StandardScaler(), LogisticRegression()).fit(lengths[fit], y[fit])
        np.testing.assert_allclose(
            planted.scores["length"][test], length.decision_function(lengths[test]), atol=1e-6)
        surface = sum(
            SurfaceBaseline().fit([text[j] for j in fit], y[fit]).decision_function(
                [text[j] for j in test]) for text in texts)
        np.testing.assert_allclose(planted.scores["surface"][test], surface, atol=1e-9)
    assert (planted.scores["longest"] == -lengths[:, 0]).all()
    logprob = features.select([str(Column("mean_logprob"))])[:, 0]
    np.testing.assert_array_equal(planted.scores["lowest_logprob"], logprob)


def test_thresholds_are_chosen_on_inner_scores_of_the_training_problems(
    planted: CrossValidatedSteps,
) -> None:
    features = step_features(2.5)
    table, y = planted.table, planted.table.labels
    X = features.values[:, SIGNAL:]
    for i, (fit, _) in enumerate(outer(features, np.flatnonzero(y >= 0))):
        inside = np.full(len(y), np.nan)
        for a, b in problem_folds(table.problem_ids[fit], y[fit], 3, 0):
            model = ValidityClassifier(C=0.1).fit(X[fit[a]], y[fit[a]])
            inside[fit[b]] = model.decision_function(X[fit[b]])
        own = [m for m in table.judged if table.rows[m][0] in fit]
        expected = best_threshold([inside[table.rows[m]] for m in own], table.first_errors[own])
        assert planted.thresholds["learned"][i] == pytest.approx(expected, rel=1e-6)
        errors = table.first_errors[own]
        assert planted.usual_error[i] == np.bincount(errors[errors >= 0]).argmax()


def test_the_table_of_measures_by_hand(
    planted: CrossValidatedSteps, compared: StepComparison
) -> None:
    table, s = planted.table, planted.scores["learned"]
    known = table.labels >= 0
    y, step, trace = table.labels[known], table.step[known], table.trace[known]
    row = {r.key: r.values for r in compared.ranking}["learned"]
    assert row["auroc"].estimate == pytest.approx(roc_auc_score(y, s[known]))
    above = [(a > b) + (a == b) / 2 for k in range(6)
             for a in s[known][(step == k) & (y == 1)] for b in s[known][(step == k) & (y == 0)]]
    assert row["at_position"].estimate == pytest.approx(np.mean(above))
    inside = [roc_auc_score(y[trace == m], s[known][trace == m]) for m in np.unique(trace)
              if np.ptp(y[trace == m])]
    assert row["within"].estimate == pytest.approx(np.mean(inside))

    truth = table.first_errors
    lowest = [int(np.argmin(s[r])) for r in table.rows]
    below = [next((k for k, row_ in enumerate(r)
                   if s[row_] < planted.thresholds["learned"][planted.fold[row_]]), NO_ERROR)
             for r in table.rows]
    place = {r.key: r.values for r in compared.location}["learned"]
    wrong = truth >= 0
    assert place["lowest"].estimate == pytest.approx(hits(lowest, truth)[wrong].mean())
    assert place["lowest_near"].estimate == pytest.approx(hits(lowest, truth, 1)[wrong].mean())
    assert place["exact"].estimate == pytest.approx(hits(below, truth)[wrong].mean())
    assert place["near"].estimate == pytest.approx(hits(below, truth, 1)[wrong].mean())
    assert place["none"].estimate == pytest.approx(hits(below, truth)[~wrong].mean())
    assert place["f1"].estimate == pytest.approx(localization_f1(below, truth))
    sizes = np.array([len(r) for r in table.rows])
    rows = {r.key: r.values for r in compared.location}
    assert rows["random"]["lowest"].estimate == pytest.approx((1 / sizes[wrong]).mean())
    assert rows["first"]["lowest"].estimate == pytest.approx((truth[wrong] == 0).mean())
    assert set(rows) == {"first", "usual", "random", *RULES, *(r.key for r in compared.ranking)}


def test_differences_are_against_the_best_score_without_spectra(compared: StepComparison) -> None:
    tables = {**{(m, r.key): v for r in compared.ranking for m, v in r.values.items()},
              **{(m, r.key): v for r in compared.location for m, v in r.values.items()}}
    for d in compared.against_best:
        plain = [v.estimate for (m, k), v in tables.items()
                 if m == d.metric and "learned" not in k and k != "spectra"]
        assert tables[d.metric, d.baseline].estimate == max(plain)
        assert d.value.estimate == pytest.approx(tables[d.metric, d.key].estimate - max(plain))
    assert {d.key for d in compared.against_best} == {"spectra", "learned", "baselines+learned"}


def test_hidden_states_are_a_baseline_where_columns_hold_them() -> None:
    features = step_features(2.5, names=NAMES + STATES)
    features.values[:, -1] += 3.0 * np.array([t.label != 0 for t in features.traces])
    oof = cross_validate_steps(features, CLASSIFIER, n_splits=3)
    comparison = compare_steps(oof, n_resamples=100)
    rows = {r.key: r.values for r in comparison.ranking}
    assert set(rows) == set(STEP_FAMILIES)
    assert rows["probe"]["auroc"].low > 0.75
    best = {d.metric: d.baseline for d in comparison.against_best}
    assert "probe" in best["auroc"]
    assert list(comparison.nested) == ["position + length + log-prob + surface",
                                       "all these and hidden states"]


def test_traces_whose_first_error_is_not_known_are_left_out_by_count() -> None:
    features = step_features(2.5)
    first = [i for i, t in enumerate(features.traces) if t.meta["step"] == 0][:4]
    traces = list(features.traces)
    for i in first:
        traces[i] = dataclasses.replace(traces[i], label=None)
    oof = cross_validate_steps(dataclasses.replace(features, traces=tuple(traces)), CLASSIFIER,
                               n_splits=3)
    assert (oof.table.first_errors == UNKNOWN).sum() == 4
    comparison = compare_steps(oof, n_resamples=50)
    assert comparison.facts["judged_traces"] == 76
    assert any(n.startswith("4 of 80 traces do not say") for n in comparison.notes)


def test_without_traces_that_are_right_there_is_no_f1() -> None:
    features = step_features(2.5)
    wrong = {t.meta["trace"] for t in features.traces if t.label == 0}
    rows = [i for i, t in enumerate(features.traces) if t.meta["trace"] in wrong]
    comparison = compare_steps(
        cross_validate_steps(features.take(rows), CLASSIFIER, n_splits=3), n_resamples=50)
    row = comparison.location[-1].values
    assert row["f1"] is row["none"] is row["f1_at_length"] is None
    assert row["exact"].estimate > 0


def test_a_problem_without_a_labelled_step_is_not_scored() -> None:
    features = step_features(2.5)
    traces = tuple(dataclasses.replace(t, label=None) if t.problem_id == "p0" else t
                   for t in features.traces)
    oof = cross_validate_steps(dataclasses.replace(features, traces=traces), CLASSIFIER, n_splits=3)
    blank = features.problem_ids == "p0"
    assert np.isnan(oof.scores["learned"][blank]).all()
    assert (oof.fold[blank] == -1).all()
    assert compare_steps(oof, n_resamples=50).facts["not_scored"] == blank.sum()


def test_rows_that_are_no_steps_are_typed_errors() -> None:
    features = step_features(1.0)
    whole = dataclasses.replace(
        features, traces=tuple(dataclasses.replace(t, meta={}) for t in features.traces))
    with pytest.raises(FeatureMismatchError, match="extract --steps"):
        cross_validate_steps(whole, CLASSIFIER)
    with pytest.raises(FeatureMismatchError, match=r"'p0\.0#step0' has two rows"):
        cross_validate_steps(features.take([0, 1, 0]), CLASSIFIER)
    with pytest.raises(FeatureMismatchError, match="no rows"):
        cross_validate_steps(features.take([]), CLASSIFIER)
    blank = dataclasses.replace(
        features, traces=tuple(dataclasses.replace(t, label=None) for t in features.traces))
    with pytest.raises(LabelError, match="none of"):
        cross_validate_steps(blank, CLASSIFIER)
    features.values[3, 2] = np.nan
    with pytest.raises(ScoreError, match=f"first: '{features.traces[3].id}'"):
        cross_validate_steps(features, CLASSIFIER)


def test_a_trace_with_a_step_missing_is_not_judged() -> None:
    features = step_features(1.0)
    table = StepTable.of(features.take(np.arange(1, len(features))[::-1]))
    m = table.trace_ids.index("p0.0")
    assert table.first_errors[m] == UNKNOWN
    assert table.step[table.rows[m]].tolist() == list(range(1, table.sizes[m]))
    other = table.trace_ids.index("p1.0")
    tokens = [n for t, n in zip(features.traces, features.lengths[:, 1], strict=True)
              if t.meta["trace"] == "p1.0"]
    assert table.trace_lengths[other] == sum(tokens)
    assert table.positions()[table.rows[other]].tolist() == [
        [k, k / (len(tokens) - 1), len(tokens)] for k in range(len(tokens))]


def test_all_axes_give_the_classifier_of_all_columns() -> None:
    """The mixing leaves the L2 penalty alone, which unmixed axes would not."""
    rng = np.random.default_rng(0)
    X = (rng.normal(size=(300, 16)) @ rng.normal(size=(16, 16)) + 3).astype(np.float32)
    y = (X[:, 0] + rng.normal(size=300) > 3).astype(int)
    axes = PrincipalAxes(16).fit(X)
    Z = axes.transform(X)
    np.testing.assert_allclose(Z.std(axis=0), 1.0, rtol=1e-4)
    assert axes.share_ == pytest.approx(1.0, abs=1e-4)
    np.testing.assert_allclose(
        ValidityClassifier().fit(Z, y).decision_function(Z),
        ValidityClassifier().fit(X, y).decision_function(X), atol=1e-3)


def test_leading_axes_keep_the_variance_that_pca_says() -> None:
    rng = np.random.default_rng(1)
    X = (rng.normal(size=(200, 40)) @ np.diag(0.8 ** np.arange(40)) @ rng.normal(size=(40, 40)))
    axes = PrincipalAxes(8, n_iter=6).fit(X)
    Z = (X - X.mean(axis=0)) / X.std(axis=0)
    values = np.linalg.svd(Z, compute_uv=False) ** 2
    assert axes.share_ == pytest.approx(values[:8].sum() / values.sum(), rel=1e-4)
    np.testing.assert_allclose(
        np.linalg.svd(axes.transform(X), compute_uv=False) ** 2, values[:8], rtol=1e-3)


def test_gaps_are_the_mean_and_an_indicator_and_constants_are_nothing() -> None:
    rng = np.random.default_rng(2)
    X = rng.normal(size=(60, 5)).astype(np.float32)
    X[:, 1] = 0.1
    X[:7, 2] = np.nan
    axes = PrincipalAxes(4).fit(X)
    filled = np.where(np.isnan(X), np.nanmean(X, axis=0), X)
    D = np.column_stack([filled, np.isnan(X[:, 2])])[:, [0, 2, 3, 4, 5]]
    D = (D - D.mean(axis=0)) / D.std(axis=0)
    values = np.linalg.svd(D, compute_uv=False) ** 2
    assert axes.share_ == pytest.approx(values[:4].sum() / values.sum(), rel=1e-3)
    changed = X.copy()
    changed[:, 1] = 7.0
    np.testing.assert_array_equal(axes.transform(changed), axes.transform(X))
    for k in (3, 16, 0):
        with pytest.raises(ParameterError, match="a power of 2"):
            PrincipalAxes(k).fit(X)
    with pytest.raises(FeatureMismatchError, match="expected 5 features"):
        axes.transform(X[:, :4])


def test_components_change_the_columns_only_and_trees_refuse_them() -> None:
    features = step_features(2.5)
    oof = cross_validate_steps(features, ValidityClassifier(), n_splits=3, components=4)
    plain = cross_validate_steps(features, ValidityClassifier(), n_splits=3)
    np.testing.assert_array_equal(oof.scores["baselines"], plain.scores["baselines"])
    known = oof.table.labels >= 0
    assert roc_auc_score(oof.table.labels[known], oof.scores["learned"][known]) > 0.6
    with pytest.raises(ParameterError, match="xgboost"):
        cross_validate_steps(features, ValidityClassifier("xgboost"), components=4)


def test_probabilities_are_those_of_the_log_odds(planted: CrossValidatedSteps) -> None:
    s = planted.scores["learned"]
    np.testing.assert_allclose(planted.probability("learned"), 1 / (1 + np.exp(-s)))
    with pytest.raises(ParameterError, match="'longest' is no P"):
        planted.probability("longest")


def test_the_artifact_is_fitted_to_all_labelled_steps(
    planted: CrossValidatedSteps, compared: StepComparison, tmp_path: Path
) -> None:
    features = planted.table.features
    artifact = load_artifact(
        save_step_classifier(tmp_path / "a", planted, compared, CLASSIFIER, {"command": "c"}))
    assert artifact.feature_names == GRAPH
    known = np.flatnonzero(planted.table.labels >= 0)
    X = features.select(GRAPH)
    by_hand = ValidityClassifier(C=0.1).fit(X[known], planted.table.labels[known])
    np.testing.assert_allclose(
        artifact.classifier.decision_function(X), by_hand.decision_function(X))
    notes = artifact.manifest["metadata"]
    assert (notes["rows"], notes["command"]) == ("steps", "c")
    assert len(notes["training_problems"]) == 40
    assert len(notes["calibration"]["margins"]) == known.size
    assert notes["evaluation"]["verdict"] == compared.verdict
