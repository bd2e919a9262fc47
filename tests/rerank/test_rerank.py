"""Reranking: a stream of candidates, each scored as it would be alone, none dropped."""

from __future__ import annotations

import gc
import json
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from tiny_models import byte_tokenizer, tiny_model

from validator import SpectralFeatureExtractor, ValidityClassifier
from validator.errors import (
    FeatureMismatchError,
    ModelError,
    ParameterError,
    TraceError,
)
from validator.families import learned_names
from validator.plugins.rerank import Reranker, prompt_candidates, rerank
from validator.scoring import Validator
from validator.types import Trace, ValidityScore

PROMPT = "Q: There are 3 pens and 4 more come. How many?\nA:"
TEXTS = [" 3 + 4 = 7. The answer is 7.", " 4 - 3 = 1. The answer is 1.", " The answer is 7.",
         " I do not know", " 12", " 3 * 4 = 12. The answer is 12."]


@pytest.fixture(scope="module")
def validator() -> Validator:
    extractor = SpectralFeatureExtractor((tiny_model(), byte_tokenizer()), feature_set="fast")
    traces = [Trace(f"t{i}", f"p{i // 2}", PROMPT, f" {i} + {i} = {i * (1 + i % 2)}.", i % 2)
              for i in range(16)]
    features = extractor.fit_transform(traces)
    X = features.select(learned_names(features.names))
    return Validator(extractor, ValidityClassifier("logistic", C=0.1).fit(X, features.labels))


class Counted(Validator):
    """Scores by text, and knows how many traces are alive."""

    def __init__(self, extractor: Any) -> None:
        super().__init__(extractor, ValidityClassifier())
        self.alive: weakref.WeakSet[Any] = weakref.WeakSet()
        self.most = 0

    def prepare(self) -> Validator:
        return self

    def score_each(
        self, traces: Sequence[Trace], **_: Any
    ) -> tuple[dict[str, ValidityScore], dict[str, str]]:
        return {t.id: ValidityScore(t.id, {}, float(t.completion) / 1000) for t in traces}, {}


def test_scores_are_those_of_each_candidate_alone(validator: Validator) -> None:
    found = rerank(PROMPT, TEXTS, validator=validator)
    alone = [validator.score([t])[0] for t in prompt_candidates(PROMPT, TEXTS)]
    np.testing.assert_allclose(
        [c.score for c in found.candidates], [s.learned for s in alone], atol=1e-5)
    best = int(np.argmax([s.margin for s in alone]))
    assert found.completion == TEXTS[best]
    assert found.chosen.id == f"prompt#{best}"
    assert [c.answer for c in found.candidates] == ["7", "1", "7", None, None, "12"]
    for own, other in zip(found.candidates, alone, strict=True):
        assert own.scores["mean_logprob"] == pytest.approx(
            other.unsupervised["mean_logprob"], abs=1e-5)


@pytest.mark.parametrize("batch", [1, 2, 3, 100])
def test_batches_do_not_change_what_is_chosen(validator: Validator, batch: int) -> None:
    traces = [t for p in range(4) for t in prompt_candidates(f"{p} {PROMPT}", TEXTS[p:], f"p{p}")]
    whole = [r.to_json() for r in Reranker(validator, "weighted").stream(traces)]
    parts = [r.to_json() for r in Reranker(validator, "weighted", batch=batch).stream(traces)]
    assert [r["id"] for r in parts] == [r["id"] for r in whole]
    assert [r["problem_id"] for r in parts] == ["p0", "p1", "p2", "p3"]
    assert [len(r["candidates"]) for r in parts] == [6, 5, 4, 3]
    json.dumps(parts, allow_nan=False)


def test_problems_come_out_before_later_ones_are_read(validator: Validator) -> None:
    taken: list[str] = []

    def source() -> Iterator[Trace]:
        for p in range(5):
            for trace in prompt_candidates(PROMPT, TEXTS[:2], f"p{p}"):
                taken.append(trace.id)
                yield trace

    stream = Reranker(validator, batch=2).stream(source())
    assert next(stream).problem_id == "p0"
    assert taken == ["p0#0", "p0#1", "p1#0", "p1#1"]


def test_a_thousand_candidates_of_one_prompt_are_never_held_together() -> None:
    counted = Counted(SpectralFeatureExtractor((tiny_model(), byte_tokenizer())))

    class Text(str):
        """A text that can be followed."""

        __slots__ = ("__weakref__",)

    def source() -> Iterator[Trace]:
        for i in range(1000):
            text = Text(str((i * 7) % 1000))
            counted.alive.add(text)
            gc.collect(0)
            counted.most = max(counted.most, len(counted.alive))
            yield Trace(f"c{i}", "p", "prompt", text)

    found = next(Reranker(counted, batch=16).stream(source()))
    assert counted.most <= 3 * 16
    assert len(found.candidates) == 1000
    assert found.completion == "999"
    assert found.chosen.id == f"c{next(i for i in range(1000) if i * 7 % 1000 == 999)}"


def test_what_cannot_be_scored_ranks_last_and_says_why(validator: Validator) -> None:
    found = rerank(PROMPT, [*TEXTS[:2], "", "x" * 400, TEXTS[2]], validator=validator,
                   rule="majority")
    reasons = [c.unscored for c in found.candidates]
    assert reasons[2] == "empty response"
    assert reasons[3] is not None
    assert "candidate 'prompt#3' has 44" in reasons[3]
    assert [reasons[i] for i in (0, 1, 4)] == [None] * 3
    assert found.choice.ranking[-2:] == (2, 3)
    assert {c["id"] for c in found.to_json()["candidates"]} == {f"prompt#{i}" for i in range(5)}


def test_one_that_breaks_the_model_does_not_take_the_others_along(
    validator: Validator, monkeypatch: pytest.MonkeyPatch
) -> None:
    score = Validator.score

    def fragile(self: Validator, traces: Sequence[Trace], **options: Any) -> list[ValidityScore]:
        if any("12" in t.completion for t in traces):
            raise ModelError("attention of layer 3 holds NaN")
        return score(self, traces, **options)

    monkeypatch.setattr(Validator, "score", fragile)
    found = rerank(PROMPT, TEXTS, validator=validator)
    assert [c.unscored is None for c in found.candidates] == [True] * 4 + [False] * 2
    assert found.candidates[5].unscored == "attention of layer 3 holds NaN"
    with pytest.raises(ModelError, match="layer 3"):  # nothing could be read: the model is broken
        rerank(PROMPT, TEXTS[4:], validator=validator)


def test_label_free_scores_and_scores_of_ones_own(validator: Validator) -> None:
    found = rerank(PROMPT, TEXTS, validator=validator, score="mean_logprob")
    values = [c.score for c in found.candidates]
    assert found.choice.index == int(np.argmax(values))
    extra = {"size": lambda batch: [len(t.completion) for t in batch]}
    longest = next(Reranker(validator, score="size", extra=extra).stream(
        prompt_candidates(PROMPT, TEXTS)))
    assert longest.completion == max(TEXTS, key=len)


def test_refused(validator: Validator) -> None:
    bare = Validator(validator.extractor)
    with pytest.raises(FeatureMismatchError, match="no classifier"):
        rerank(PROMPT, TEXTS, validator=bare)
    with pytest.raises(FeatureMismatchError, match=r"no score 'bogus'; there are: .*mean_logprob"):
        rerank(PROMPT, TEXTS, validator=bare, score="bogus")
    with pytest.raises(ParameterError, match="no classifier ships for this model"):
        rerank(PROMPT, TEXTS, model=(tiny_model(), byte_tokenizer()))
    with pytest.raises(ParameterError, match="sums P"):
        rerank(PROMPT, TEXTS, validator=validator, rule="weighted", score="mean_logprob")
    with pytest.raises(ParameterError, match="unknown rule"):
        rerank(PROMPT, TEXTS, validator=validator, rule="bogus")  # type: ignore[arg-type]


def test_candidates_of_a_problem_must_stand_together(validator: Validator) -> None:
    a, b = prompt_candidates(PROMPT, TEXTS[:2], "a"), prompt_candidates(PROMPT, TEXTS[:2], "b")
    reranker = Reranker(validator)
    with pytest.raises(TraceError, match="sort the candidates by problem_id"):
        list(reranker.stream([a[0], *b, a[1]]))
    with pytest.raises(TraceError, match="two candidates of problem 'a' have the id"):
        list(reranker.stream([a[0], a[0]]))
    other = Trace("a#9", "a", "another prompt", "x")
    with pytest.raises(TraceError, match="another prompt"):
        list(reranker.stream([a[0], other]))
