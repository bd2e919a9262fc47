"""Extractor and classifier as one: scores, saving, and what is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from validator import SpectralFeatureExtractor, ValidityClassifier
from validator.classifier.venn_abers import merged_probability, venn_abers
from validator.errors import ArtifactError, FeatureMismatchError, TraceError
from validator.families import learned_names
from validator.scoring import Validator, shipped_artifact
from validator.training.fit import train
from validator.types import FeatureMatrix, Trace


@pytest.fixture
def fitted(
    tiny: Any, traces: list[Trace]
) -> tuple[SpectralFeatureExtractor, FeatureMatrix, ValidityClassifier]:
    extractor = SpectralFeatureExtractor(tiny)
    features = extractor.fit_transform(traces)
    X = features.select(learned_names(features.names))
    return extractor, features, ValidityClassifier(C=0.01).fit(X, features.labels)


def test_scores_are_those_of_the_classifier_and_keep_the_order(
    fitted: Any, traces: list[Trace]
) -> None:
    extractor, features, classifier = fitted
    found = Validator(extractor, classifier).score(traces[::-1])
    X = features.select(learned_names(features.names))
    assert [s.trace_id for s in found] == [t.id for t in traces[::-1]]
    np.testing.assert_allclose(
        [s.learned for s in found], classifier.predict_proba(X)[::-1, 1], atol=1e-6)
    for score, row in zip(found, features.values[::-1], strict=True):
        logprob = row[features.names.index("mean_logprob__baseline")]
        assert score.unsupervised["mean_logprob"] == pytest.approx(logprob, abs=1e-5)
        assert score.interval is None


def test_a_classifier_on_all_columns_is_recognised_and_another_refused(
    fitted: Any, traces: list[Trace]
) -> None:
    extractor, features, _ = fitted
    everything = ValidityClassifier(C=0.01).fit(features.values, features.labels)
    found = Validator(extractor, everything).score(traces)
    np.testing.assert_allclose(
        [s.learned for s in found], everything.predict_proba(features.values)[:, 1], atol=1e-6)
    odd = ValidityClassifier(C=0.01).fit(features.values[:, :7], features.labels)
    with pytest.raises(FeatureMismatchError, match="7 columns"):
        Validator(extractor, odd).score(traces)


def test_label_free_alone(tiny: Any, traces: list[Trace]) -> None:
    found = Validator(SpectralFeatureExtractor(tiny)).score(traces)
    assert all(s.learned is None and s.interval is None for s in found)
    assert all("mean_logprob" in s.unsupervised for s in found)


def test_saved_and_loaded_it_scores_the_same(
    fitted: Any, traces: list[Trace], tiny: Any, tmp_path: Path
) -> None:
    extractor, _, classifier = fitted
    margins, labels = [-1.0, 0.0, 1.0, 2.0], [0, 0, 1, 1]
    before = Validator(extractor, classifier,
                       calibration={"margins": margins, "labels": labels})
    before.save(tmp_path / "v", {"command": "x"})
    after = Validator.load(tmp_path / "v", model=tiny)
    expected, found = before.score(traces), after.score(traces)
    assert found == expected
    bounds = venn_abers(margins, labels, classifier.decision_function(
        extractor.transform(traces).select(learned_names(extractor.feature_names_))))
    np.testing.assert_allclose([s.interval for s in found], bounds, atol=1e-9)
    np.testing.assert_allclose([s.learned for s in found], merged_probability(bounds), atol=1e-9)


def test_an_artifact_of_train_has_bounds_and_needs_no_hidden_states(
    tiny: Any, tmp_path: Path
) -> None:
    many = [Trace(f"p{i}#{k}", f"p{i}", f"Q: {i}?\nA:", f" {i} and {k} make {i + k}.", (i + k) % 2)
            for i in range(8) for k in range(2)]
    probed = SpectralFeatureExtractor(tiny, feature_set="default+probe").fit_transform(many)
    train(probed, ValidityClassifier(C=0.01), tmp_path / "a", n_splits=2)
    scorer = Validator.load(tmp_path / "a", model=tiny)
    assert scorer.extractor.feature_set == "default"
    for score in scorer.score(many[:3]):
        assert score.interval is not None
        assert score.learned is not None
        assert 0 <= score.interval[0] <= score.learned <= score.interval[1] <= 1


def test_a_classifier_of_steps_says_p_valid_of_each(tiny: Any, tmp_path: Path) -> None:
    text = " 1 + 1 = 2. So 2 it is."
    stepped = [Trace(f"s{i}", f"p{i}", f"Q: {i}?\nA:", text + "." * i, 1,
                     steps=((0, 11), (11, len(text))), step_labels=(1, i % 2)) for i in range(4)]
    extractor = SpectralFeatureExtractor(tiny)
    features = extractor.fit(None).transform_steps(stepped)
    X = features.select(learned_names(features.names))
    classifier = ValidityClassifier(C=0.01).fit(X, features.labels)
    Validator(extractor, classifier).save(tmp_path / "v", {"rows": "steps"})
    found = Validator.load(tmp_path / "v", model=tiny)
    chances = classifier.predict_proba(X)[:, 1].reshape(4, 2)
    for score, own in zip(found.score(stepped), chances, strict=True):
        np.testing.assert_allclose(score.steps, own, atol=1e-6)
        assert score.learned == min(score.steps)
        assert "mean_logprob" in score.unsupervised
    with pytest.raises(TraceError, match="no steps"):
        found.score([Trace("x", "p", "Q: 1?\nA:", " 1 is it.")])


def test_another_model_is_refused_before_a_trace_is_read(
    fitted: Any, traces: list[Trace], make_tiny: Any, tiny: Any, tmp_path: Path
) -> None:
    extractor, _, classifier = fitted
    Validator(extractor, classifier).save(tmp_path / "v")
    other = make_tiny("llama", hidden_size=64)
    with pytest.raises(FeatureMismatchError, match="revision"):
        Validator.load(tmp_path / "v", model=(other, tiny[1])).score(traces)
    with pytest.raises(FeatureMismatchError, match="feature_set"):
        Validator.load(tmp_path / "v", model=tiny, feature_set="fast").score(traces)


def test_what_cannot_be_saved(fitted: Any, tiny: Any, tmp_path: Path) -> None:
    extractor, _, classifier = fitted
    with pytest.raises(ArtifactError, match="without a classifier"):
        Validator(extractor).save(tmp_path / "v")
    with pytest.raises(ArtifactError, match="not read a trace"):
        Validator(SpectralFeatureExtractor(tiny), classifier).save(tmp_path / "v")


def test_undefined_features_have_their_reason(fitted: Any) -> None:
    extractor, _, classifier = fitted
    short = Trace("short", "p", "Q: 1 + 1?\nA:", " 2")
    score = Validator(extractor, classifier).score([short])[0]
    assert score.nan_reason is not None
    assert score.learned is not None


def test_no_artifact_ships_for_an_unknown_model_or_a_folder(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{}")  # as in a folder of converted weights
    for model in ("no-such-model", str(tmp_path), "..", "../artifacts/smollm2-135m-instruct", ""):
        assert shipped_artifact(model) is None
    assert shipped_artifact("smollm2-135m-instruct") is not None


def test_an_artifact_of_one_s_own_set_asks_for_its_file(
    tiny: Any, traces: list[Trace], tmp_path: Path
) -> None:
    source = tmp_path / "mine.yaml"
    source.write_text("heads:\n  spans: [completion]\n", encoding="utf-8")
    extractor = SpectralFeatureExtractor(tiny, feature_set=source)
    features = extractor.fit_transform(traces)
    X = features.select(learned_names(features.names))
    classifier = ValidityClassifier(C=0.01).fit(X, features.labels)
    Validator(extractor, classifier).save(tmp_path / "v")
    with pytest.raises(FeatureMismatchError, match="YAML file"):
        Validator.load(tmp_path / "v", model=tiny)
    found = Validator.load(tmp_path / "v", model=tiny, feature_set=source).score(traces)
    assert len(found) == len(traces)


def test_scores_are_plain_values(fitted: Any, traces: list[Trace]) -> None:
    extractor, _, classifier = fitted
    values = dataclasses.asdict(Validator(extractor, classifier).score(traces)[0])
    assert type(values["learned"]) is float
    assert all(type(v) is float for v in values["unsupervised"].values())
