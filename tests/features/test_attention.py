"""What is captured is what the layers computed, whatever the route; the model is unharmed."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from architectures import SHARED, assembled, tiny, token_ids
from transformers import PreTrainedModel

from validator.errors import ModelError, NoAttentionError, ParameterError
from validator.features import interface, interface_rows
from validator.features.attention import attention_rows, captured_forward
from validator.features.reduction import LayerSums, Request, join, reduce_rows

ROUTES = ("llama", "bloom")
"""One architecture of the attention interface and one that is replayed."""


def snapshot(model: Any) -> dict[str, Any]:
    """Everything of a model that a reading could have left behind."""
    configs = [m.config for m in model.modules() if isinstance(m, PreTrainedModel)]
    configs += [getattr(c, k) for c in configs for k in getattr(c, "sub_configs", {})]
    return {
        "implementations": [c._attn_implementation_internal for c in configs],
        "flags": [(c.output_attentions, c.output_hidden_states, c.use_cache)
                  for c in configs if hasattr(c, "use_cache")],
        "training": [m.training for m in model.modules()],
        "hooks": [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()],
        "weights": {n: (p.data_ptr(), p.dtype, p.requires_grad)
                    for n, p in model.named_parameters()},
    }


def settled(kind: str, **settings: Any) -> Any:
    """A tiny model that ran before: transformers leaves inert hooks of its own the first time."""
    model = tiny(kind, **settings)
    with torch.inference_mode():
        model(token_ids(), output_hidden_states=True)
    return model


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interface_rows, "BLOCK_BYTES", 4000)
    monkeypatch.setattr(interface_rows, "BLOCK_ROWS", 1)


class BrokenError(Exception):
    """Raised in the middle of a forward pass."""


def broken(*_: Any, **__: Any) -> None:
    raise BrokenError


@pytest.mark.parametrize("kind", [*ROUTES, "gpt_oss", "gemma2", "llama4", "jamba"])
@pytest.mark.parametrize("training", [False, True])
def test_the_model_is_left_as_found(kind: str, training: bool) -> None:
    model = settled(kind)
    next(iter(model.children())).train(training)  # some modules, not all
    before = snapshot(model)
    assembled(captured_forward(model, token_ids(), keep_logits=1, keep_cache=True))
    assert snapshot(model) == before
    assert interface._active.get() is None


@pytest.mark.parametrize("kind", ROUTES)
@pytest.mark.parametrize("deep", [False, True])
def test_the_model_is_left_as_found_after_an_exception(kind: str, deep: bool) -> None:
    model = settled(kind).train()
    layer = (model.model.layers if kind == "llama" else model.transformer.h)[1]
    target = next(m for n, m in layer.named_modules() if n.endswith("attention") or "attn" in n)
    (target if deep else layer).forward = broken
    before = snapshot(model)
    with pytest.raises(BrokenError):
        captured_forward(model, token_ids(), keep_logits=1)
    assert snapshot(model) == before
    assert interface._active.get() is None


@pytest.mark.parametrize("kind", ROUTES)
def test_the_model_is_left_as_found_when_forming_weights_fails(kind: str) -> None:
    model = settled(kind).train()
    layer = (model.model.layers[1].self_attn if kind == "llama"
             else model.transformer.h[1].self_attention)
    forward = captured_forward(model, token_ids(), keep_logits=1)
    before = snapshot(model)
    if kind == "llama":
        layer.num_key_value_groups = "three"
    else:
        layer.forward = broken
    reading = attention_rows(forward, [1])
    with pytest.raises((BrokenError, TypeError)):
        list(next(reading).blocks)
    assert snapshot(model) == before


@pytest.mark.parametrize(("kind", "dropout"), [
    ("llama", {"attention_dropout": 0.5}),
    ("gpt2", {"attn_pdrop": 0.5, "resid_pdrop": 0.5, "embd_pdrop": 0.5}),
    ("bloom", {"attention_dropout": 0.5, "hidden_dropout": 0.5}),
    ("gpt_neo", {"attention_dropout": 0.5, "resid_dropout": 0.5}),
])
def test_a_model_in_training_mode_is_read_without_dropout(
    kind: str, dropout: dict[str, float]
) -> None:
    model = tiny(kind, **dropout)
    expected = captured_forward(model, token_ids(), keep_logits=3)
    logits, weights = expected.logits, assembled(expected)
    model.train()
    forward = captured_forward(model, token_ids(), keep_logits=3)
    torch.testing.assert_close(forward.logits, logits, rtol=0, atol=0)
    for layer, ours in assembled(forward).items():
        torch.testing.assert_close(ours, weights[layer], rtol=0, atol=0)


@pytest.mark.parametrize("kind", ROUTES)
def test_only_the_layers_asked_for_are_set_aside(kind: str) -> None:
    model = tiny(kind)
    everything = assembled(captured_forward(model, token_ids(), keep_logits=1))
    some = captured_forward(model, token_ids(), keep_logits=1, layers=[2, 0])
    assert [call.layer for call in some.calls] == sorted(some.hidden) == [0, 2]
    for layer, ours in assembled(some).items():
        torch.testing.assert_close(ours, everything[layer], rtol=0, atol=0)
    forward = captured_forward(model, token_ids(), keep_logits=1)
    assert [a.layer for a in attention_rows(forward, {1})] == [1]
    assert not forward.calls
    assert not forward.hidden


@pytest.mark.parametrize("kind", [*ROUTES, "jamba"])
def test_a_layer_without_attention_is_an_error_that_names_those_that_have(kind: str) -> None:
    model = tiny(kind)
    there = "1" if kind == "jamba" else "0, 1, 2"
    with pytest.raises(ParameterError, match=rf"layer 9 can.*: {there}$"):
        captured_forward(model, token_ids(), keep_logits=1, layers=[1, 9])
    with pytest.raises(ParameterError, match="no layers"):
        captured_forward(model, token_ids(), keep_logits=1, layers=[])
    forward = captured_forward(model, token_ids(), keep_logits=1, layers=[1])
    with pytest.raises(ParameterError, match=r"layer 0.*set aside: 1$"):
        attention_rows(forward, [0, 1])


@pytest.mark.parametrize("kind", ROUTES)
def test_blocks_follow_each_other_and_cover_the_rows(kind: str) -> None:
    forward = captured_forward(tiny(kind), token_ids(), keep_logits=1)
    for attention in attention_rows(forward):
        shapes = [(block.start, *block.weights.shape[-2:]) for block in attention.blocks]
        assert len(shapes) > 1
        starts = np.cumsum([0] + [rows for _, rows, _ in shapes])
        assert [start for start, _, _ in shapes] == starts[:-1].tolist()
        assert [keys for _, _, keys in shapes] == starts[1:].tolist()
        assert starts[-1] == 21


def test_a_forward_that_was_read_cannot_be_read_again() -> None:
    forward = captured_forward(tiny("llama"), token_ids(), keep_logits=1)
    assert len(assembled(forward)) == 3
    with pytest.raises(ParameterError, match="already"):
        attention_rows(forward)


@pytest.mark.parametrize(("kind", "settings", "reason"), [
    ("mamba", {}, "no attention was seen in MambaForCausalLM"),
    ("mamba2", {}, "no attention was seen"),
    ("falcon_mamba", {}, "no attention was seen"),
    ("rwkv", {}, "no attention was seen in RwkvForCausalLM"),
    ("xlnet", {}, "no attention was seen"),
    ("bert", {"is_decoder": False}, "attends to later tokens"),
    ("rembert", {"is_decoder": False}, "attends to later tokens"),
    ("xlm", {"causal": False}, "attends to later tokens"),
    ("diffllama", {}, "more than once"),
    ("longcat_flash", {}, "more than once"),
    ("gemma3n_text", {}, "does not return the hidden states"),
])
@pytest.mark.filterwarnings("ignore:.*:UserWarning")
def test_what_cannot_be_read_is_a_typed_error(
    kind: str, settings: dict[str, Any], reason: str
) -> None:
    model = settled(kind, **settings)
    before = snapshot(model)
    with pytest.raises(NoAttentionError, match=reason):
        captured_forward(model, token_ids(), keep_logits=1)
    assert snapshot(model) == before


def test_a_choice_of_keys_left_to_the_attention_function_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Sparse models do so under any name but eager and sdpa; ours must pass for sdpa."""
    model = tiny("deepseek_v32", index_topk=4)
    weights = assembled(captured_forward(model, token_ids(), keep_logits=1))
    assert all(int((w > 0).sum(-1).max()) == 4 for w in weights.values())
    monkeypatch.setattr(interface, "IMPLEMENTATION", "spectral_validator")
    with pytest.raises(NoAttentionError, match="choice of keys"):
        captured_forward(model, token_ids(), keep_logits=1)


def test_a_cache_that_keeps_a_window_cannot_be_followed() -> None:
    model = tiny("mistral")
    with torch.inference_mode():
        past = model(token_ids()[:, :12], use_cache=True).past_key_values
    with pytest.raises(NoAttentionError, match="expected 9 queries and 21 keys"):
        captured_forward(model, token_ids()[:, 12:], past=past, keep_logits=1)


def test_a_replayed_model_shares_no_prefix() -> None:
    model = tiny("bloom")
    assert captured_forward(model, token_ids(), keep_logits=1, keep_cache=True).cache is None
    with torch.inference_mode():
        past = model(token_ids()[:, :12], use_cache=True).past_key_values
    with pytest.raises(ModelError, match="after a cache"):
        captured_forward(model, token_ids()[:, 12:], past=past, keep_logits=1)


@pytest.mark.parametrize("kind", ["mistral", "gemma2", "jamba", "minimax"])
def test_a_cache_that_cannot_be_copied_is_not_given_out(kind: str) -> None:
    forward = captured_forward(tiny(kind), token_ids(), keep_logits=1, keep_cache=True)
    assert forward.cache is None


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_value_norm_is_the_norm_of_what_the_value_projection_gives(heads: int) -> None:
    model = tiny("llama", num_key_value_heads=heads)
    seen: list[torch.Tensor] = []
    hook = model.model.layers[1].self_attn.v_proj.register_forward_hook(
        lambda _module, _args, out: seen.append(out))
    whole = captured_forward(model, token_ids(), keep_logits=1, keep_cache=True)
    hook.remove()
    expected = np.linalg.norm(seen[0].numpy(), axis=-1)
    norms = {a.layer: a.value_norm for a in attention_rows(whole)}
    np.testing.assert_allclose(norms[1].numpy(), expected, rtol=1e-5)
    head = captured_forward(model, token_ids()[:, :SHARED], keep_logits=1, keep_cache=True)
    rest = captured_forward(model, token_ids()[:, SHARED:], past=head.cache, keep_logits=1)
    after = {a.layer: (a.start, a.value_norm) for a in attention_rows(rest)}
    assert after[1][0] == SHARED
    np.testing.assert_allclose(after[1][1].numpy(), expected[:, SHARED:], rtol=1e-4)


def test_a_replayed_layer_has_no_value_norm() -> None:
    forward = captured_forward(tiny("bloom"), token_ids(), keep_logits=1)
    assert [a.value_norm for a in attention_rows(forward)] == [None] * 3


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma2", "gpt2", "bloom", "falcon", "gpt_neo"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_weights_are_formed_in_float32(kind: str, dtype: torch.dtype) -> None:
    model = tiny(kind, dtype=dtype)
    twin = copy.deepcopy(model).float()
    weights = assembled(captured_forward(model, token_ids(), keep_logits=1))
    expected = assembled(captured_forward(twin, token_ids(), keep_logits=1))
    assert {p.dtype for p in model.parameters()} == {dtype}
    for layer, ours in weights.items():
        assert ours.dtype == torch.float32
        np.testing.assert_allclose(ours.double().sum(-1).numpy(), 1.0, rtol=0, atol=1e-6)
        # queries and keys themselves carry the rounding of the layers before
        assert float((ours - expected[layer]).abs().max()) < (
            0.2 if dtype == torch.bfloat16 else 0.03)


def test_double_precision_stays_double() -> None:
    forward = captured_forward(tiny("llama", dtype=torch.float64), token_ids(), keep_logits=1)
    weights = assembled(forward)
    assert {w.dtype for w in weights.values()} == {torch.float64}


def test_what_a_row_lacks_went_to_the_sink() -> None:
    """Softmax over the scores and one learned logit per head, in double precision NumPy."""
    model = tiny("gpt_oss", layer_types=["full_attention"] * 3)
    with torch.no_grad():
        model.model.layers[1].self_attn.sinks.copy_(torch.tensor([-2.0, 0.0, 1.0, 3.0]))
    forward = captured_forward(model, token_ids(), keep_logits=1)
    call = forward.calls[1]
    assert isinstance(call, interface_rows.InterfaceCall)
    key = call.key.repeat_interleave(2, 1).double().numpy()
    scores = call.query.double().numpy() @ key.swapaxes(-1, -2) * 8**-0.5
    raised = np.exp(np.where(np.tril(np.ones(scores.shape[-2:])), scores, -np.inf))
    sink = np.exp(call.module.sinks.detach().double().numpy())[None, :, None]
    weights = assembled(forward)[1]
    missing = 1 - weights.double().sum(-1).numpy()
    np.testing.assert_allclose(missing, sink / (sink + raised.sum(-1)), atol=1e-6)
    assert missing.min() > 0.001


@pytest.mark.parametrize("kind", ["mistral", "gemma3_text", "gpt_neo"])
def test_a_sliding_layer_attends_to_its_window_only(kind: str) -> None:
    weights = assembled(captured_forward(tiny(kind), token_ids(), keep_logits=1))
    rows, keys = np.indices((21, 21))
    beyond = torch.from_numpy((rows - keys >= 8) | (keys > rows))
    sliding = [w for w in weights.values() if not bool(w[..., beyond].any())]
    assert sliding
    inside = sliding[0].sum(-1)
    np.testing.assert_allclose(inside.numpy(), 1.0, atol=1e-6)


def request(signals: torch.Tensor, real: torch.Tensor) -> Request:
    return Request(real.unsqueeze(1), signals, graph="mean")


def reduced(forward: Any, asked: Request) -> Iterator[LayerSums]:
    for attention in attention_rows(forward):
        yield reduce_rows(attention, asked)


def test_rows_after_a_shared_prefix_join_to_the_whole() -> None:
    model, ids = tiny("llama"), token_ids()[:1]
    signals, real = torch.rand(1, 21, 1), torch.ones(1, 21, dtype=torch.bool)
    whole = list(reduced(captured_forward(model, ids, keep_logits=1), request(signals, real)))
    head = captured_forward(model, ids[:, :12], keep_logits=1, keep_cache=True)
    first = list(reduced(head, request(torch.zeros(1, 0, 1), real[:, :12])))
    rest = captured_forward(model, ids[:, 12:], past=head.cache, keep_logits=1)
    for i, sums in enumerate(reduced(rest, request(signals[:, 12:], real[:, 12:]))):
        joined = join(first[i], sums)
        for name in ("column_sums", "self_attention", "row_entropy", "hidden", "value_norm",
                     "graph"):
            torch.testing.assert_close(
                getattr(joined, name), getattr(whole[i], name), atol=1e-5, rtol=1e-4)


def test_reduction_is_the_brute_force_one() -> None:
    model, ids = tiny("llama"), token_ids()
    real = torch.ones(2, 21, dtype=torch.bool)
    real[1, 9:] = False
    signals = torch.rand(2, 21, 2) * real[..., None]
    weights = assembled(captured_forward(model, ids, keep_logits=1))[1]
    forward = captured_forward(model, ids, keep_logits=1)
    sums = list(reduced(forward, request(signals, real)))[1]
    for b, n in ((0, 21), (1, 9)):
        A = weights[b, :, :n, :n]
        torch.testing.assert_close(sums.column_sums[b, :, 0, :n], A.sum(1))
        assert sums.graph is not None
        torch.testing.assert_close(sums.graph[b, :n, :n], A.mean(0))
        torch.testing.assert_close(sums.attended[b, :, :n], A @ signals[b, :n])
        logs = torch.where(A > 0, A.log(), torch.zeros(()))
        torch.testing.assert_close(sums.row_entropy[b, :, :n], -(A * logs).sum(-1),
                                   atol=1e-5, rtol=1e-4)


def test_attention_that_is_not_finite_names_layer_and_head(make_tiny: Callable[..., Any]) -> None:
    model = make_tiny("llama")
    with torch.no_grad():
        model.model.layers[1].self_attn.q_proj.weight[8:16] = float("nan")
    forward = captured_forward(model, token_ids()[:1, :6], keep_logits=1)
    asked = request(torch.zeros(1, 6, 0), torch.ones(1, 6, dtype=torch.bool))
    layers = reduced(forward, asked)
    next(layers)
    with pytest.raises(ModelError, match="layer 1, head 1"):
        next(layers)
