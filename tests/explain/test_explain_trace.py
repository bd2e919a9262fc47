"""One trace explained: what it says is what features, classifier and model say."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

from validator import SpectralFeatureExtractor, Validator, ValidityClassifier
from validator.errors import LabelError, ParameterError, TraceError
from validator.explain.data import Explanation
from validator.explain.spectra import null_band, read_trace
from validator.explain.trace import explain_trace
from validator.families import learned_names
from validator.features.null import content_free_attention
from validator.types import FeatureMatrix, Trace

STEPPED = Trace("s", "ps", "Q: 3 and 4?\nA:", " 3 + 4 = 8.\n So é 8!", 0, ((0, 12), (12, 20)),
                (0, None))


@pytest.fixture(scope="module")
def features(tiny: Any) -> FeatureMatrix:
    many = [Trace(f"p{i}#{k}", f"p{i}", f"Q: {i}?\nA:", f" {i} and {k} make {i + k}.", (i + k) % 2)
            for i in range(8) for k in range(2)]
    return SpectralFeatureExtractor(tiny).fit_transform(many)


@pytest.fixture(scope="module")
def scorer(tiny: Any, features: FeatureMatrix) -> Validator:
    X = features.select(learned_names(features.names))
    trees = ValidityClassifier(kind="xgboost", n_estimators=12).fit(X, features.labels)
    margins = trees.decision_function(X).tolist()
    return Validator(SpectralFeatureExtractor(tiny), trees, calibration={
        "margins": margins, "labels": features.labels.tolist()})


@pytest.fixture(scope="module")
def found(scorer: Validator, features: FeatureMatrix) -> Explanation:
    return explain_trace(scorer, STEPPED, features, classifier="mine")


def test_contributions_add_up_to_the_margin(found: Explanation, scorer: Validator) -> None:
    parts = found.verdict.contributions
    assert parts is not None
    row = scorer.extractor.transform([STEPPED])
    assert scorer.classifier is not None
    X = row.select(learned_names(row.names))
    assert parts.margin == pytest.approx(float(scorer.classifier.margin(X)[0]), abs=1e-6)
    total = parts.bias + parts.rest + sum(c.contribution for c in parts.top)
    assert total == pytest.approx(parts.margin, abs=1e-5)
    for c in parts.top:
        assert c.value == pytest.approx(float(row.select([c.name])[0, 0]))


def test_the_score_is_that_of_the_scorer(found: Explanation, scorer: Validator) -> None:
    score = scorer.score([STEPPED])[0]
    assert (found.verdict.p_valid, found.verdict.interval) == (score.learned, score.interval)
    assert found.verdict.classifier == "mine"


@pytest.mark.parametrize("span", ["completion", "whole"])
def test_graphs_are_those_the_features_describe(tiny: Any, span: str) -> None:
    names = {"completion": "default", "whole": "full"}
    extractor = SpectralFeatureExtractor(tiny, feature_set=names[span])
    row = extractor.fit_transform([STEPPED])
    reading = read_trace(extractor, STEPPED, span)
    assert [g.layer for g in reading.graphs] == [0, 1, 2]
    for g in reading.graphs:
        column = f"fiedler_value__layer{g.layer}__head_mean__{span}"
        assert g.eigenvalues[1] == pytest.approx(float(row.select([column])[0, 0]), abs=1e-5)
        assert len(g.fiedler) == len(reading.tokens) == len(g.clusters)
    text = STEPPED.completion if span == "completion" else STEPPED.prompt + STEPPED.completion
    assert "".join(t.text for t in reading.tokens) == text
    logprob = float(row.select(["mean_logprob__baseline"])[0, 0])
    assert -reading.surprisal.mean() == pytest.approx(logprob, abs=1e-5)
    known = [t.surprisal for t in reading.tokens if t.surprisal is not None]
    np.testing.assert_allclose(known, reading.surprisal)


def test_the_null_is_of_as_many_tokens_and_heads(found: Explanation) -> None:
    graph = content_free_attention("recency", 14, 34, 4, 2).double()
    graph = (graph + graph.T) / 2
    root = 1 / graph.sum(1).sqrt()
    expected = torch.linalg.eigvalsh(torch.eye(20) - root[:, None] * graph * root)
    np.testing.assert_allclose(null_band(14, 34, 4, 3).eigenvalues[2], expected, atol=1e-6)
    assert found.null.eigenvalues.shape == (10, len(found.tokens))


def test_steps_have_their_own_log_probability(found: Explanation) -> None:
    first, second = found.steps
    assert (first.label, second.label, first.p_valid) == (0, None, None)
    assert first.text + second.text == STEPPED.completion
    surprisal = [t.surprisal or 0.0 for t in found.tokens]
    assert first.mean_logprob == pytest.approx(-np.mean(surprisal[: first.tokens]))
    assert first.tokens + second.tokens == found.lengths[1]


def test_a_classifier_of_steps_is_explained_at_the_worst_step(
    tiny: Any, features: FeatureMatrix
) -> None:
    X = features.select(learned_names(features.names))
    by_step = Validator(SpectralFeatureExtractor(tiny), ValidityClassifier(C=0.01).fit(
        X, features.labels))
    by_step.__class__ = type("OfSteps", (Validator,), {"of_steps": True})
    found = explain_trace(by_step, STEPPED, features)
    chances = [s.p_valid for s in found.steps]
    scores = by_step.score_features(by_step.extractor.transform_steps([STEPPED]))
    assert chances == [s.learned for s in scores]
    assert found.verdict.p_valid == min(s.learned for s in scores if s.learned is not None)
    assert found.verdict.contributions is not None
    assert found.verdict.contributions.of.startswith(f"step {int(np.argmin(chances)) + 1},")
    beside = explain_trace(Validator(SpectralFeatureExtractor(tiny)), STEPPED, features,
                           step_scorer=by_step)
    assert [s.p_valid for s in beside.steps] == chances
    assert beside.verdict.p_valid is None


def test_without_a_classifier_or_exact_contributions_it_says_so(
    tiny: Any, features: FeatureMatrix
) -> None:
    bare = explain_trace(Validator(SpectralFeatureExtractor(tiny)), STEPPED, features)
    assert bare.verdict.no_contributions == "no classifier was given"
    X = features.select(learned_names(features.names))
    network = ValidityClassifier(kind="mlp", max_iter=2000, n_components=2).fit(X, features.labels)
    found = explain_trace(Validator(SpectralFeatureExtractor(tiny), network), STEPPED, features)
    assert found.verdict.contributions is None
    assert "no exact contributions" in found.verdict.no_contributions
    assert found.verdict.p_valid is not None


def test_notes_name_another_length_and_another_kind(
    scorer: Validator, features: FeatureMatrix
) -> None:
    long = Trace("l", "pl", "Q: 1?\nA:", " zzzz" * 30, None)
    notes = explain_trace(scorer, long, features).notes
    assert any("150 tokens" in n and "length alone" in n for n in notes)
    assert any("another kind than the reference" in n for n in notes)
    only_valid = features.take([i for i, t in enumerate(features.traces) if t.label == 1])
    found = explain_trace(scorer, features.traces[0], only_valid)
    assert any("no invalid traces" in n for n in found.notes)
    assert found.neighbours[0] == ()
    json.dumps(found.to_json(), allow_nan=False)


def test_json_has_no_nan_and_names_what_the_page_shows(found: Explanation) -> None:
    told = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert [row["layer"] for row in told["layers"]] == [0, 1, 2]
    assert told["contributions"]["margin"] == found.verdict.contributions.margin  # type: ignore[union-attr]
    assert len(told["tokens"]) == len(found.tokens)
    assert told["reference"] == {"name": "the features given", "valid": 8, "invalid": 8}


def test_what_cannot_be_explained_is_refused(scorer: Validator, features: FeatureMatrix) -> None:
    with pytest.raises(TraceError, match="2 tokens cannot be drawn"):
        explain_trace(scorer, Trace("a", "a", "Q", "ab"), features)
    with pytest.raises(ParameterError, match="completion or whole"):
        explain_trace(scorer, STEPPED, features, span="prompt")
    with pytest.raises(ParameterError, match="neighbours"):
        explain_trace(scorer, STEPPED, features, neighbours=0)
    with pytest.raises(LabelError, match="labelled valid"):
        explain_trace(scorer, STEPPED, features.take([0, 1]))
