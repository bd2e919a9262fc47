"""The monitor's columns are the offline extractor's, and generate is left as it is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from decoding_models import PROMPT, make_pair, write
from numpy.typing import NDArray
from torch import Tensor

from validator.errors import FeatureMismatchError, NoAttentionError, ParameterError
from validator.features.extractor import SpectralFeatureExtractor
from validator.features.featureset import FeatureSet, GraphFeatures, HeadFeatures
from validator.plugins.monitor import TokenSeen, ValidityMonitor
from validator.types import Trace

EVERYTHING = FeatureSet(
    "everything", 1,
    heads=HeadFeatures(
        spans=("completion", "last"),
        descriptors=("directed_eigenvalue", "attention_eigenvalue", "attention_entropy",
                     "renyi_entropy", "log_self_attention", "lookback_ratio"),
        top=2, attended=("surprisal", "token_entropy"), deltas=True),
    graphs=(GraphFeatures(
        spans=("completion", "last"), signals=("surprisal", "token_entropy"),
        descriptors=("fiedler_value", "spectral_gap", "eigenvalue_quantile", "eigenvalue_entropy",
                     "hfer", "signal_entropy", "roughness")),
        GraphFeatures(heads="each", descriptors=("fiedler_value",), preprocess=("drop_sink",))),
    last_tokens=6)


def gap(ours: NDArray[np.float64], theirs: NDArray[np.float32]) -> float:
    assert (np.isnan(ours) == np.isnan(theirs)).all()
    return float(np.nanmax(np.abs(ours - theirs) / np.maximum(1, np.abs(theirs))))


def offline(pair: tuple[Any, Any], feature_set: Any, text: str, **options: Any) -> Any:
    extractor = SpectralFeatureExtractor(pair, feature_set=feature_set, **options)
    return extractor.fit_transform([Trace("a", "a", PROMPT, text)])


@pytest.mark.parametrize("kind", ["llama", "gemma3_text", "gpt2", "gemma2"])
def test_columns_are_the_extractors_on_every_prefix(kind: str) -> None:
    """Llama, sliding windows shorter than the text, GPT-2, and a soft cap on the scores."""
    pair = make_pair(kind)
    ids = torch.tensor([pair[1](PROMPT)["input_ids"]])
    found: dict[int, Any] = {}
    monitor = ValidityMonitor(pair, feature_set=EVERYTHING, graph_every=1)
    monitor.on_token = lambda token: found.setdefault(token.index + 1, monitor.columns())
    with monitor.attached():
        out = write(pair[0], ids, monitor)
        monitor.finish()
    drawn = out[0, ids.shape[1] :]
    assert sorted(found) == list(range(1, 25))
    for k in (2, 3, 9, 24):  # the one eigenvalue of a single token is 0 up to rounding
        theirs = offline(pair, EVERYTHING, pair[1].decode(drawn[:k]))
        assert theirs.lengths.tolist() == [[ids.shape[1], k]]
        assert found[k][1] == theirs.names
        assert gap(found[k][0], theirs.values[0]) < 1e-5


@pytest.mark.parametrize("kind", ["llama", "gemma3_text", "gpt2"])
def test_watching_changes_no_token_and_leaves_the_model_as_it_was(kind: str) -> None:
    pair = make_pair(kind)
    ids = torch.tensor([pair[1](PROMPT)["input_ids"]])
    before = pair[0].config._attn_implementation
    plain = write(pair[0], ids)
    monitor = ValidityMonitor(pair, score="mean_logprob")
    with monitor.attached():
        watched = write(pair[0], ids, monitor)
    assert torch.equal(plain, watched)
    assert pair[0].config._attn_implementation == before
    assert not pair[0]._forward_hooks
    assert not pair[0]._forward_pre_hooks


def test_layers_heads_and_long_completions(llama: tuple[Any, Any], prompt_ids: Tensor) -> None:
    """More tokens than the first buffers hold."""
    monitor = ValidityMonitor(llama, layers=[0, 2], heads=[1, 3])
    with monitor.attached():
        out = write(llama[0], prompt_ids, monitor, new=140)
        monitor.finish()
        values, names = monitor.columns()
    text = llama[1].decode(out[0, prompt_ids.shape[1] :])
    theirs = offline(llama, "monitor", text, layers=[0, 2], heads=[1, 3])
    assert theirs.lengths[0, 1] == 140
    assert names == theirs.names
    assert gap(values, theirs.values[0]) < 1e-5


def test_sequences_of_a_batch_and_padding_on_the_left(llama: tuple[Any, Any]) -> None:
    """Each has the columns it has alone, but for the length of the prompt, which is padded."""
    model, tokenizer = llama
    texts = [PROMPT, "Q: a longer question than that, is it?\nA:"]
    rows = [tokenizer(t)["input_ids"] for t in texts]
    longest = max(map(len, rows))
    ids = torch.tensor([[0] * (longest - len(r)) + r for r in rows])
    mask = (torch.arange(longest) >= torch.tensor([[longest - len(r)] for r in rows])).long()
    monitor = ValidityMonitor(llama)
    with monitor.attached():
        out = write(model, ids, monitor, attention_mask=mask)
        monitor.finish()
        found = [monitor.columns(i) for i in range(2)]
    for i, text in enumerate(texts):
        alone = SpectralFeatureExtractor(llama, feature_set="monitor").fit_transform(
            [Trace("a", "a", text, tokenizer.decode(out[i, longest:]))])
        assert found[i][1] == alone.names
        assert gap(found[i][0][1:], alone.values[0, 1:]) < 1e-5


def test_half_precision_is_followed_in_single() -> None:
    model, tokenizer = make_pair()
    pair = (model.to(torch.bfloat16), tokenizer)
    ids = torch.tensor([tokenizer(PROMPT)["input_ids"]])
    monitor = ValidityMonitor(pair)
    with monitor.attached():
        out = write(model, ids, monitor)
        monitor.finish()
        values, _ = monitor.columns()
    theirs = offline(pair, "monitor", tokenizer.decode(out[0, ids.shape[1] :]))
    assert gap(values, theirs.values[0]) < 0.05  # one pass and one by one differ by bfloat16


def test_graphs_keep_their_columns_between_decompositions(
    llama: tuple[Any, Any], prompt_ids: Tensor
) -> None:
    features = FeatureSet("graphs", 1, graphs=(GraphFeatures(),))
    found: dict[int, NDArray[np.float64]] = {}
    monitor = ValidityMonitor(llama, feature_set=features, graph_every=8,
                              on_token=lambda t: found.setdefault(t.index + 1, columns()))

    def columns() -> NDArray[np.float64]:
        return monitor.columns()[0][5:]

    with monitor.attached():
        out = write(llama[0], prompt_ids, monitor)
    assert (found[15] == found[8]).all()
    assert not (found[16] == found[8]).all()
    text = llama[1].decode(out[0, prompt_ids.shape[1] :][:16])
    assert gap(found[16], offline(llama, features, text).values[0, 5:]) < 1e-5


def test_tokens_are_told_with_the_models_own_surprisal(
    llama: tuple[Any, Any], prompt_ids: Tensor
) -> None:
    """The oracle is one pass over all tokens and log_softmax; temperature does not enter."""
    seen: list[TokenSeen] = []
    monitor = ValidityMonitor(llama, on_token=seen.append)
    with monitor.attached():
        out = write(llama[0], prompt_ids, monitor, temperature=0.3)
        monitor.finish()
    with torch.no_grad():
        logs = llama[0](out).logits[0].log_softmax(-1)
    first = prompt_ids.shape[1]
    for token in seen:
        where = first + token.index
        assert token.token == out[0, where]
        assert token.surprisal == pytest.approx(-float(logs[where - 1, out[0, where]]), abs=1e-4)
        entropy = -float((logs[where - 1].exp() * logs[where - 1]).sum())
        assert token.entropy == pytest.approx(entropy, abs=1e-4)
    assert "".join(t.text for t in seen) == llama[1].decode(out[0, first:])


def test_what_cannot_be_followed_is_refused(llama: tuple[Any, Any], prompt_ids: Tensor) -> None:
    for wrong, message in (
        (FeatureSet("a", 1, heads=HeadFeatures()), "the span 'whole'"),
        (FeatureSet("a", 1, graphs=(GraphFeatures(signals=("hidden",)),)), "the signal 'hidden'"),
        (FeatureSet("a", 1, graphs=(GraphFeatures(nulls=("uniform",)),)), "z-scores"),
    ):
        with pytest.raises(FeatureMismatchError, match=message):
            ValidityMonitor(llama, feature_set=wrong).prepare()
    monitor = ValidityMonitor(llama, score="mean_logprob")
    with pytest.raises(ParameterError, match="not attached"):
        write(llama[0], prompt_ids, monitor)
    with monitor.attached(), pytest.raises(NoAttentionError, match="beam search"):
        write(llama[0], prompt_ids, monitor, do_sample=False, num_beams=3)
    with pytest.raises(ParameterError, match="unknown label-free score"):
        ValidityMonitor(llama, score="nonsense").prepare()
    with pytest.raises(ParameterError, match="min_tokens must be at least 1"):
        ValidityMonitor(llama, min_tokens=0).prepare()
    with pytest.raises(NoAttentionError, match="does not use the transformers attention interface"):
        ValidityMonitor(make_pair("bloom", n_head=4, n_layer=2)).prepare()


def test_the_model_is_left_as_it_was_after_an_error(
    llama: tuple[Any, Any], prompt_ids: Tensor
) -> None:
    def fail(token: TokenSeen) -> None:
        raise RuntimeError("mine")

    before = llama[0].config._attn_implementation
    monitor = ValidityMonitor(llama, on_token=fail)
    with pytest.raises(RuntimeError, match="mine"), monitor.attached():
        write(llama[0], prompt_ids, monitor)
    assert llama[0].config._attn_implementation == before
    assert not llama[0]._forward_hooks
