"""Whole rows against a brute-force reading of the stored attentions, and invariances."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import networkx as nx
import numpy as np
import pytest
import scipy.stats
import torch
from sklearn.base import clone
from transformers import MambaConfig, MambaForCausalLM

from validator.columns import Column
from validator.errors import ContextLengthError, FeatureMismatchError, NoAttentionError, TraceError
from validator.features.extractor import SpectralFeatureExtractor
from validator.types import FeatureMatrix, Trace

LONG_PROMPT = "Q: two and two make four, and so do three and one.\nA:"


def oracle(model: Any, tokenizer: Any, trace: Trace) -> dict[str, float]:
    """Every column of the default feature set, the slow way."""
    prompt = tokenizer(trace.prompt)["input_ids"]
    ids = prompt + tokenizer(trace.completion)["input_ids"]
    p, n = len(prompt), len(ids)
    model.set_attn_implementation("eager")
    with torch.inference_mode():
        out = model(torch.tensor([ids]), output_attentions=True, output_hidden_states=True)
    model.set_attn_implementation("sdpa")
    logp = torch.log_softmax(out.logits[0].double(), -1).numpy()
    surprisal = np.array([-logp[i - 1, ids[i]] for i in range(p, n)])
    entropy = np.array([scipy.stats.entropy(np.exp(logp[i - 1])) for i in range(p, n)])
    row = {
        "prompt_length__baseline": p, "completion_length__baseline": n - p,
        "mean_logprob__baseline": -surprisal.mean(), "min_logprob__baseline": -surprisal.max(),
        "mean_token_entropy__baseline": entropy.mean(),
    }
    tokens = {"surprisal": surprisal[:, None], "token_entropy": entropy[:, None]}
    for layer, attention in enumerate(out.attentions):
        heads = attention[0].double().numpy()
        hidden = out.hidden_states[layer][0].double().numpy()
        for span, first in (("whole", 0), ("completion", p)):
            signals = {"hidden": hidden[first:]} | (tokens if span == "completion" else {})
            row |= symmetric(heads.mean(0)[first:, first:], signals, layer, span)
            for h, A in enumerate(heads):
                row |= per_head(A, first, layer, h, span)
        for h, A in enumerate(heads):
            for name, x in tokens.items():
                seen = A[p:, p:] @ x[:, 0]
                for what, value in (("mean", seen.mean()), ("max", seen.max()), ("last", seen[-1])):
                    row[f"attended_{what}__layer{layer}__head{h}__completion__{name}"] = value
    return row


def symmetric(
    A: np.ndarray, signals: dict[str, np.ndarray], layer: int, span: str
) -> dict[str, float]:
    where = f"layer{layer}__head_mean__{span}"
    graph = nx.from_numpy_array((A + A.T) / 2)
    values, modes = np.linalg.eigh(nx.normalized_laplacian_matrix(graph).toarray())
    row = {
        f"fiedler_value__{where}": values[1],
        f"spectral_gap_k2__{where}": values[2] - values[1],
        f"eigenvalue_entropy__{where}": scipy.stats.entropy(np.maximum(values, 0)),
    }
    for q in (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 1.0):
        row[f"eigenvalue_quantile_q{q:g}__{where}"] = np.quantile(values, q)
    for name, x in signals.items():
        energy = ((modes.T @ x) ** 2).sum(1)
        row[f"hfer_c0.5__{where}__{name}"] = energy[-(len(A) // 2):].sum() / energy.sum()
        row[f"signal_entropy__{where}__{name}"] = scipy.stats.entropy(energy)
        rough = (values * energy).sum() / energy.sum()
        if name == "hidden":
            row[f"smoothness__{where}__{name}"] = 1 - rough / values[-1]
        else:
            row[f"roughness__{where}__{name}"] = rough
    return row


def per_head(A: np.ndarray, first: int, layer: int, head: int, span: str) -> dict[str, float]:
    where = f"layer{layer}__head{head}__{span}"
    part = A[first:, first:]
    in_degree = part.sum(0) / np.arange(len(part), 0, -1)
    directed = np.linalg.eigvals(np.diag(in_degree) - part).real
    entropy = np.array([scipy.stats.entropy(r[r > 0]) for r in A[first:]])
    row = {f"log_self_attention__{where}": np.log(part.diagonal()).mean()}
    for q in (0.0, 0.25, 0.5, 0.75, 1.0):
        row[f"directed_eigenvalue_quantile_q{q:g}__{where}"] = np.quantile(directed, q)
        row[f"attention_entropy_quantile_q{q:g}__{where}"] = np.quantile(entropy, q)
    return row


def extract(pair: Any, traces: list[Trace], **options: Any) -> FeatureMatrix:
    return SpectralFeatureExtractor(pair, **options).fit_transform(traces)


def gap(a: FeatureMatrix, b: FeatureMatrix) -> float:
    assert a.names == b.names
    assert a.trace_ids == b.trace_ids
    return float(np.nanmax(np.abs(a.values - b.values) / np.maximum(1, np.abs(b.values))))


def test_every_column_equals_the_brute_force_one(tiny: Any, traces: list[Trace]) -> None:
    found = extract(tiny, traces)
    for trace, row in zip(traces, found.values, strict=True):
        expected = oracle(*tiny, trace)
        assert set(expected) == set(found.names)
        np.testing.assert_allclose(row, [expected[n] for n in found.names], atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma3_text", "qwen2"])
def test_padding_batching_and_prefix_sharing_change_nothing(
    kind: str, make_tiny: Callable[..., Any], tiny: Any, traces: list[Trace]
) -> None:
    """In double precision, so that what differs is the method and not the rounding."""
    pair = (make_tiny(kind).double(), tiny[1])
    traces = [dataclasses.replace(t, prompt=LONG_PROMPT + t.prompt) for t in traces]
    alone = extract(pair, traces, max_batch_tokens=1, share_prefixes=False)
    assert gap(extract(pair, traces, share_prefixes=False), alone) < 1e-6
    assert gap(extract(pair, traces, share_prefixes=True), alone) < 1e-6
    assert gap(extract(pair, traces[::-1]).take(range(5, -1, -1)), alone) < 1e-6


def test_float32_batches_agree(tiny: Any, traces: list[Trace]) -> None:
    alone = extract(tiny, traces, max_batch_tokens=1, share_prefixes=False)
    assert gap(extract(tiny, traces), alone) < 1e-5


def test_many_layers_or_few_at_a_time(
    tiny: Any, traces: list[Trace], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = extract(tiny, traces)
    monkeypatch.setattr("validator.features.reader.GRAPH_BYTES", 1)
    assert gap(extract(tiny, traces), expected) < 1e-6


def test_same_bits_from_run_to_run(tiny: Any, traces: list[Trace]) -> None:
    np.testing.assert_array_equal(extract(tiny, traces).values, extract(tiny, traces).values)


def test_names_parse_back_and_length_does_not_depend_on_the_trace(
    tiny: Any, traces: list[Trace]
) -> None:
    found = extract(tiny, traces[:1])
    assert [str(Column.parse(n)) for n in found.names] == list(found.names)
    assert len(set(found.names)) == len(found.names)
    assert extract(tiny, traces[-1:]).names == found.names


def test_short_completions_are_nan_with_a_reason(tiny: Any, traces: list[Trace]) -> None:
    short = [dataclasses.replace(traces[0], id=f"n{n}", completion="7" * n) for n in (1, 2, 3)]
    found = extract(tiny, short)
    assert found.nan_reasons == {"n1": "completion_of_1_tokens", "n2": "completion_of_2_tokens"}
    bad = {n for n, v in zip(found.names, found.values[0], strict=True) if np.isnan(v)}
    assert "fiedler_value__layer0__head_mean__completion" in bad
    assert not [n for n in bad if "__head_mean__completion" not in n]
    assert np.isfinite(found.values[2]).all()


@pytest.mark.parametrize(("change", "error", "match"), [
    ({"completion": ""}, TraceError, "completion has no tokens"),
    ({"prompt": ""}, TraceError, "prompt has no tokens"),
    ({"completion": "7" * 400}, ContextLengthError, "'p0#0' has 4.. tokens.*256"),
])
def test_bad_traces_are_named(
    change: dict[str, str], error: type[Exception], match: str, tiny: Any, traces: list[Trace]
) -> None:
    with pytest.raises(error, match=match):
        extract(tiny, [dataclasses.replace(traces[0], **change), *traces[1:]])


def test_no_traces_and_unknown_feature_set_and_no_attention(
    tiny: Any, traces: list[Trace]
) -> None:
    with pytest.raises(TraceError, match="no traces"):
        extract(tiny, [])
    with pytest.raises(FeatureMismatchError, match="Did you mean 'default'"):
        extract(tiny, traces, feature_set="defualt")
    config = MambaConfig(vocab_size=300, hidden_size=16, num_hidden_layers=2, state_size=4)
    with pytest.raises(NoAttentionError, match="mamba"):
        extract((MambaForCausalLM(config), tiny[1]), traces)


def test_scikit_learn_clone_keeps_parameters() -> None:
    extractor = SpectralFeatureExtractor("somewhere", max_batch_tokens=7)
    assert clone(extractor).get_params() == extractor.get_params()


def test_progress_reaches_the_total(tiny: Any, traces: list[Trace]) -> None:
    seen: list[tuple[int, int]] = []
    extractor = SpectralFeatureExtractor(tiny, max_batch_tokens=1).fit()
    extractor.transform(traces, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (6, 6)
    assert [d for d, _ in seen] == sorted(d for d, _ in seen)
