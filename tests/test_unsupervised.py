"""Label-free scores against SciPy, scikit-learn, brute force and exhaustive search."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import mahalanobis
from scipy.stats import rankdata
from sklearn.base import clone
from sklearn.covariance import LedoitWolf
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from validator.columns import BASELINES, Column
from validator.errors import FeatureMismatchError, LabelError, ParameterError, ScoreError
from validator.types import FeatureMatrix, Provenance, Trace
from validator.unsupervised import (
    PRESETS,
    DiagnosticScore,
    RankEnsemble,
    ReferenceDistance,
    available_presets,
    score_label_free,
    within_problem_rank,
)

DESCRIPTORS = (("fiedler_value", ""), ("hfer_c0.5", "__hidden"), ("roughness", "__surprisal"))
GRAPH = [f"{d}__layer{i}__head_mean__completion{s}" for i in (0, 7, 15) for d, s in DESCRIPTORS]
HEADS = [f"log_self_attention__layer{i}__head{h}__{span}" for span in ("whole", "completion")
         for i in (0, 7, 15) for h in range(3)]
NAMES = (*GRAPH, *HEADS, *(f"{b}__baseline" for b in BASELINES))


def matrix(n=80, per_problem=4, names=NAMES, seed=0, gaps=0.0, signal=0.0, **provenance):
    """n traces whose labels the column fiedler_value of layer 7 follows by ``signal``."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(n, len(names))).astype(np.float32)
    labels = rng.integers(0, 2, size=n)
    if signal:
        values[:, names.index("fiedler_value__layer7__head_mean__completion")] -= signal * labels
    values[rng.random(values.shape) < gaps] = np.nan
    traces = tuple(Trace(f"{seed}-{i}", f"p{i // per_problem}", "q", " a", int(label))
                   for i, label in enumerate(labels))
    recipe = {"model": "m", "revision": "r", "feature_set": "mine", "feature_version": 1}
    reasons = {t.id: "blank" for t, row in zip(traces, values, strict=True) if np.isnan(row).any()}
    return FeatureMatrix(values, tuple(names), traces, np.ones((n, 2), dtype=np.int64),
                         Provenance(**(recipe | provenance)), reasons)


# Diagnostics and presets

def test_a_diagnostic_is_its_column_times_its_direction():
    features = matrix()
    name = "hfer_c0.5__layer7__head_mean__completion__hidden"
    got = DiagnosticScore("hfer_c0.5", layer=7, signal="hidden", direction=-1).score(features)
    assert np.array_equal(got, -features.select([name])[:, 0].astype(np.float64))
    logprob = DiagnosticScore("mean_logprob", layer=None, direction=1).score(features)
    assert np.array_equal(logprob, features.select(["mean_logprob__baseline"])[:, 0])


def test_means_are_over_layers_and_heads_of_the_same_recipe_only():
    features = matrix()
    graph = DiagnosticScore("fiedler_value", direction=1).score(features)
    assert graph == pytest.approx(features.select([n for n in GRAPH if "fiedler" in n])
                                  .astype(float).mean(axis=1))
    heads = DiagnosticScore("log_self_attention", direction=-1, graph="heads").score(features)
    mine = [n for n in HEADS if n.endswith("completion")]
    assert heads == pytest.approx(-features.select(mine).astype(float).mean(axis=1))
    one = DiagnosticScore("log_self_attention", direction=1, graph="heads", layer=15, span="whole")
    mine = [f"log_self_attention__layer15__head{h}__whole" for h in range(3)]
    assert one.score(features) == pytest.approx(features.select(mine).astype(float).mean(axis=1))


def test_layers_weigh_the_same_however_many_heads_they_have():
    names = [f"lookback_ratio__layer{i}__head{h}__completion" for i, h in ((0, 0), (1, 0), (1, 1))]
    features = matrix(names=names)
    a, b, c = features.values.astype(np.float64).T
    assert PRESETS["lookback_ratio"].score(features) == pytest.approx((a + (b + c) / 2) / 2)


def test_transforms_and_options_are_other_quantities():
    names = ["fiedler_value__layer1__head_mean__completion__delta",
             "fiedler_value__layer1__head_mean+combinatorial__completion"]
    with pytest.raises(FeatureMismatchError, match="fiedler_value__layer<i>__head_mean__compl"):
        DiagnosticScore("fiedler_value", direction=1).score(matrix(names=names))
    combinatorial = DiagnosticScore("fiedler_value", direction=1, options=("combinatorial",))
    features = matrix(names=names)
    assert np.array_equal(combinatorial.score(features), features.values[:, 1])


def test_what_is_not_there_or_not_possible_is_named():
    with pytest.raises(FeatureMismatchError, match=r"layer 3 is not among .* 0, 7, 15"):
        DiagnosticScore("fiedler_value", layer=3, direction=1).score(matrix())
    with pytest.raises(FeatureMismatchError, match=r"lookback_ratio__layer<i>__head<j>"):
        PRESETS["lookback_ratio"].score(matrix())
    for wrong in ({"direction": 0}, {"direction": 1, "layer": "last"},
                  {"direction": 1, "graph": "each"}):
        with pytest.raises(ParameterError):
            DiagnosticScore("fiedler_value", **wrong)


def test_undefined_is_nan():
    features = matrix(gaps=0.02)
    where = np.isnan(features.select([n for n in GRAPH if "fiedler" in n])).any(axis=1)
    assert 0 < where.sum() < len(features)
    assert np.array_equal(np.isnan(PRESETS["fiedler_value"].score(features)), where)


def test_every_preset_is_usable_or_has_a_reason():
    usable, reasons = available_presets(matrix())
    assert set(usable) == {"fiedler_value", "hfer", "log_self_attention", "mean_logprob",
                           "min_logprob", "mean_token_entropy", "completion_length"}
    assert set(reasons) == set(PRESETS) - set(usable)
    assert "feature set mine" in reasons["smoothness"]
    assert "smoothness__layer<i>__head_mean__completion__hidden" in reasons["smoothness"]


def test_presets_state_a_source_and_read_columns_that_parse():
    for name, preset in PRESETS.items():
        assert preset.source, name
        assert Column.parse(str(preset.recipe)) == preset.recipe


# Ranks

SCORES = st.lists(st.tuples(st.integers(-3, 3), st.sampled_from("pqr")), min_size=1, max_size=25)


@given(SCORES)
def test_within_problem_rank_is_scipys_by_problem(rows):
    scores, problems = np.array([r[0] for r in rows], dtype=float), np.array([r[1] for r in rows])
    got = within_problem_rank(scores, problems)
    for p in np.unique(problems):
        mine = scores[problems == p]
        n = mine.size
        expected = (rankdata(mine) - 1) / (n - 1) if n > 1 else [0.5]
        assert got[problems == p] == pytest.approx(expected)
        assert got[problems == p].mean() == pytest.approx(0.5)


def test_within_problem_rank_refuses_nan_and_nothing():
    with pytest.raises(ScoreError, match="NaN"):
        within_problem_rank([1.0, np.nan], ["p", "p"])
    with pytest.raises(ScoreError):
        within_problem_rank([], [])
    with pytest.raises(LabelError, match="problem ids"):
        within_problem_rank([1.0, 2.0], ["p"])


@pytest.mark.parametrize("within", [True, False])
def test_the_ensemble_is_the_mean_of_ranks(within):
    features = matrix()
    members = {n: PRESETS[n] for n in ("fiedler_value", "hfer", "mean_logprob")}
    groups = features.problem_ids if within else np.zeros(len(features))
    expected = np.mean([within_problem_rank(m.score(features), groups) for m in members.values()],
                       axis=0)
    assert RankEnsemble(members, within_problem=within).score(features) == pytest.approx(expected)
    assert RankEnsemble(list(members.values()), within_problem=within).score(
        features) == pytest.approx(expected)


def test_a_missing_score_is_no_evidence_and_only_a_trace_without_any_is_nan():
    features = matrix(n=4, names=["mean_logprob__baseline", "min_logprob__baseline"])
    features.values[:] = [[1, 10], [2, np.nan], [3, 20], [np.nan, np.nan]]
    got = RankEnsemble([PRESETS["mean_logprob"], PRESETS["min_logprob"]]).score(features)
    assert got[:3] == pytest.approx([0.0, 0.5, 1.0])
    assert np.isnan(got[3])
    with pytest.raises(ParameterError, match="at least one"):
        RankEnsemble([]).score(features)


# Distances

def test_mahalanobis_is_scipys_with_sklearns_shrinkage():
    rng = np.random.default_rng(1)
    X, new = rng.normal(size=(60, 8)) @ rng.normal(size=(8, 8)), rng.normal(size=(20, 8))
    got = ReferenceDistance(n_components=None).fit(X).score(new)
    scaler = StandardScaler().fit(X)
    covariance = LedoitWolf().fit(scaler.transform(X))
    inverse = np.linalg.inv(covariance.covariance_)
    expected = [-mahalanobis(z, covariance.location_, inverse) for z in scaler.transform(new)]
    assert got == pytest.approx(expected)


@pytest.mark.parametrize(("asked", "kept"), [("auto", 15), (4, 4)])
def test_wide_features_go_through_principal_components(asked, kept):
    X = np.random.default_rng(2).normal(size=(60, 300)) + np.arange(60)[:, None] / 10
    X[::7, 5] = np.nan
    fitted = ReferenceDistance(n_components=asked).fit(X)
    assert fitted.n_components_ == kept
    pipeline = make_pipeline(SimpleImputer(strategy="median", add_indicator=True),
                             StandardScaler(), PCA(kept, svd_solver="full"))
    Z = pipeline.fit_transform(X)
    covariance = LedoitWolf().fit(Z)
    expected = [-mahalanobis(z, covariance.location_, np.linalg.inv(covariance.covariance_))
                for z in Z]
    assert fitted.score(X) == pytest.approx(expected)


def test_knn_is_the_brute_force_mean():
    rng = np.random.default_rng(3)
    X, new = rng.normal(size=(40, 5)), rng.normal(size=(10, 5))
    got = ReferenceDistance("knn", k=7, n_components=None).fit(X).score(new)
    scaler = StandardScaler().fit(X)
    for z, value in zip(scaler.transform(new), got, strict=True):
        distances = sorted(np.linalg.norm(z - r) for r in scaler.transform(X))
        assert value == pytest.approx(-np.mean(distances[:7]))


def test_the_forest_is_sklearns_and_seeded():
    rng = np.random.default_rng(4)
    X, new = rng.normal(size=(50, 6)), 3 * rng.normal(size=(20, 6))
    fitted = ReferenceDistance("isolation_forest", n_components=None, random_state=5).fit(X)
    scaler = StandardScaler().fit(X)
    theirs = IsolationForest(n_estimators=200, random_state=5).fit(scaler.transform(X))
    assert np.array_equal(fitted.score(new), theirs.score_samples(scaler.transform(new)))
    assert np.array_equal(fitted.score(new), clone(fitted).fit(X).score(new))


@pytest.mark.parametrize("method", ["mahalanobis", "knn", "isolation_forest"])
def test_outliers_are_far(method):
    rng = np.random.default_rng(6)
    X = rng.normal(size=(100, 4))
    fitted = ReferenceDistance(method, n_components=None).fit(X)
    near, far = fitted.score(rng.normal(size=(50, 4))), fitted.score(8 + rng.normal(size=(50, 4)))
    assert near.min() > far.max()


def test_a_matrix_is_read_by_name_without_its_baselines():
    features, new = matrix(gaps=0.01), matrix(seed=1)
    fitted = ReferenceDistance().fit(features)
    assert fitted.columns_ == (*GRAPH, *HEADS)
    as_arrays = ReferenceDistance().fit(features.select(fitted.columns_))
    assert np.array_equal(fitted.score(new), as_arrays.score(new.select(fitted.columns_)))
    order = np.random.default_rng(0).permutation(len(NAMES))
    turned = FeatureMatrix(new.values[:, order], tuple(NAMES[i] for i in order), new.traces,
                           new.lengths, new.provenance)
    assert np.array_equal(fitted.score(turned), fitted.score(new))
    chosen = ReferenceDistance(columns=GRAPH[:2]).fit(features)
    assert chosen.n_features_in_ == 2


def test_references_that_cannot_be_compared_are_refused():
    features = matrix()
    fitted = ReferenceDistance().fit(features)
    assert fitted.score(features.take(range(5))).shape == (5,)  # all of them inside
    both = (features.traces[0], matrix(seed=1).traces[1])
    mixed = FeatureMatrix(features.values[:2], NAMES, both, features.lengths[:2],
                          features.provenance)
    with pytest.raises(ParameterError, match="1 of 2 traces are part of the reference"):
        fitted.score(mixed)
    with pytest.raises(FeatureMismatchError, match="model"):
        fitted.score(matrix(seed=1, model="other"))
    with pytest.raises(FeatureMismatchError, match="18"):
        ReferenceDistance().fit(np.ones((5, 18)) * np.arange(5)[:, None]).score(np.ones((2, 3)))
    with pytest.raises(FeatureMismatchError, match="without names"):
        ReferenceDistance().fit(features.values).score(features)
    for wrong in ({"method": "cosine"}, {"method": "knn", "k": 81}, {"n_components": "all"},
                  {"n_components": 500}):
        with pytest.raises(ParameterError):
            ReferenceDistance(**wrong).fit(features)
    with pytest.raises(ParameterError, match="at least 2"):
        ReferenceDistance().fit(features.take([0]))
    with pytest.raises(ParameterError, match="no names"):
        ReferenceDistance(columns=GRAPH).fit(features.values)
    with pytest.raises(ParameterError, match="no column is left"):
        ReferenceDistance().fit(matrix(names=["mean_logprob__baseline"]))


# All of them

def test_all_scores_of_a_matrix():
    features, reference = matrix(), matrix(n=60, seed=1)
    scores = score_label_free(features, reference)
    usable, _ = available_presets(features)
    assert set(scores) == {*usable, "ensemble", "distance_mahalanobis", "distance_knn",
                           "distance_isolation_forest"}
    for name, preset in usable.items():
        assert np.array_equal(scores[name], preset.score(features))
    three = [usable[n] for n in ("fiedler_value", "hfer", "log_self_attention")]
    assert np.array_equal(scores["ensemble"], RankEnsemble(three).score(features))
    assert np.array_equal(scores["distance_knn"],
                          ReferenceDistance("knn").fit(reference).score(features))
    assert all(s.dtype == np.float64 and s.shape == (len(features),) for s in scores.values())
    assert "ensemble" not in score_label_free(matrix(names=["mean_logprob__baseline"]))
    assert score_label_free(features.take([3]))["ensemble"] == pytest.approx([0.5])
