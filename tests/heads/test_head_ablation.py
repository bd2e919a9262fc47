"""A head set to zero is a head whose columns of the output projection are zero."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from validator import SpectralFeatureExtractor, Validator, ValidityClassifier
from validator.errors import NoAttentionError, ParameterError
from validator.explain.grid import feature_grid
from validator.explain.head_ablation import (
    HeadOutput,
    ablate_heads,
    chosen_heads,
    head_outputs,
    without_heads,
)
from validator.types import FeatureMatrix, Trace

KINDS: dict[str, dict[str, Any]] = {
    "llama": {}, "gpt2": {}, "qwen2": {}, "qwen3": {"head_dim": 16}, "mistral": {},
    "gemma3_text": {"head_dim": 16}, "phi3": {}, "gpt_neox": {},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32}, "bloom": {"n_layer": 3, "n_head": 4},
}


def by_hand(model: Any, layer: int, head: int) -> Any:
    """A copy of the model whose projection has zeros where the head's output comes in."""
    changed = copy.deepcopy(model)
    output = head_outputs(changed)[layer]
    columns = slice(head * output.width, (head + 1) * output.width)
    weight = output.projection.weight
    with torch.no_grad():
        if isinstance(output.projection, torch.nn.Linear):  # (out, in)
            weight[:, columns] = 0  # type: ignore[index]
        else:  # GPT-2's Conv1D: (in, out)
            weight[columns] = 0  # type: ignore[index]
    return changed


@pytest.mark.parametrize("kind", KINDS)
def test_it_equals_zero_columns_of_the_projection(
    kind: str, make_tiny: Callable[..., Any]
) -> None:
    model = make_tiny(kind, **KINDS[kind])
    ids = torch.randint(3, 290, (2, 12), generator=torch.Generator().manual_seed(1))
    outputs = head_outputs(model)
    assert {layer: o.heads for layer, o in outputs.items()} == {0: 4, 1: 4, 2: 4}
    with torch.no_grad():
        plain = model(ids).logits
        with without_heads(outputs, [(1, 2)]):
            found = model(ids).logits
        torch.testing.assert_close(found, by_hand(model, 1, 2)(ids).logits, rtol=0, atol=0)
        torch.testing.assert_close(model(ids).logits, plain, rtol=0, atol=0)  # nothing is left
    assert (found - plain).abs().max() > 1e-3


def test_several_heads_at_once_and_an_exception_inside(tiny: Any) -> None:
    model, ids = tiny[0], torch.arange(3, 15)[None]
    outputs = head_outputs(model)
    both = by_hand(by_hand(model, 0, 1), 0, 3)
    with torch.no_grad():
        with without_heads(outputs, [(0, 1), (0, 3)]):
            found = model(ids).logits
        torch.testing.assert_close(found, both(ids).logits, rtol=0, atol=0)
        with pytest.raises(RuntimeError, match="inside"), without_heads(outputs, [(0, 1)]):
            raise RuntimeError("inside")
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_a_model_without_such_a_projection_is_refused(
    tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("validator.explain.head_ablation.PROJECTIONS", ("another",))
    with pytest.raises(NoAttentionError, match=r"layer 0 of LlamaForCausalLM: .* got 0"):
        head_outputs(tiny[0])


def test_chosen_heads_are_a_product_and_unknown_ones_are_named() -> None:
    outputs = {k: HeadOutput(torch.nn.Identity(), 4, 8) for k in (1, 3, 5)}
    assert chosen_heads(outputs, [5, 1], [2]) == ((1, 2), (5, 2))
    assert len(chosen_heads(outputs)) == 12
    with pytest.raises(ParameterError, match=r"no layer 2 has attention.*1, 3, 5"):
        chosen_heads(outputs, [1, 2])
    with pytest.raises(ParameterError, match="no head 4; heads of these layers are 0 to 3"):
        chosen_heads(outputs, None, [0, 4])


@pytest.fixture(scope="module")
def many() -> list[Trace]:
    return [Trace(f"p{i}#{k}", f"p{i}", f"Q: {i}?\nA:", f" {i} and {k} make {i + k}.", (i + k) % 2)
            for i in range(6) for k in range(2)]


@pytest.fixture(scope="module")
def scorer(tiny: Any, many: list[Trace]) -> Validator:
    features = SpectralFeatureExtractor(tiny, feature_set="paper").fit_transform(many)
    classifier = ValidityClassifier(C=0.01).fit(features.values, features.labels)
    return Validator(SpectralFeatureExtractor(tiny, feature_set="paper"), classifier)


def test_what_moves_is_what_the_changed_model_gives(
    tiny: Any, scorer: Validator, many: list[Trace]
) -> None:
    done: list[tuple[int, int]] = []
    found = ablate_heads(scorer, many, [(0, 1), (2, 3)],
                         progress=lambda a, b: done.append((a, b)))
    assert done == [(1, 3), (2, 3), (3, 3)]
    assert found.changes.shape == (2, 12, len(found.quantities))
    for k, head in enumerate(found.heads):
        changed = SpectralFeatureExtractor((by_hand(tiny[0], *head), tiny[1]), feature_set="paper")
        features = changed.fit_transform(many)
        assert scorer.classifier is not None
        expected = {
            "p_valid": scorer.classifier.predict_proba(features.values)[:, 1],
            "log_odds": scorer.classifier.decision_function(features.values),
            "mean_logprob": features.select(["mean_logprob__baseline"])[:, 0],
        } | descriptor_means(features)
        for name, values in expected.items():
            own = found.ablated[k, :, found.quantities.index(name)]
            np.testing.assert_allclose(own, values, rtol=2e-4, atol=2e-5, err_msg=name)
    assert np.abs(found.changes[..., found.quantities.index("mean_logprob")]).min() > 0
    assert not {"completion_length", "ensemble"} & set(found.quantities)


def test_attention_moves_in_the_layers_above_alone(tiny: Any, many: list[Trace]) -> None:
    extractor = SpectralFeatureExtractor(tiny, feature_set="paper")
    plain = extractor.fit_transform(many)
    with without_heads(head_outputs(tiny[0]), [(1, 2)]):
        found = extractor.transform(many)
    for layer, moved in ((0, False), (1, False), (2, True)):
        names = [n for n in plain.names if f"__layer{layer}__" in n]
        same = np.array_equal(plain.select(names), found.select(names))
        assert same is not moved


def descriptor_means(features: FeatureMatrix) -> dict[str, np.ndarray]:
    rows, _, grid = feature_grid(features)
    assert len(rows) > 3
    return {row: np.nanmean(grid[:, i].astype(np.float64), axis=1) for i, row in enumerate(rows)}


def test_no_store_is_read_or_written(
    tiny: Any, many: list[Trace], tmp_path: Path
) -> None:
    own = SpectralFeatureExtractor(tiny, feature_set="paper", store=tmp_path / "store")
    plain = own.fit_transform(many)
    rows = sorted(p.stat().st_size for p in (tmp_path / "store").rglob("*") if p.is_file())
    found = ablate_heads(Validator(own), many, [(1, 0)])
    assert sorted(p.stat().st_size for p in (tmp_path / "store").rglob("*") if p.is_file()) == rows
    assert own.store is not None
    np.testing.assert_array_equal(own.transform(many).values, plain.values)
    assert "p_valid" not in found.quantities
    assert np.abs(found.changes).max() > 0


def test_no_heads_and_classifiers_of_steps_are_refused(
    scorer: Validator, many: list[Trace]
) -> None:
    with pytest.raises(ParameterError, match="no heads"):
        ablate_heads(scorer, many, [])
    by_step = copy.copy(scorer)
    by_step.__class__ = type("OfSteps", (Validator,), {"of_steps": True})
    with pytest.raises(ParameterError, match="trained on steps"):
        ablate_heads(by_step, many, [(0, 0)])


@pytest.mark.slow
@pytest.mark.model
def test_grouped_queries_of_the_default_model() -> None:
    """Nine heads share three keys and values; each has an output of its own."""
    from validator.models.loading import load_model

    loaded = load_model("smollm2-135m-instruct")
    ids = torch.tensor([loaded.tokenizer("Two and two make four.")["input_ids"]])
    outputs = head_outputs(loaded.model)
    assert {(o.heads, o.width) for o in outputs.values()} == {(9, 64)}
    with torch.no_grad(), without_heads(outputs, [(17, 4)]):
        found = loaded.model(ids).logits
    weight = outputs[17].projection.weight
    with torch.no_grad():
        kept = weight[:, 256:320].clone()  # type: ignore[index]
        weight[:, 256:320] = 0  # type: ignore[index]
        expected = loaded.model(ids).logits
        weight[:, 256:320] = kept  # type: ignore[index]
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
