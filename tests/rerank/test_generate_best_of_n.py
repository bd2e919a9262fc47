"""Sampling and scoring in one pass gives what sampling and then scoring gives."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import byte_tokenizer, tiny_model
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from validator.errors import (
    ContextLengthError,
    FeatureMismatchError,
    ModelError,
    NoAttentionError,
    ParameterError,
    TraceError,
)
from validator.features.extractor import SpectralFeatureExtractor
from validator.plugins.rerank import generate
from validator.plugins.rerank.generate import Generation, generate_best_of_n, sample_and_read
from validator.plugins.rerank.stream import rerank
from validator.scoring import Validator
from validator.training.decoding import Sampler, Sampling

PROMPT = "Q: add 3 and it.\nA:"
WINDOWS = {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
           "sliding_window": 8, "head_dim": 8}
ENDS = list(range(100, 108))
"""Tokens that end a sample: enough that samples end at different steps."""
SAMPLING = Sampling(8, temperature=1.0, max_new_tokens=16, seed=1)


def character_tokenizer() -> PreTrainedTokenizerFast:
    """One token per character, so that any tokens but special ones come back from their text."""
    characters = "\n" + "".join(map(chr, (*range(32, 127), *range(0x400, 0x4CE))))
    vocabulary = {t: i for i, t in enumerate(("<pad>", "<s>", "</s>", *characters))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>")


def extractor_of(kind: str = "llama", tokenizer: Any = None, **options: Any
                 ) -> SpectralFeatureExtractor:
    model = tiny_model(kind, **(WINDOWS if kind == "gemma3_text" else {}))
    model.generation_config.eos_token_id = [2, *ENDS]
    return SpectralFeatureExtractor(
        (model, tokenizer or character_tokenizer()), **{"feature_set": "fast", **options}).fit()


@pytest.fixture(scope="module")
def extractor() -> SpectralFeatureExtractor:
    return extractor_of()


def assert_teacher_forced(extractor: SpectralFeatureExtractor, found: Generation) -> None:
    """Each trace has the row that the extractor gives its text, or a reason."""
    readable = [t for t in found.traces if t.id not in found.unread]
    assert found.features is not None
    assert found.features.traces == tuple(readable)
    theirs = extractor.transform(readable)
    assert found.features.names == theirs.names
    assert found.features.provenance == theirs.provenance
    assert found.features.lengths.tolist() == theirs.lengths.tolist()
    assert found.features.nan_reasons == theirs.nan_reasons
    gap = np.abs(found.features.values - theirs.values) / np.maximum(1, np.abs(theirs.values))
    assert (np.isnan(found.features.values) == np.isnan(theirs.values)).all()
    assert np.nan_to_num(gap).max() < 1e-5


@pytest.mark.parametrize("kind", ["llama", "gemma3_text", "gpt2"])
def test_samples_and_features_are_those_of_sampling_and_then_extracting(kind: str) -> None:
    extractor = extractor_of(kind)
    found = sample_and_read(extractor, PROMPT, SAMPLING)
    drawn = Sampler(extractor.model_, extractor.tokenizer_, [PROMPT], SAMPLING, ()).draw((0,))[0]
    assert [t.completion for t in found.traces] == [d.text for d in drawn]
    assert found.tokens == sum(d.tokens for d in drawn)
    assert [t.status for t in found.traces] == [
        "ok" if d.finished else "truncated" for d in drawn]
    assert {t.status for t in found.traces} == {"ok", "truncated"}
    assert len({d.tokens for d in drawn}) > 2
    assert [t.id for t in found.traces] == [f"prompt#{k}" for k in range(8)]
    assert found.reason is None
    assert found.reread < 3
    assert_teacher_forced(extractor, found)


def test_greedy_is_the_models_own(extractor: SpectralFeatureExtractor) -> None:
    model, tokenizer = extractor.model_, extractor.tokenizer_
    found = sample_and_read(extractor, PROMPT, dataclasses.replace(SAMPLING, n=1, temperature=0))
    ids = torch.tensor([tokenizer(PROMPT)["input_ids"]])
    expected = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=16,
                              do_sample=False)[0, ids.shape[1] :]
    assert found.traces[0].completion == tokenizer.decode(expected, skip_special_tokens=True)
    assert_teacher_forced(extractor, found)


@pytest.mark.parametrize("stop", [("\n",), ("a", "Z!"), tuple("abcdefghijk")])
def test_stop_strings(stop: tuple[str, ...], extractor: SpectralFeatureExtractor) -> None:
    sampling = dataclasses.replace(SAMPLING, max_new_tokens=30, n=10)
    found = sample_and_read(extractor, PROMPT, sampling, stop)
    assert not any(s in t.completion for t in found.traces for s in stop)
    assert_teacher_forced(extractor, found)


def test_an_empty_sample_is_kept_and_reported(extractor: SpectralFeatureExtractor) -> None:
    seed = next(s for s in range(50) if "" in _texts(extractor, s))
    found = sample_and_read(extractor, PROMPT, dataclasses.replace(SAMPLING, seed=seed))
    empty = [t.id for t in found.traces if t.completion == ""]
    assert empty
    assert found.unread == dict.fromkeys(empty, "empty response")
    assert len(found.traces) == 8
    assert_teacher_forced(extractor, found)


def _texts(extractor: SpectralFeatureExtractor, seed: int) -> list[str]:
    sampling = dataclasses.replace(SAMPLING, seed=seed)
    sampler = Sampler(extractor.model_, extractor.tokenizer_, [PROMPT], sampling, ())
    return [d.text for d in sampler.draw((0,))[0]]


def test_nothing_but_empty_samples() -> None:
    extractor = extractor_of()
    extractor.model_.generation_config.eos_token_id = list(range(300))
    found = sample_and_read(extractor, PROMPT, SAMPLING)
    assert found.features is None
    assert len(found.unread) == len(found.traces) == 8


def test_texts_that_tokenise_otherwise_are_read_again() -> None:
    extractor = extractor_of(tokenizer=byte_tokenizer())  # bytes that are no UTF-8 are replaced
    found = sample_and_read(extractor, PROMPT, SAMPLING)
    assert 3 < found.reread <= 8
    assert found.reason is None
    assert_teacher_forced(extractor, found)


@pytest.mark.parametrize("size", [1, 3])
def test_groups_of_samples_have_draws_of_their_own(
    size: int, extractor: SpectralFeatureExtractor
) -> None:
    sampling = dataclasses.replace(SAMPLING, batch_size=size)
    found = sample_and_read(extractor, PROMPT, sampling)
    assert len(found.traces) == 8
    assert len({t.completion for t in found.traces}) > 5
    assert_teacher_forced(extractor, found)
    again = sample_and_read(extractor, PROMPT, sampling)
    assert again.traces == found.traces


@pytest.mark.parametrize("kind", ["bloom", "roberta"])
def test_models_that_cannot_be_read_while_decoding(kind: str) -> None:
    extractor = extractor_of(kind) if kind == "bloom" else SpectralFeatureExtractor(
        (tiny_model(kind, is_decoder=True), character_tokenizer()), feature_set="fast").fit()
    found = sample_and_read(extractor, PROMPT, SAMPLING)
    assert found.reason is not None
    assert "while it decodes" in found.reason
    assert found.reread == 8 - len(found.unread)
    assert_teacher_forced(extractor, found)


def test_a_model_without_attention_is_an_error() -> None:
    extractor = SpectralFeatureExtractor(
        (tiny_model("mamba"), character_tokenizer()), feature_set="fast").fit()
    with pytest.raises(NoAttentionError):
        sample_and_read(extractor, PROMPT, SAMPLING)


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> str:
    """A sample that cannot be read, in whatever way: its id."""
    transform = SpectralFeatureExtractor.transform

    def failing(self: Any, traces: Any, **options: Any) -> Any:
        if any(t.id == "prompt#3" for t in traces):
            raise ModelError("attention of layer 0 holds NaN")
        return transform(self, traces, **options)

    def unreadable(self: Any, traces: Any, max_tokens: int) -> Any:
        raise ModelError("hidden states hold NaN")

    monkeypatch.setattr(SpectralFeatureExtractor, "transform", failing)
    monkeypatch.setattr(generate.Decoded, "read", unreadable)
    return "prompt#3"


def test_a_sample_that_cannot_be_read_is_reported_and_the_others_are_scored(broken: str) -> None:
    extractor = extractor_of()
    sampling = dataclasses.replace(SAMPLING, seed=4)
    found = sample_and_read(extractor, PROMPT, sampling)
    assert found.reason == "hidden states hold NaN"
    assert found.unread[broken] == "attention of layer 0 holds NaN"
    assert found.features is not None
    assert set(found.features.trace_ids) == {t.id for t in found.traces} - set(found.unread)


def test_a_prompt_that_leaves_no_room_or_has_no_tokens(
    extractor: SpectralFeatureExtractor
) -> None:
    with pytest.raises(ContextLengthError, match="lower max_new_tokens"):
        sample_and_read(extractor, "a" * 250, SAMPLING)
    with pytest.raises(TraceError, match="prompt has no tokens"):
        sample_and_read(extractor, "", SAMPLING)


@pytest.mark.parametrize("rule", ["best", "majority", "filtered", "top-k"])
def test_best_of_n_is_reranking_of_the_same_texts(
    rule: Any, extractor: SpectralFeatureExtractor
) -> None:
    pair = (extractor.model_, extractor.tokenizer_)
    options = {"rule": rule, "score": "mean_logprob", "answer_style": "last-number"}
    ours = generate_best_of_n(pair, PROMPT, 8, temperature=1.0, max_new_tokens=16, seed=1,
                              **options)
    drawn = sample_and_read(extractor_of(feature_set="default"), PROMPT, SAMPLING)
    theirs = rerank(PROMPT, [t.completion for t in drawn.traces], model=pair, **options)
    assert ours.completion == theirs.completion
    assert ours.choice.ranking == theirs.choice.ranking
    assert ours.choice.votes == theirs.choice.votes
    for a, b in zip(ours.candidates, theirs.candidates, strict=True):
        assert (a.id, a.answer, a.unscored) == (b.id, b.answer, b.unscored)
        assert a.score == pytest.approx(b.score, abs=1e-5)
        assert a.scores == pytest.approx(b.scores, abs=1e-5)


def test_best_of_n_refuses_before_it_samples(
    extractor: SpectralFeatureExtractor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generate, "sample_and_read", None)
    pair = (extractor.model_, extractor.tokenizer_)
    with pytest.raises(ParameterError, match="mean_logprob"):
        generate_best_of_n(pair, PROMPT)
    with pytest.raises(FeatureMismatchError, match="no classifier"):
        generate_best_of_n(Validator(extractor), PROMPT)
    with pytest.raises(FeatureMismatchError, match="give no artifact"):
        generate_best_of_n(Validator(extractor), PROMPT, artifact="somewhere")
    with pytest.raises(ParameterError, match="unknown rule"):
        generate_best_of_n(Validator(extractor), PROMPT, rule="bets")  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="n must be"):
        generate_best_of_n(Validator(extractor), PROMPT, 0)


@pytest.mark.model
@pytest.mark.slow
def test_the_default_model() -> None:
    from validator.scoring import shipped_artifact
    from validator.training.problems import problem_set, prompt_format

    artifact = shipped_artifact("smollm2-135m-instruct")
    assert artifact is not None
    validator = Validator.load(artifact).prepare()
    style = prompt_format("one-step")
    prompt = style.prompt(problem_set("one-step", 1)[0].question)
    sampling = Sampling(8, max_new_tokens=style.max_new_tokens)
    found = sample_and_read(validator.extractor, prompt, sampling, style.stop)
    assert found.reason is None
    readable = [t for t in found.traces if t.id not in found.unread]
    theirs = validator.extractor.transform(readable)
    assert found.features is not None
    gap = np.abs(found.features.values - theirs.values) / np.maximum(1, np.abs(theirs.values))
    worst = np.nan_to_num(gap).max(0)
    assert (worst < 1e-5).mean() > 0.999
    assert worst.max() < 1e-3
    chosen = generate_best_of_n(
        validator, prompt, 8, max_new_tokens=style.max_new_tokens, stop=style.stop,
        answer_style=style.answer_style)
    scored = [c for c in chosen.candidates if c.score is not None]
    own, again = validator.score_features(found.features), validator.score(readable)
    for candidate, seen, reread in zip(scored, own, again, strict=True):
        assert candidate.id == seen.trace_id == reread.trace_id
        assert candidate.score == pytest.approx(seen.learned, abs=1e-4)
        # Boosted trees are step functions: rounding, held to 1e-5 above, may cross a threshold.
        assert candidate.score == pytest.approx(reread.learned, abs=0.05)
    assert chosen.chosen.score == max(c.score for c in chosen.candidates if c.score is not None)
