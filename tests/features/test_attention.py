"""What is captured equals what the model's own eager attention computes; the model is unharmed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import MambaConfig, MambaForCausalLM

from validator.errors import ModelError, NoAttentionError
from validator.features import attention as capture
from validator.features.attention import attention_rows, captured_forward
from validator.features.reduction import join, reduce_rows

KINDS = ["llama", "qwen2", "mistral", "gemma2", "gemma3_text", "phi3", "gpt2", "gpt_neox", "olmo2"]


def assemble(model: Any, ids: torch.Tensor, **options: Any) -> list[torch.Tensor]:
    forward = captured_forward(model, ids, keep_logits=1, **options)
    layers = []
    for blocks in attention_rows(forward):
        total = blocks[-1].weights.shape[-1]
        rows = [torch.nn.functional.pad(b.weights, (0, total - b.weights.shape[-1]))
                for b in blocks]
        layers.append(torch.cat(rows, 2))
    return layers


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("block_bytes", [1, 2**24])
def test_captured_weights_are_the_eager_ones(
    kind: str, block_bytes: int, make_tiny: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capture, "BLOCK_BYTES", block_bytes)
    extra = {"sliding_window": 8} if kind in ("mistral", "gemma2", "gemma3_text") else {}
    model = make_tiny(kind, **extra)
    ids = torch.randint(3, 300, (2, 21))
    ours = assemble(model, ids)
    model.set_attn_implementation("eager")
    with torch.inference_mode():
        expected = model(ids, output_attentions=True).attentions
    assert len(ours) == len(expected)
    for mine, theirs in zip(ours, expected, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_the_models_own_output_is_unchanged_and_it_is_left_as_found(
    kind: str, make_tiny: Callable[..., Any]
) -> None:
    model = make_tiny(kind)
    ids = torch.randint(3, 300, (2, 15))
    before = model.config._attn_implementation
    with torch.inference_mode():
        expected = model(ids, output_hidden_states=True)
    forward = captured_forward(model, ids, keep_logits=4)
    torch.testing.assert_close(forward.logits, expected.logits[:, -4:], atol=1e-5, rtol=1e-4)
    for mine, theirs in zip(forward.hidden, expected.hidden_states, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)
    assert model.config._attn_implementation == before


def test_the_model_is_left_as_found_after_an_exception(tiny: tuple[Any, Any]) -> None:
    model = tiny[0]
    before = model.config._attn_implementation
    with pytest.raises(IndexError):
        captured_forward(model, torch.tensor([[10_000]]), keep_logits=1)
    assert model.config._attn_implementation == before
    assert capture._active.get() is None


@pytest.mark.filterwarnings("ignore:.*mamba.*:UserWarning")
def test_a_model_without_attention_is_a_typed_error() -> None:
    config = MambaConfig(vocab_size=50, hidden_size=16, num_hidden_layers=2, state_size=4)
    with pytest.raises(NoAttentionError, match="mamba"):
        captured_forward(MambaForCausalLM(config).eval(), torch.tensor([[3, 4, 5]]), keep_logits=1)


def test_rows_after_a_shared_prefix_join_to_the_whole(tiny: tuple[Any, Any]) -> None:
    model = tiny[0]
    ids = torch.randint(3, 300, (1, 19))
    signals, real = torch.zeros(1, 19, 1), torch.ones(1, 19, dtype=torch.bool)
    whole = [reduce_rows(b, real, signals)
             for b in attention_rows(captured_forward(model, ids, keep_logits=1))]
    head = captured_forward(model, ids[:, :12], keep_logits=1, keep_cache=True)
    first = [reduce_rows(b, real[:, :12], signals[:, :12]) for b in attention_rows(head)]
    rest = captured_forward(model, ids[:, 12:], past=head.cache, keep_logits=1)
    for i, blocks in enumerate(attention_rows(rest)):
        joined = join(first[i], reduce_rows(blocks, real[:, 12:], signals[:, 12:]))
        for name in ("column_sums", "self_attention", "row_entropy", "head_mean", "hidden"):
            torch.testing.assert_close(
                getattr(joined, name), getattr(whole[i], name), atol=1e-5, rtol=1e-4)


def test_reduction_is_the_brute_force_one(tiny: tuple[Any, Any]) -> None:
    model = tiny[0]
    ids = torch.randint(3, 300, (2, 13))
    real = torch.ones(2, 13, dtype=torch.bool)
    real[1, 9:] = False
    signals = torch.rand(2, 13, 2) * real[..., None]
    weights = assemble(model, ids)[1]
    forward = captured_forward(model, ids, keep_logits=1)
    sums = [reduce_rows(b, real, signals) for b in attention_rows(forward)][1]
    for b, n in ((0, 13), (1, 9)):
        A = weights[b, :, :n, :n]
        torch.testing.assert_close(sums.column_sums[b, :, :n], A.sum(1))
        torch.testing.assert_close(sums.head_mean[b, :n, :n], A.mean(0))
        torch.testing.assert_close(sums.attended[b, :, :n], A @ signals[b, :n])
        logs = torch.where(A > 0, A.log(), torch.zeros(()))
        torch.testing.assert_close(sums.row_entropy[b, :, :n], -(A * logs).sum(-1))


def test_attention_that_is_not_finite_names_layer_and_head(make_tiny: Callable[..., Any]) -> None:
    model = make_tiny("llama")
    with torch.no_grad():
        model.model.layers[1].self_attn.q_proj.weight[8:16] = float("nan")
    ids = torch.randint(3, 300, (1, 6))
    forward = captured_forward(model, ids, keep_logits=1)
    real = torch.ones(1, 6, dtype=torch.bool)
    layers = attention_rows(forward)
    reduce_rows(next(layers), real, torch.zeros(1, 6, 0))
    with pytest.raises(ModelError, match="layer 1, head 1"):
        reduce_rows(next(layers), real, torch.zeros(1, 6, 0))
