"""Trees from a file read piece by piece are those of the whole matrix in memory."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from tuning_helpers import NAMES, synthetic

from validator.classifier import ValidityClassifier, load_artifact
from validator.classifier.external import fit_pieces
from validator.errors import FeatureMismatchError, LabelError, ParameterError
from validator.families import learned_names
from validator.features.table import write_features
from validator.splits import problem_folds
from validator.training import out_of_core
from validator.training.out_of_core import FeatureRows, train_out_of_core
from validator.types import FeatureMatrix

TREES: dict[str, Any] = {"n_estimators": 20, "colsample_bytree": 0.5, "random_state": 3}
LEARNED = learned_names(NAMES)


@pytest.fixture
def features(monkeypatch: pytest.MonkeyPatch) -> FeatureMatrix:
    """480 rows with gaps, read 100 at a time."""
    monkeypatch.setattr(out_of_core, "ROWS", 100)
    monkeypatch.setattr(os, "fsync", lambda _: None)
    made = synthetic(problems=120)
    made.values[np.random.default_rng(1).random(made.values.shape) < 0.05] = np.nan
    return made


@pytest.fixture
def path(features: FeatureMatrix, tmp_path: Path) -> Path:
    write_features(tmp_path / "f.parquet", features)
    return tmp_path / "f.parquet"


def in_memory(features: FeatureMatrix, rows: NDArray[np.int64], **more: Any) -> ValidityClassifier:
    model = ValidityClassifier("xgboost", **TREES, **more)
    return model.fit(features.select(LEARNED)[rows], features.labels[rows],
                     groups=features.problem_ids[rows])


def splits(model: ValidityClassifier) -> list[dict[str, Any]]:
    """Feature and threshold of each node, without the values of leaves and gains."""
    def bare(node: dict[str, Any]) -> dict[str, Any]:
        found = {k: node[k] for k in ("split", "split_condition", "missing") if k in node}
        return found | {"children": [bare(child) for child in node.get("children", ())]}

    return [bare(json.loads(tree)) for tree in model.head_.booster.get_dump(dump_format="json")]


@pytest.mark.parametrize("weight", [None, "balanced"])
def test_trees_are_those_of_the_matrix(
    features: FeatureMatrix, path: Path, weight: str | None, tmp_path: Path
) -> None:
    source, rows = FeatureRows(path), np.flatnonzero(np.arange(480) % 5 > 0)
    sizes = [len(piece) for piece in source.pieces(LEARNED, rows)]
    assert (sum(sizes), max(sizes)) == (rows.size, 80)
    found = fit_pieces(
        ValidityClassifier("xgboost", class_weight=weight, **TREES),
        lambda: source.pieces(LEARNED, rows), source.labels[rows], source.problem_ids[rows],
        cache=tmp_path)
    right = in_memory(features, rows, class_weight=weight)
    assert splits(found) == splits(right)
    values = features.select(LEARNED)
    np.testing.assert_allclose(
        found.decision_function(values), right.decision_function(values), atol=1e-5)
    assert (found.n_groups_, found.n_iter_) == (right.n_groups_, right.n_iter_)
    assert [p.name for p in tmp_path.iterdir()] == ["f.parquet"]


def test_judged_out_of_fold_and_saved(features: FeatureMatrix, path: Path, tmp_path: Path) -> None:
    done = train_out_of_core(path, ValidityClassifier("xgboost", **TREES), tmp_path / "a",
                             n_splits=3)
    margins, values = np.empty(480), features.select(LEARNED)
    for train, test in problem_folds(features.problem_ids, features.labels, 3, 0):
        margins[test] = in_memory(features, train).decision_function(values[test])
    np.testing.assert_allclose(done.margins, margins, atol=1e-5)
    rows = {r.key: r.auroc.estimate for r in done.comparison.rows}
    assert rows["validity"] == pytest.approx(roc_auc_score(features.labels, done.margins))
    assert set(rows) == {"validity", "completion_length", "mean_logprob"}
    artifact = load_artifact(tmp_path / "a")
    right = in_memory(features, np.arange(480))
    np.testing.assert_allclose(
        artifact.classifier.predict_proba(values), right.predict_proba(values), atol=1e-5)
    assert artifact.feature_names == LEARNED
    assert artifact.manifest["metadata"]["evaluation"]["rows"][0]["key"] == "validity"


def test_what_cannot_be_done_piece_by_piece_is_refused(path: Path, tmp_path: Path) -> None:
    for classifier, said in ((ValidityClassifier("logistic"), "only trees"),
                             (ValidityClassifier("xgboost", calibration="sigmoid", n_features=3),
                              "n_features, calibration: not possible")):
        with pytest.raises(ParameterError, match=said):
            train_out_of_core(path, classifier, tmp_path / "a")
    (tmp_path / "text").write_text("no")
    with pytest.raises(FeatureMismatchError, match="cannot read"):
        FeatureRows(tmp_path / "text")


def test_pieces_of_fewer_rows_than_labels_are_refused() -> None:
    X = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    with pytest.raises(ParameterError, match="the pieces have 20 rows, and there are 30 labels"):
        fit_pieces(ValidityClassifier("xgboost", **TREES), lambda: [X[:10], X[10:]],
                   np.arange(30) % 2, np.arange(30))


def test_unlabelled_traces_are_refused(features: FeatureMatrix, tmp_path: Path) -> None:
    traces = (dataclasses.replace(features.traces[0], label=None), *features.traces[1:])
    write_features(tmp_path / "u.parquet", dataclasses.replace(features, traces=traces))
    with pytest.raises(LabelError, match="1 of 480 traces"):
        FeatureRows(tmp_path / "u.parquet")
