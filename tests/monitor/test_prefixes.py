"""Prefixes offline, a classifier of them, and the same numbers while a model writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from decoding_models import PROMPT, make_pair, write
from torch import Tensor

from validator.classifier import ValidityClassifier, load_artifact
from validator.errors import FeatureMismatchError, ParameterError
from validator.features.extractor import SpectralFeatureExtractor
from validator.plugins.monitor import (
    Anomaly,
    PrefixFit,
    StepSeen,
    TokenSeen,
    ValidityMonitor,
    fit_prefix_classifier,
    prefixes_auroc,
)
from validator.types import FeatureMatrix, Trace

CUTS = (4, 8)


def traces(count: int = 60) -> list[Trace]:
    """Two answers to each problem; a valid one repeats a letter, an invalid one does not."""
    rng = np.random.default_rng(0)
    letters = np.array(list("abcdefghij"))
    found = []
    for i in range(count):
        label = i % 2
        text = "".join(rng.choice(letters[:2] if label else letters, 6 + i % 7))
        found.append(Trace(f"t{i}", f"p{i // 2}", f"{PROMPT} {i // 2}", text, label))
    return found


@pytest.fixture(scope="module")
def features(llama: tuple[Any, Any]) -> FeatureMatrix:
    extractor = SpectralFeatureExtractor(llama, feature_set="monitor").fit()
    return extractor.transform_prefixes(traces(), CUTS)


@pytest.fixture(scope="module")
def fitted(features: FeatureMatrix, tmp_path_factory: pytest.TempPathFactory) -> PrefixFit:
    folder = tmp_path_factory.mktemp("prefix") / "artifact"
    return fit_prefix_classifier(
        features, folder, classifier=ValidityClassifier("logistic"), n_splits=3)


@pytest.mark.parametrize("kind", ["llama", "gemma3_text"])
@pytest.mark.parametrize("feature_set", ["monitor", "default"])
def test_rows_of_prefixes_are_those_of_traces_cut_there(kind: str, feature_set: str) -> None:
    extractor = SpectralFeatureExtractor(make_pair(kind), feature_set=feature_set).fit()
    own = traces(6)
    found = extractor.transform_prefixes(own, CUTS)
    rows = [(t, k) for t in own for k in (*(c for c in CUTS if c < len(t.completion)), None)]
    assert list(found.trace_ids) == [t.id if k is None else f"{t.id}#token{k}" for t, k in rows]
    cut = [Trace(f"{t.id}-{k}", t.problem_id, t.prompt, t.completion[:k]) for t, k in rows]
    alone = extractor.transform(cut)
    assert found.names == alone.names
    assert found.lengths.tolist() == alone.lengths.tolist()
    assert [t.completion for t in found.traces] == [t.completion for t in alone.traces]
    assert found.labels.tolist() == [t.label for t, _ in rows]
    gap = np.abs(found.values - alone.values) / np.maximum(1, np.abs(alone.values))
    assert np.nanmax(gap) < 1e-5


def test_prefixes_are_stored_as_the_traces_that_they_are(
    llama: tuple[Any, Any], tmp_path: Path
) -> None:
    extractor = SpectralFeatureExtractor(llama, feature_set="monitor", store=tmp_path).fit()
    first = extractor.transform_prefixes(traces(4), CUTS)
    assert extractor.forward_passes_ > 0
    again = extractor.transform_prefixes(traces(4), CUTS)
    assert extractor.forward_passes_ == 0
    assert (again.values == first.values).all()
    with pytest.raises(ParameterError, match="ascending"):
        extractor.transform_prefixes(traces(4), (8, 4))


def test_the_judgement_is_out_of_fold_and_among_answers_that_go_on(
    fitted: PrefixFit, features: FeatureMatrix
) -> None:
    """AUROC recomputed by counting pairs."""
    assert np.isfinite(fitted.margins).all()
    assert set(fitted.auroc) == {4}  # of 8 tokens there are too few of either label
    rows = [i for i, name in enumerate(features.trace_ids) if name.endswith("#token4")]
    y, m = features.labels[rows], fitted.margins[rows]
    pairs = m[y == 1][:, None] - m[y == 0][None]
    expected = ((pairs > 0) + 0.5 * (pairs == 0)).mean()
    assert fitted.auroc[4]["learned"].estimate == pytest.approx(expected)
    assert fitted.auroc[4]["learned"].estimate > 0.8  # letters that repeat are seen
    noise = np.random.default_rng(1).normal(size=len(features))
    assert prefixes_auroc(features, noise)[4]["learned"].estimate == pytest.approx(0.5, abs=0.25)


def test_the_artifact_says_what_it_is(fitted: PrefixFit, features: FeatureMatrix) -> None:
    artifact = load_artifact(fitted.artifact)
    metadata = artifact.manifest["metadata"]
    assert metadata["rows"] == "prefixes"
    assert metadata["training_problems"] == sorted({t.problem_id for t in traces()})
    assert artifact.provenance.feature_set == "monitor"
    assert sorted(p.name for p in fitted.artifact.iterdir()) == ["manifest.json", "model.json"]


def test_features_of_whole_traces_are_refused(llama: tuple[Any, Any], tmp_path: Path) -> None:
    extractor = SpectralFeatureExtractor(llama, feature_set="monitor").fit()
    with pytest.raises(FeatureMismatchError, match="transform_prefixes"):
        fit_prefix_classifier(extractor.transform(traces(8)), tmp_path / "a")


def test_scores_while_writing_are_those_of_the_classifier_offline(
    llama: tuple[Any, Any], prompt_ids: Tensor, fitted: PrefixFit
) -> None:
    seen: list[TokenSeen] = []
    monitor = ValidityMonitor(llama, artifact=fitted.artifact, min_tokens=3, score_every=2,
                              on_token=seen.append)
    with monitor.attached():
        out = write(llama[0], prompt_ids, monitor)
        monitor.finish()
    text = llama[1].decode(out[0, prompt_ids.shape[1] :])
    extractor = SpectralFeatureExtractor(llama, feature_set="monitor").fit()
    theirs = extractor.transform_prefixes(
        [Trace("a", "a", PROMPT, text)], list(range(1, 24)))
    artifact = load_artifact(fitted.artifact)
    expected = artifact.classifier.predict_proba(theirs.select(artifact.feature_names))[:, 1]
    assert [t.score is None for t in seen] == [k < 3 or k % 2 == 0 for k in range(1, 25)]
    for token in seen[2::2]:
        assert token.score == pytest.approx(expected[token.index], abs=1e-4)
    assert monitor.sequences_[0].scores == {t.index + 1: t.score for t in seen[2::2]}


def test_artifacts_of_whole_traces_and_of_other_models_are_refused(
    llama: tuple[Any, Any], fitted: PrefixFit, tmp_path: Path
) -> None:
    from validator.scoring import Validator

    extractor = SpectralFeatureExtractor(llama, feature_set="monitor")
    whole = extractor.fit_transform(traces(20))
    classifier = ValidityClassifier().fit(whole.values, whole.labels)
    Validator(extractor, classifier).save(tmp_path / "whole")
    with pytest.raises(FeatureMismatchError, match="trained on traces, not on prefixes"):
        ValidityMonitor(llama, artifact=tmp_path / "whole").prepare()
    with pytest.raises(FeatureMismatchError, match="this artifact's model"):
        ValidityMonitor(make_pair("gpt2"), artifact=fitted.artifact).prepare()
    with pytest.raises(ParameterError, match="not both"):
        ValidityMonitor(llama, artifact=fitted.artifact, score="mean_logprob").prepare()


@pytest.mark.parametrize("stop", [False, True])
def test_an_anomaly_is_told_once_and_stops_the_sequence_where_asked(
    stop: bool, llama: tuple[Any, Any], prompt_ids: Tensor
) -> None:
    found: list[Anomaly] = []
    monitor = ValidityMonitor(llama, score="mean_logprob", anomaly_below=0.0, min_tokens=5,
                              stop_on_anomaly=stop, on_anomaly=found.append)
    with monitor.attached():
        out = write(llama[0], prompt_ids, monitor)
    assert [a.index for a in found] == [4]
    assert found[0].stopped is stop
    assert found[0].score == pytest.approx(found[0].baselines["mean_logprob"])
    assert found[0].baselines["completion_length"] == 5
    # The token after the fifth had been drawn when the fifth one's row was there.
    assert out.shape[1] - prompt_ids.shape[1] == (6 if stop else 24)
    plain = write(llama[0], prompt_ids)
    assert torch.equal(out, plain[:, : out.shape[1]])


def test_steps_end_at_the_ends_of_lines(llama: tuple[Any, Any], prompt_ids: Tensor) -> None:
    steps: list[StepSeen] = []
    monitor = ValidityMonitor(llama, score="mean_logprob", on_step=steps.append, step_end="a",
                              min_tokens=1)
    model, tokenizer = llama
    allowed = [tokenizer.get_vocab()[c] for c in "ab"]
    suppressed = [i for i in range(300) if i not in allowed]
    with monitor.attached():
        out = write(model, prompt_ids, monitor, suppress_tokens=suppressed)
        monitor.finish()
    text = tokenizer.decode(out[0, prompt_ids.shape[1] :])
    parts = text.split("a")[:-1]
    assert [s.text for s in steps] == [p for p in parts if p]
    assert [s.number for s in steps] == list(range(len(steps)))
    assert all(s.score is not None for s in steps)
    ends = [i for i, c in enumerate(text) if c == "a"]
    assert [s.last for s in steps] == [e for e, p in zip(ends, parts, strict=True) if p]
