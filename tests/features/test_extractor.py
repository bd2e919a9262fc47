"""Whole rows against a brute-force reading of the stored attentions, and invariances."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from brute_force import Oracle
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from transformers import MambaConfig, MambaForCausalLM

from validator.columns import Column
from validator.errors import (
    ContextLengthError,
    FeatureMismatchError,
    ModelError,
    NoAttentionError,
    ParameterError,
    TraceError,
)
from validator.features.extractor import SpectralFeatureExtractor
from validator.features.featureset import FeatureSet, StateFeatures
from validator.types import FeatureMatrix, Trace

LONG_PROMPT = "Q: two and two make four, and so do three and one.\nA:"


def extract(pair: Any, traces: list[Trace], **options: Any) -> FeatureMatrix:
    return SpectralFeatureExtractor(pair, **options).fit_transform(traces)


def gap(a: FeatureMatrix, b: FeatureMatrix) -> float:
    assert a.names == b.names
    assert a.trace_ids == b.trace_ids
    return float(np.nanmax(np.abs(a.values - b.values) / np.maximum(1, np.abs(b.values))))


STEPPED = Trace("s", "p", "Q: hello there.\nA:", " 3 + 4 = 7. So it is 7, and then 8.\n", 1,
                steps=((0, 12), (12, 23), (23, 36)), step_labels=(1, 1, 0))


STATES = FeatureSet("states", 1, states=StateFeatures(("whole", "completion", "last"),
                                                      ("mean", "last")))


@pytest.mark.parametrize(
    "name", ["default", "fast", "paper", "lapeigvals",
             pytest.param("full", marks=pytest.mark.slow), "fast+probe", STATES])
def test_every_column_equals_the_brute_force_one(
    name: str | FeatureSet, tiny: Any, make_tiny: Callable[..., Any]
) -> None:
    """All but the null-corrected ones, which test_null.py is about."""
    pair = (make_tiny().double(), tiny[1])
    found = extract(pair, [STEPPED], feature_set=name)
    slow = Oracle(*pair, STEPPED)
    checked = [i for i, n in enumerate(found.names) if "__z_" not in n]
    expected = [slow.column(found.names[i]) for i in checked]
    np.testing.assert_allclose(found.values[0, checked], expected, atol=1e-6, rtol=1e-6)
    assert len(checked) > 30


@pytest.mark.slow
def test_single_precision_columns_are_near_the_brute_force_ones(
    tiny: Any, traces: list[Trace]
) -> None:
    found = extract(tiny, traces)
    for trace, row in zip(traces, found.values, strict=True):
        slow = Oracle(*tiny, trace)
        expected = [slow.column(n) for n in found.names]
        np.testing.assert_allclose(row, expected, atol=2e-5, rtol=2e-5)


def test_a_row_per_step_is_the_row_of_the_text_up_to_it(
    tiny: Any, make_tiny: Callable[..., Any]
) -> None:
    """One pass over the whole trace gives what a pass over each cut-off trace gives."""
    extractor = SpectralFeatureExtractor((make_tiny().double(), tiny[1]), feature_set="full").fit()
    found = extractor.transform_steps([STEPPED])
    assert found.trace_ids == ("s#step0", "s#step1", "s#step2")
    assert found.labels.tolist() == [1, 1, 0]
    columns = [i for i, n in enumerate(found.names) if "__step_" not in n]
    cut = extractor.transform([dataclasses.replace(t, steps=None) for t in found.traces])
    np.testing.assert_array_equal(found.lengths, cut.lengths)
    np.testing.assert_allclose(
        found.values[:, columns], cut.values[:, columns], atol=1e-5, rtol=1e-5)


def test_steps_are_needed_where_rows_are_steps(tiny: Any, traces: list[Trace]) -> None:
    extractor = SpectralFeatureExtractor(tiny).fit()
    with pytest.raises(TraceError, match="'p0#0' has no steps"):
        extractor.transform_steps(traces)


def test_a_trace_without_steps_has_a_reason_for_its_step_columns(
    tiny: Any, traces: list[Trace]
) -> None:
    found = extract(tiny, traces[:1], feature_set="full")
    undefined = [n for n, v in zip(found.names, found.values[0], strict=True) if np.isnan(v)]
    assert "no_steps" in found.nan_reasons["p0#0"].split(";")
    assert {n for n in found.names if "__step_" in n} <= set(undefined)


@pytest.mark.parametrize("options", [{"layers": [0, 2]}, {"heads": [1, 3]},
                                     {"layers": [1], "heads": [0]}])
def test_subsets_of_layers_and_heads_are_columns_of_all(
    options: dict[str, list[int]], tiny: Any, traces: list[Trace]
) -> None:
    whole = extract(tiny, traces)
    part = extract(tiny, traces, **options)
    recipes = [Column.parse(n) for n in part.names]
    assert {c.layer for c in recipes} - {None} == set(options.get("layers", range(3)))
    assert {c.head for c in recipes} - {None} == set(options.get("heads", range(4)))
    shared = [n for n, c in zip(part.names, recipes, strict=True)
              if c.head is not None or "heads" not in options]
    np.testing.assert_allclose(part.select(shared), whole.select(shared), atol=2e-5, rtol=2e-5)
    with pytest.raises(FeatureMismatchError, match=r"layers|heads"):
        part.provenance.require_equal(whole.provenance, "test")


def test_the_head_mean_is_over_the_heads_that_are_read(
    tiny: Any, make_tiny: Callable[..., Any]
) -> None:
    pair = (make_tiny().double(), tiny[1])
    found = extract(pair, [STEPPED], heads=[2, 0])
    slow = Oracle(*pair, STEPPED)
    slow.attention = [a[[0, 2]] for a in slow.attention]
    name = "eigenvalue_quantile_q0.5__layer1__head_mean__completion"
    assert found.select([name])[0, 0] == pytest.approx(slow.column(name), abs=1e-6)


@pytest.mark.parametrize("options", [{"layers": []}, {"layers": [-1]}, {"heads": [0.5]}])
def test_odd_subsets_are_refused(options: dict[str, list[Any]], tiny: Any) -> None:
    with pytest.raises(ParameterError, match="list of indices"):
        SpectralFeatureExtractor(tiny, **options).fit()


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
    monkeypatch.setattr("validator.features.reading.GRAPH_BYTES", 1)
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


def test_it_is_a_transformer_of_a_pipeline(tiny: Any, traces: list[Trace]) -> None:
    labels = [t.label for t in traces]
    extractor = SpectralFeatureExtractor(tiny)
    pipeline = make_pipeline(extractor, StandardScaler(), LogisticRegression())
    pipeline.fit(traces, labels)
    assert set(pipeline.predict(traces)) <= {0, 1}
    names = extractor.get_feature_names_out()
    assert names.dtype == object
    assert tuple(names) == extractor.transform(traces).names
    frame = clone(extractor).set_output(transform="pandas").fit_transform(traces)
    assert list(frame.columns) == list(names)
    np.testing.assert_array_equal(frame.to_numpy(), extractor.transform(traces).values)


def test_names_are_not_known_before_a_transform(tiny: Any) -> None:
    with pytest.raises(NotFittedError):
        SpectralFeatureExtractor(tiny).fit().get_feature_names_out()


def test_threads_are_set_for_the_call_only(tiny: Any, traces: list[Trace]) -> None:
    before = torch.get_num_threads()
    seen: list[int] = []
    SpectralFeatureExtractor(tiny, num_threads=before + 1).fit().transform(
        traces, progress=lambda _done, _total: seen.append(torch.get_num_threads()))
    assert seen[-1] == before + 1
    assert torch.get_num_threads() == before


def test_a_second_run_with_a_store_does_not_run_the_model(
    tiny: Any, traces: list[Trace], tmp_path: Path
) -> None:
    plain = extract(tiny, traces)
    first = SpectralFeatureExtractor(tiny, store=tmp_path).fit()
    np.testing.assert_array_equal(first.fit_transform(traces[:4]).values, plain.values[:4])
    assert first.forward_passes_ > 0
    second = SpectralFeatureExtractor(tiny, store=tmp_path, max_batch_tokens=1).fit()
    assert gap(second.transform(traces), plain) < 1e-5
    assert (second.rows_from_store_, second.forward_passes_) == (4, 2)
    third = SpectralFeatureExtractor(tiny, store=tmp_path).fit()
    renamed = [dataclasses.replace(t, id=f"again-{t.id}") for t in traces]
    found = third.transform(renamed)
    assert third.forward_passes_ == 0
    assert found.trace_ids == tuple(t.id for t in renamed)
    np.testing.assert_array_equal(found.values[:4], plain.values[:4])


def test_stored_rows_of_steps_and_of_cut_traces_are_the_same(tiny: Any, tmp_path: Path) -> None:
    extractor = SpectralFeatureExtractor(tiny, store=tmp_path).fit()
    steps = extractor.transform_steps([STEPPED])
    np.testing.assert_array_equal(extractor.transform_steps([STEPPED]).values, steps.values)
    assert extractor.forward_passes_ == 0


@pytest.mark.parametrize("other", [{"feature_set": "fast"}, {"layers": [0]}, {"heads": [0]}])
def test_other_settings_find_nothing_in_the_store(
    other: dict[str, Any], tiny: Any, traces: list[Trace], tmp_path: Path
) -> None:
    SpectralFeatureExtractor(tiny, store=tmp_path).fit_transform(traces)
    changed = SpectralFeatureExtractor(tiny, store=tmp_path, **other)
    changed.fit_transform(traces)
    assert changed.rows_from_store_ == 0


def test_hidden_states_that_are_not_finite_are_named(
    tiny: Any, make_tiny: Callable[..., Any], traces: list[Trace]
) -> None:
    model = make_tiny()
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight.fill_(float("inf"))
    with pytest.raises(ModelError, match="layer 2"):
        extract((model, tiny[1]), traces)


def test_attention_that_is_not_finite_is_named(
    tiny: Any, make_tiny: Callable[..., Any], traces: list[Trace]
) -> None:
    model = make_tiny()
    with torch.no_grad():
        model.model.layers[1].self_attn.q_proj.weight[8:16] = float("nan")
    with pytest.raises(ModelError, match="layer 1, head 1"):
        extract((model, tiny[1]), traces)


def test_scikit_learn_clone_keeps_parameters() -> None:
    extractor = SpectralFeatureExtractor("somewhere", max_batch_tokens=7)
    assert clone(extractor).get_params() == extractor.get_params()


def test_progress_reaches_the_total(tiny: Any, traces: list[Trace]) -> None:
    seen: list[tuple[int, int]] = []
    extractor = SpectralFeatureExtractor(tiny, max_batch_tokens=1).fit()
    extractor.transform(traces, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (6, 6)
    assert [d for d, _ in seen] == sorted(d for d, _ in seen)
