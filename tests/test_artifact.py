"""A saved classifier comes back bit for bit, or not at all."""

import dataclasses
import hashlib
import json
import os

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError

import validator.classifier.folder as folder_module
from validator.classifier import Artifact, ValidityClassifier, load_artifact, save_artifact
from validator.errors import ArtifactError, FeatureMismatchError
from validator.types import Provenance

PROVENANCE = Provenance(model="tiny", revision="abc", feature_set="standard", feature_version=1)
F = 12
NAMES = [f"feature{i}" for i in range(F)]
VARIANTS = {
    "logistic": {"class_weight": {0: 1.0, 1: 2.5}},
    "xgboost": {"kind": "xgboost", "n_estimators": 20},
    "mlp": {"kind": "mlp", "hidden_layer_sizes": (5, 3), "n_components": 4},
    "sigmoid": {"calibration": "sigmoid", "n_features": 5},
    "isotonic": {"kind": "xgboost", "calibration": "isotonic", "calibration_folds": 3,
                 "n_estimators": 20, "early_stopping_rounds": 4, "n_features": 5},
    "calibrated mlp": {"kind": "mlp", "hidden_layer_sizes": (4,), "calibration": "isotonic"},
}


def fitted(variant="logistic", n=60, **parameters):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, F))
    y = (X[:, 0] + X[:, 1] + 0.7 * rng.normal(size=n) > 0).astype(int)
    X *= 10.0 ** rng.integers(-8, 8, F)
    X[rng.random(X.shape) < 0.05] = np.nan
    model = ValidityClassifier(**{**VARIANTS[variant], **parameters})
    return model.fit(X, y, groups=np.arange(n) // 2), X


@pytest.fixture
def saved(tmp_path):
    model, X = fitted()
    save_artifact(tmp_path / "run", model, PROVENANCE, NAMES, {"auroc": 0.1 + 0.2})
    return tmp_path / "run", model, X


@pytest.mark.parametrize("kind", VARIANTS)
def test_predictions_are_bit_equal_after_loading(kind, tmp_path):
    model, X = fitted(kind)
    save_artifact(tmp_path / "run", model, PROVENANCE, NAMES)
    artifact = load_artifact(tmp_path / "run", expect=PROVENANCE)
    assert isinstance(artifact, Artifact)
    for method in ("margin", "decision_function", "predict_proba", "predict"):
        for rows in (X, X[:1], X[7:20]):
            expected = getattr(model, method)(rows)
            assert np.array_equal(getattr(artifact.classifier, method)(rows), expected)
    assert artifact.classifier.get_params() == model.get_params()
    assert (artifact.provenance, artifact.feature_names) == (PROVENANCE, tuple(NAMES))
    for name in ("classes_", "n_iter_", "n_groups_", "n_features_in_", "columns_"):
        assert np.array_equal(getattr(artifact.classifier, name), getattr(model, name))


@pytest.mark.parametrize("kind", VARIANTS)
def test_the_same_seed_writes_the_same_bytes_and_so_does_saving_what_was_loaded(kind, tmp_path):
    folders = [tmp_path / name for name in ("first", "second", "third")]
    for path in folders[:2]:
        save_artifact(path, fitted(kind)[0], PROVENANCE, NAMES, {"note": "é"})
    loaded = load_artifact(folders[0])
    save_artifact(folders[2], loaded.classifier, loaded.provenance, loaded.feature_names,
                  loaded.manifest["metadata"])
    for name in ("model.json", "manifest.json"):
        assert len({(path / name).read_bytes() for path in folders}) == 1


def test_a_classifier_without_selection_and_calibration_is_written_as_before_there_were_any(saved):
    path, model, X = saved
    state = json.loads((path / "model.json").read_text())
    assert sorted(state) == ["classes", "design", "feature_names_in", "head", "n_features_in",
                             "n_groups", "n_iter", "parameters"]
    for name in ("n_features", "calibration", "calibration_folds", "early_stopping_rounds"):
        del state["parameters"][name]
    old = json.dumps(state).encode()
    (path / "model.json").write_bytes(old)
    rewritten(path, model_sha256=hashlib.sha256(old).hexdigest())
    back = load_artifact(path).classifier
    assert np.array_equal(back.decision_function(X), model.decision_function(X))


def test_the_manifest_says_where_the_classifier_came_from(saved):
    path, _, _ = saved
    manifest = json.loads((path / "manifest.json").read_text())
    assert manifest["provenance"] == dataclasses.asdict(PROVENANCE)
    assert manifest["feature_names"] == NAMES
    assert manifest["metadata"] == {"auroc": 0.30000000000000004}
    assert manifest["seed"] == 0
    assert manifest["n_groups"] == 30
    assert manifest["packages"]["numpy"] == np.__version__
    digest = hashlib.sha256((path / "model.json").read_bytes()).hexdigest()
    assert manifest["model_sha256"] == digest


def test_column_names_seen_at_fit_come_back(tmp_path):
    pandas = pytest.importorskip("pandas")
    _, X = fitted()
    frame = pandas.DataFrame(X, columns=NAMES)
    model = ValidityClassifier().fit(frame, np.arange(60) % 2)
    save_artifact(tmp_path / "run", model, PROVENANCE, NAMES)
    back = load_artifact(tmp_path / "run").classifier
    assert np.array_equal(back.predict_proba(frame), model.predict_proba(frame))
    with pytest.raises(ValueError, match="feature names should match"):
        back.predict(frame[NAMES[::-1]])


def test_other_features_are_refused(saved):
    path, model, _ = saved
    for change in ({"revision": "def"}, {"feature_version": 2}, {"solver": "lanczos"}):
        expected = dataclasses.replace(PROVENANCE, **change)
        with pytest.raises(FeatureMismatchError, match=next(iter(change))):
            load_artifact(path, expect=expected)
    with pytest.raises(FeatureMismatchError, match="12 distinct feature names, got 11"):
        save_artifact(path, model, PROVENANCE, NAMES[:-1])
    with pytest.raises(FeatureMismatchError, match="11 are distinct"):
        save_artifact(path, model, PROVENANCE, [*NAMES[:-1], NAMES[0]])


@pytest.mark.parametrize("kind", VARIANTS)
@pytest.mark.parametrize("name", ["model.json", "manifest.json"])
def test_no_corruption_is_accepted_and_none_crashes(kind, name, tmp_path):
    save_artifact(tmp_path / "run", fitted(kind)[0], PROVENANCE, NAMES, {"runs": [1, 2.5]})
    path, rng = tmp_path / "run" / name, np.random.default_rng(0)
    good = path.read_bytes()
    for _ in range(150):
        path.write_bytes(corrupt(good, rng))
        with pytest.raises(ArtifactError):
            load_artifact(tmp_path / "run")
    path.write_bytes(good)
    load_artifact(tmp_path / "run")


def corrupt(good, rng):
    """A changed, inserted, deleted or truncated stretch; never the same bytes."""
    at, length = int(rng.integers(len(good))), int(rng.integers(1, 9))
    noise = rng.bytes(length) if rng.random() < 0.5 else b" " * length
    bad = [
        good[:at] + noise + good[at + length:],
        good[:at] + noise + good[at:],
        good[:at] + good[at + length:],
        good[:at],
    ][int(rng.integers(4))]
    return bad if bad != good else good + b"\n"


@pytest.mark.parametrize("name", ["model.json", "manifest.json"])
def test_reformatting_that_keeps_the_content_is_still_a_change(name, saved):
    path = saved[0] / name
    path.write_text(json.dumps(json.loads(path.read_text()), indent=4, sort_keys=True))
    with pytest.raises(ArtifactError, match="damaged"):
        load_artifact(saved[0])


def test_the_model_is_not_parsed_before_its_hash_is_checked(saved, monkeypatch):
    (saved[0] / "model.json").write_bytes(b"{}")
    monkeypatch.setattr("validator.classifier.artifact.decode_classifier", pytest.fail)
    with pytest.raises(ArtifactError, match=r"model\.json is damaged"):
        load_artifact(saved[0])


def rewritten(path, **changes):
    """The manifest with ``changes`` and a hash that fits them."""
    manifest = json.loads((path / "manifest.json").read_text()) | changes
    del manifest["sha256"]
    render = lambda value: json.dumps(value, indent=1, sort_keys=True).encode() + b"\n"  # noqa: E731
    manifest["sha256"] = hashlib.sha256(render(manifest)).hexdigest()
    (path / "manifest.json").write_bytes(render(manifest))


def test_newer_foreign_incomplete_and_missing_folders_say_what_to_do(saved, tmp_path):
    path = saved[0]
    rewritten(path)
    load_artifact(path)  # the helper writes a manifest that is accepted
    rewritten(path, format_version=2)
    with pytest.raises(ArtifactError, match=r"format version 2.*install"):
        load_artifact(path)
    rewritten(path, format_version=1, provenance={"model": "tiny"})
    with pytest.raises(ArtifactError, match="which features"):
        load_artifact(path)
    rewritten(path, format="a cookbook")
    with pytest.raises(ArtifactError, match="not the manifest of a"):
        load_artifact(path)
    with pytest.raises(ArtifactError, match=r"cannot read .*nowhere"):
        load_artifact(tmp_path / "nowhere")
    (path / "manifest.json").unlink()
    with pytest.raises(ArtifactError, match="cannot read"):
        load_artifact(path)


@pytest.mark.parametrize("change", [
    {"head": 1}, {"head": {}}, {"parameters": []}, {"parameters": {"kernel": "rbf"}},
    {"parameters": {"n_jobs": -7}}, {"design": {"gaps": [10**400]}}, {"calibrator": {"margins": 1}},
    {"head": {"coef": {"shape": [3], "data": [1, 2]}, "intercept": 0}}, {"head": {"booster": "{"}},
])
def test_a_model_of_another_shape_with_a_fitting_hash_is_refused(change, saved):
    path = saved[0]
    model = json.dumps(json.loads((path / "model.json").read_text()) | change).encode()
    (path / "model.json").write_bytes(model)
    rewritten(path, model_sha256=hashlib.sha256(model).hexdigest())
    with pytest.raises(ArtifactError, match="train again"):
        load_artifact(path)


def test_saving_replaces_ours_and_nothing_else(saved, tmp_path):
    path, _, X = saved
    other, _ = fitted("xgboost")
    save_artifact(path, other, PROVENANCE, NAMES)
    assert np.array_equal(load_artifact(path).classifier.predict(X), other.predict(X))
    assert [entry.name for entry in tmp_path.iterdir()] == ["run"]

    (path / "notes.txt").write_text("mine")
    with pytest.raises(ArtifactError, match="will not be overwritten"):
        save_artifact(path, other, PROVENANCE, NAMES)
    assert (path / "notes.txt").read_text() == "mine"

    (tmp_path / "file").write_text("mine")
    with pytest.raises(ArtifactError, match="no folder"):
        save_artifact(tmp_path / "file", other, PROVENANCE, NAMES)
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "manifest.json").write_text('{"format": "a cookbook"}')
    with pytest.raises(ArtifactError, match="will not be overwritten"):
        save_artifact(tmp_path / "foreign", other, PROVENANCE, NAMES)
    (tmp_path / "empty").mkdir()
    save_artifact(tmp_path / "empty", other, PROVENANCE, NAMES)
    save_artifact(tmp_path / "new" / "deep", other, PROVENANCE, NAMES)
    load_artifact(tmp_path / "new" / "deep")


@pytest.mark.parametrize("failing", [1, 2])
def test_a_failed_write_leaves_what_was_there(failing, saved, monkeypatch):
    path, model, X = saved
    calls, real = [], os.replace

    def replace(source, target):
        calls.append(source)
        if len(calls) == failing:
            raise OSError(28, "No space left on device")
        real(source, target)

    monkeypatch.setattr(folder_module.os, "replace", replace)
    with pytest.raises(ArtifactError, match="No space left"):
        save_artifact(path, fitted("xgboost")[0], PROVENANCE, NAMES)
    assert np.array_equal(load_artifact(path).classifier.predict_proba(X), model.predict_proba(X))
    assert [entry.name for entry in path.parent.iterdir()] == ["run"]


def test_what_json_cannot_hold_is_refused(tmp_path):
    model, _ = fitted()
    for bad in ({"x": float("nan")}, {"x": object()}, {1: "a"}, {"x": (1, 2)}):
        with pytest.raises(ArtifactError, match="metadata"):
            save_artifact(tmp_path / "run", model, PROVENANCE, NAMES, bad)
    unseeded, _ = fitted(random_state=np.random.RandomState(0))
    with pytest.raises(ArtifactError, match="random_state"):
        save_artifact(tmp_path / "run", unseeded, PROVENANCE, NAMES)
    with pytest.raises(NotFittedError):
        save_artifact(tmp_path / "run", ValidityClassifier(), PROVENANCE, NAMES)
    assert not list(tmp_path.iterdir())
