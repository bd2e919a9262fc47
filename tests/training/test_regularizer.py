"""The spectral term of whole models: values, gradients, checkpointing, padding, what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_models import byte_tokenizer, tiny_model
from torch import Tensor

from validator.errors import ModelError, NoAttentionError, ParameterError
from validator.features.extractor import SpectralFeatureExtractor
from validator.features.featureset import FeatureSet, GraphFeatures
from validator.training.regularizer import DESCRIPTORS, SpectralRegularizer
from validator.types import Trace
from validator.windtunnels.training import supervised_loss, train_reference
from validator.windtunnels.tree import TreePathTunnel
from validator.windtunnels.tree_training import path_model

TRACES = [Trace("a", "a", "Q: one and two.\nA:", " 1 + 2 = 3."),
          Trace("b", "b", "Q: 4?\nA:", " 4 it is, or nearly so.")]
COLUMNS = {name: name for name in DESCRIPTORS} | {"spectral_entropy": "eigenvalue_entropy"}
ALL = dict.fromkeys(DESCRIPTORS, "maximize")
checkpointing = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")


def batch(left: bool = False) -> dict[str, Tensor]:
    """The two traces, padded; labels on their completions alone."""
    tokenizer, rows = byte_tokenizer(), []
    for trace in TRACES:
        prompt = tokenizer(trace.prompt)["input_ids"]
        rows.append((prompt, tokenizer(trace.completion)["input_ids"]))
    width = max(len(p) + len(c) for p, c in rows)
    ids, mask, labels = [], [], []
    for prompt, completion in rows:
        count = len(prompt) + len(completion)
        pad = width - count
        row = [prompt + completion, [1] * count, [-100] * len(prompt) + completion]
        for target, own, fill in zip((ids, mask, labels), row, (0, 0, -100), strict=True):
            target.append([fill] * pad + own if left else own + [fill] * pad)
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask),
            "labels": torch.tensor(labels)}


def checkpointed(model: Any, reentrant: bool = False) -> Any:
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    return model


def gradients(model: Any, regularizer: SpectralRegularizer, **options: Any) -> dict[str, Tensor]:
    model.train()
    torch.manual_seed(0)
    with regularizer.watch(model) as term:
        loss = model(**batch(), use_cache=False, **options).loss + term()
    loss.backward()
    return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma2"])
@pytest.mark.parametrize("span", ["completion", "sequence"])
def test_values_are_the_means_of_the_extractors_columns(kind: str, span: str) -> None:
    model = tiny_model(kind)
    column = "whole" if span == "sequence" else span
    features = SpectralFeatureExtractor((model, byte_tokenizer()), feature_set=FeatureSet(
        "four", 1, graphs=(GraphFeatures(
            spans=(column,), descriptors=tuple(COLUMNS.values()), signals=("hidden",)),)),
    ).fit_transform(TRACES)
    with SpectralRegularizer(ALL, span=span).watch(model) as term:
        model(**batch())
        value = term()
    for name, column in COLUMNS.items():
        chosen = [i for i, n in enumerate(features.names) if n.startswith(column)]
        assert len(chosen) == model.config.num_hidden_layers
        assert term.values[name] == pytest.approx(features.values[:, chosen].mean(), abs=1e-5)
    assert value.item() == pytest.approx(-0.1 * sum(term.values[n] for n in DESCRIPTORS), abs=1e-6)
    assert term.undefined == 0


def test_targets_directions_weight_and_layers() -> None:
    model, found = tiny_model(), {}
    for name, goal in [("number", 0.4), ("more", "maximize"), ("less", "minimize")]:
        regularizer = SpectralRegularizer({"roughness": goal}, weight=2.0, layers=(1,))
        with regularizer.watch(model) as term:
            model(**{k: v[:1] for k, v in batch().items()})
            found[name] = term().item()
    rough = term.values["roughness"]
    assert found["less"] == pytest.approx(2 * rough)
    assert found["more"] == pytest.approx(-2 * rough)
    assert found["number"] == pytest.approx(2 * (rough - 0.4) ** 2)


def test_the_gradient_is_the_slope_of_the_term_along_any_direction() -> None:
    """Through queries, keys and hidden states, to weights of every layer, in double precision."""
    model = tiny_model(num_hidden_layers=2).double().train()
    regularizer = SpectralRegularizer(
        {"fiedler_value": 0.4, "spectral_entropy": 2.0, "hfer": "maximize",
         "roughness": "minimize"}, weight=1.0, broadening=1e-7)

    def term_of() -> Tensor:
        with regularizer.watch(model) as term:
            model(**batch())
            return term()

    term_of().backward()
    rng = torch.Generator().manual_seed(1)
    weights = [p for p in model.parameters() if p.grad is not None]
    way = [torch.randn(p.shape, generator=rng, dtype=p.dtype) for p in weights]
    slope = sum((p.grad * w).sum().item() for p, w in zip(weights, way, strict=True))
    ends = []
    for step in (1e-4, -2e-4):  # its softmax is in single precision
        with torch.no_grad():
            for p, w in zip(weights, way, strict=True):
                p += step * w
        ends.append(term_of().item())
    assert slope == pytest.approx((ends[0] - ends[1]) / 2e-4, rel=3e-3)
    assert abs(slope) > 0.1


@checkpointing
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("inside", [False, True])
def test_gradients_are_the_same_with_checkpointing(implementation: str, inside: bool) -> None:
    regularizer, found = SpectralRegularizer(ALL, weight=1.0), []
    for wrap in (lambda m: m, checkpointed):
        model = wrap(tiny_model(attention_dropout=0.2)).train()
        model.set_attn_implementation(implementation)
        torch.manual_seed(0)
        with regularizer.watch(model) as term:
            model(**batch(), use_cache=False)
            loss = term()
            if inside:
                loss.backward()
        if not inside:
            loss.backward()
        found.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(found[0][n], found[1][n]) for n in found[0])
    for part in ("q_proj", "k_proj"):  # of the last layer, which only attention can reach
        assert found[0][f"model.layers.2.self_attn.{part}.weight"].abs().max() > 1e-6


@checkpointing
def test_reentrant_checkpointing_is_refused_and_the_model_found_again_as_it_was() -> None:
    model = checkpointed(tiny_model(), reentrant=True).train()
    before = hooks(model)
    with (SpectralRegularizer(ALL).watch(model) as term,
          pytest.raises(ModelError, match="use_reentrant")):
        model(**batch(), use_cache=False)
    assert hooks(model) == before
    assert model.config._attn_implementation == "sdpa"
    model.gradient_checkpointing_disable()
    model(**batch()).loss.backward()
    with pytest.raises(ParameterError, match="no forward pass"):
        term()


def hooks(model: Any) -> int:
    return sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules())


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_the_model_computes_what_it_would_without(implementation: str) -> None:
    ends = []
    for weight in (None, 0.0):
        model = tiny_model(attention_dropout=0.3)
        model.set_attn_implementation(implementation)
        model.train()
        torch.manual_seed(0)
        if weight is None:
            loss = model(**batch()).loss
            loss.backward()
            grads = {n: p.grad for n, p in model.named_parameters()}
        else:
            grads = gradients(model, SpectralRegularizer(ALL, weight=weight))
        ends.append(grads)
        assert not hooks(model)
        assert model.config._attn_implementation == implementation
        assert all(m.training for m in model.modules())
    assert all(torch.equal(ends[0][n], ends[1][n]) for n in ends[0])


def test_padding_on_either_side_changes_nothing() -> None:
    model, found = tiny_model(), []
    regularizer = SpectralRegularizer({"fiedler_value": 0.4, "hfer": 0.2}, weight=1.0)
    for given in (batch(), batch(left=True)):
        mask = given["attention_mask"]
        with regularizer.watch(model) as term:
            model(**given, position_ids=(mask.cumsum(-1) - 1).clamp(min=0))
            found.append(term().item())
    singles = []
    for i in range(2):
        length = int(batch()["attention_mask"][i].sum())
        with regularizer.watch(model) as term:
            model(**{k: v[i:i + 1, :length] for k, v in batch().items()})
            singles.append(term().item())
    assert found == pytest.approx([sum(singles) / 2] * 2, abs=1e-6)


def test_labels_can_be_given_to_the_term_and_short_spans_are_counted() -> None:
    model, given = tiny_model(), batch()
    labels = given.pop("labels")
    with SpectralRegularizer({"hfer": "minimize"}).watch(model) as term:
        model(**given)
        term(labels)
        both = term.values["hfer"]
        short = labels.clone()
        short[1, int((labels[1] != -100).nonzero()[0, 0]) + 1:] = -100
        model(**given)
        term(short)
        assert term.undefined == 3  # layers, of one sequence
        assert term.values["hfer"] != both
        model(**given)
        assert term(torch.full_like(labels, -100)).item() == 0
        assert term.undefined == 6
        model(**given)
        with pytest.raises(ParameterError, match="pass them to term"):
            term()
    model.base_model(**given)  # watched no more


def test_evaluation_passes_do_not_count() -> None:
    model, regularizer = tiny_model(), SpectralRegularizer(ALL)
    with regularizer.watch(model) as term:
        with torch.no_grad():
            model(**batch())
        loss = model(**batch())
        with torch.no_grad():
            model(input_ids=torch.tensor([[3, 4]]))
        assert term().requires_grad
        model(**batch())
        with pytest.raises(ParameterError, match="ran twice"):
            model(**batch())
    assert loss.loss.requires_grad
    with torch.no_grad(), regularizer.watch(model) as term:
        model.generate(batch()["input_ids"][:1], max_new_tokens=1, do_sample=False,
                       pad_token_id=0)  # a single pass, without cache
        assert not term(batch()["input_ids"][:1]).requires_grad


def test_half_precision_and_autocast_are_read_in_single() -> None:
    model = tiny_model().train()
    values = []
    for cast in (False, True):
        with (torch.autocast("cpu", torch.bfloat16, enabled=cast),
              SpectralRegularizer(ALL).watch(model) as term):
            model(**batch())
            assert term().dtype == torch.float32
        values.append(term.values)
    assert values[0] == pytest.approx(values[1], abs=0.01)
    half = tiny_model().bfloat16().train()
    with SpectralRegularizer(ALL).watch(half) as term:
        half(**batch())
        term().backward()
    assert half.model.layers[0].self_attn.q_proj.weight.grad.isfinite().all()


@pytest.mark.parametrize(("options", "match"), [
    ({"targets": {}}, "fiedler_value"), ({"targets": {"energy": 1.0}}, "'energy'"),
    ({"targets": {"hfer": "up"}}, "'up'"), ({"targets": {"hfer": float("nan")}}, "nan"),
    ({"weight": -1.0}, "-1"), ({"broadening": 0.0}, "broadening"),
    ({"span": "prompt"}, "'prompt'"), ({"layers": ()}, "None for all")])
def test_arguments_out_of_range(options: dict[str, Any], match: str) -> None:
    regularizer = SpectralRegularizer(**({"targets": {"hfer": 0.2}} | options))
    with pytest.raises(ParameterError, match=match), regularizer.watch(tiny_model()):
        pass


@pytest.mark.parametrize(("change", "match"), [
    ({"attention_mask": torch.tensor([[1, 0, 1, 1]])}, "padding between"),
    ({"labels": torch.tensor([[5, -100, 6, 7]])}, "several separate"),
    ({"position_ids": torch.tensor([[0, 1, 0, 1]])}, "packed"),
    ({"labels": torch.tensor([[5, 6]])}, "shape")])
def test_batches_whose_spans_cannot_be_told(change: dict[str, Tensor], match: str) -> None:
    ids = torch.tensor([[5, 6, 7, 8]])
    given = {"input_ids": ids} | {k: v for k, v in change.items() if k != "labels"}
    model = tiny_model()
    with SpectralRegularizer(ALL).watch(model) as term:
        model(**given)
        with pytest.raises(ParameterError, match=match):
            term(change.get("labels", ids))


def test_models_that_cannot_be_watched() -> None:
    def term_of(model: Any, **options: Any) -> Tensor:
        with SpectralRegularizer({"fiedler_value": 0.4}, **options).watch(model) as term:
            model(**batch())
            return term()

    with pytest.raises(NoAttentionError, match=r"layers \[7\]"):
        term_of(tiny_model(), layers=(7,))
    with pytest.raises(ModelError, match="no trained weight"):
        term_of(tiny_model().requires_grad_(False))
    with pytest.raises(ModelError, match="transformers model"):
        term_of(torch.nn.Linear(1, 1))
    with pytest.raises(ModelError, match="DataParallel"):
        term_of(torch.nn.DataParallel(tiny_model()))
    with pytest.raises(NoAttentionError, match="any layer"):
        term_of(tiny_model("bloom"))
    flash = tiny_model()
    flash.config._attn_implementation_internal = "flash_attention_2"
    with pytest.raises(ModelError, match="flash_attention_2"):
        term_of(flash)
    broken = tiny_model()
    broken.model.layers[1].self_attn.q_proj.weight.data.fill_(torch.nan)
    with pytest.raises(ModelError, match="layer 1 is not finite"):
        term_of(broken)


def test_a_wind_tunnel_can_be_learned_with_a_term() -> None:
    tunnel = TreePathTunnel(nodes=(6, 8), depth=(2, 4), labels=12)
    ends, regularizer = [], SpectralRegularizer({"roughness": "minimize"}, weight=1.0)

    def with_term(model: Any, ids: Tensor, labels: Tensor) -> Tensor:
        with regularizer.watch(model) as term:
            return supervised_loss(model, ids, labels) + term(labels)

    for loss in (None, supervised_loss, with_term):
        model = path_model(tunnel, "edges", seed=0)
        run = train_reference(tunnel, "edges", model, seed=0, max_steps=2, batch_size=8, loss=loss)
        ends.append(run.losses)
    assert ends[0] == ends[1]
    assert 0 < ends[2][0] - ends[0][0] < 1  # a roughness of random weights
    assert not hooks(model)
