"""Whole rows against a brute-force reading of the stored attentions, and invariances."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from brute_force import oracle
from sklearn.base import clone
from transformers import MambaConfig, MambaForCausalLM

from validator.columns import Column
from validator.errors import ContextLengthError, FeatureMismatchError, NoAttentionError, TraceError
from validator.features.extractor import SpectralFeatureExtractor
from validator.types import FeatureMatrix, Trace

LONG_PROMPT = "Q: two and two make four, and so do three and one.\nA:"


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
