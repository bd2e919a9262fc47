"""What is captured of each architecture is what the model itself returns in eager mode."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from architectures import ARCHITECTURES, assembled, eager, examine, own_attention, tiny, token_ids

from validator.features import interface_rows
from validator.features.attention import attention_rows, captured_forward
from validator.features.fallback import ReplayCall
from validator.types import AttentionRows

INTERFACE = (
    "llama", "qwen2", "qwen3", "mistral", "gemma", "gemma2", "gemma3_text", "phi", "phi3", "gpt2",
    "gpt_neox", "gpt_bigcode", "mixtral", "qwen3_moe", "gpt_oss", "olmo", "olmo2", "smollm3",
    "cohere", "cohere2", "falcon_h1", "deepseek_v3", "qwen3_next", "jamba", "granite",
    "starcoder2", "stablelm", "glm4", "opt", "nemotron", "helium", "ministral", "llama4_text",
)
REPLAY = ("bloom", "falcon", "gptj", "gpt_neo", "mpt", "codegen", "openai-gpt", "xglm")

UNREADABLE = {
    "big_bird", "cpmant", "xlnet",                       # no weights by token
    "blt", "diffllama", "hrm_text", "longcat_flash",     # several maps in one layer
    "deepseek_v4", "gemma3n_text", "hy_v4",              # several streams of hidden states
    "falcon_mamba", "mamba", "mamba2", "rwkv",           # no attention
}
"""Architectures that are refused by name."""
NOT_TINY = {
    "dbrx", "dots3_note", "dots3_note_text", "emu3", "fuyu", "gemma3", "gemma3n",
    "gemma4_assistant", "gemma4_unified_assistant", "mllama", "moss_transcribe_diarize",
    "musicgen", "musicgen_melody", "xlstm",
}
"""Architectures the generic recipe cannot build small; most hold a text model that is checked."""
AMPLIFYING = {"gemma4", "gemma4_text", "gemma4_unified", "gemma4_unified_text"}
"""Normalised queries and no scale: rounding of the fast kernel grows past 1e-6 in later layers."""


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several blocks of rows for 21 tokens."""
    monkeypatch.setattr(interface_rows, "BLOCK_BYTES", 4000)
    monkeypatch.setattr(interface_rows, "BLOCK_ROWS", 1)


def lengths_padded(ids: torch.Tensor, length: int, side: str) -> tuple[Any, Any, slice]:
    """The second row cut to ``length`` and padded: ids, attention mask, where its tokens are."""
    padded, mask = ids.clone(), torch.ones_like(ids)
    gap = ids.shape[1] - length
    if side == "left":
        padded[1, gap:], padded[1, :gap], mask[1, :gap] = ids[1, :length], 0, 0
        return padded, mask, slice(gap, None)
    padded[1, length:], mask[1, length:] = 0, 0
    return padded, mask, slice(None, length)


def reference(model: Any, ids: torch.Tensor, length: int, side: str) -> tuple[Any, Any, slice]:
    """Attention and hidden states of the second row's ``length`` tokens in eager mode."""
    if side == "none":
        output, entered = eager(model, ids[1:, :length])
        return output, entered, slice(None)
    padded, mask, where = lengths_padded(ids, length, side)
    inputs = {"attention_mask": mask}
    if side == "left" and "position_ids" in inspect.signature(model.forward).parameters:
        inputs["position_ids"] = (mask.cumsum(-1) - 1).clamp_min(0)
    output, entered = eager(model, padded, **inputs)
    return output, entered, where


@pytest.mark.parametrize("kind", [*INTERFACE, *REPLAY])
@pytest.mark.parametrize("side", ["none", "left", "right"])
def test_weights_and_hidden_states_are_the_models_own(kind: str, side: str) -> None:
    model, ids, length = tiny(kind), token_ids(), 14
    padded, _, _ = lengths_padded(ids, length, "right")
    forward = captured_forward(model, padded, keep_logits=1)
    assert {isinstance(call, ReplayCall) for call in forward.calls} == {kind in REPLAY}
    hidden = dict(forward.hidden)
    ours = assembled(forward)
    output, entered, where = reference(model, ids, length, side)
    for layer, theirs in own_attention(output, list(ours)).items():
        row = theirs[-1, :, where, where]
        torch.testing.assert_close(ours[layer][1, :, :length, :length], row, atol=1e-6, rtol=0)
        torch.testing.assert_close(
            hidden[layer][1, :length], entered[layer][-1, where], atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", [*INTERFACE, *REPLAY])
def test_the_models_own_output_is_unchanged(kind: str) -> None:
    model, ids = tiny(kind), token_ids()
    forward = captured_forward(model, ids, keep_logits=5)
    with torch.inference_mode():
        plain = model(ids).logits[:, -5:]
    torch.testing.assert_close(forward.logits, plain, atol=1e-5, rtol=0)
    torch.testing.assert_close(
        forward.logits, eager(model, ids)[0].logits[:, -5:], atol=1e-5, rtol=0)


class Rows:
    """Keeps all rows of one layer."""

    def __init__(self) -> None:
        self.parts: list[Any] = []

    def add(self, block: AttentionRows) -> None:
        self.parts.append((block.start, block.weights.clone(), block.entropy))


@pytest.mark.parametrize("kind", [*INTERFACE, *REPLAY])
def test_weights_read_while_the_model_runs_are_the_same(kind: str) -> None:
    """Where they are plain; elsewhere they are set aside as ever."""
    model, ids = tiny(kind), token_ids()
    expected = assembled(captured_forward(model, ids, keep_logits=5))
    forward = captured_forward(model, ids, keep_logits=5, consumer=Rows)
    assert [call.layer for call in forward.calls] == list(expected)
    for layer, rows in forward.consumed.items():
        for start, weights, entropy in rows.parts:  # type: ignore[attr-defined]
            visible = weights.shape[-1]
            theirs = expected[layer][:, :, start : start + weights.shape[2], :visible]
            torch.testing.assert_close(weights, theirs, atol=2e-6, rtol=0)
            torch.testing.assert_close(
                entropy, torch.special.entr(theirs).sum(-1), atol=1e-5, rtol=0)
        covered = sum(w.shape[2] for _, w, _ in rows.parts)  # type: ignore[attr-defined]
        assert covered == ids.shape[1]
    left = {call.layer for call in forward.calls} - set(forward.consumed)
    read = {a.layer: list(a.blocks) for a in attention_rows(forward)}
    assert all(bool(read[layer]) == (layer in left) for layer in read)
    with torch.inference_mode():
        plain = model(ids).logits[:, -5:]
    torch.testing.assert_close(forward.logits, plain, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("kind", "layers"), [
    ("llama", 3), ("gpt2", 3), ("qwen3", 3), ("gemma2", 0), ("gpt_oss", 0), ("bloom", 0)])
def test_which_layers_are_read_while_the_model_runs(kind: str, layers: int) -> None:
    forward = captured_forward(tiny(kind), token_ids(), keep_logits=1, consumer=Rows)
    assert len(forward.consumed) == layers
    half = tiny(kind).to(torch.bfloat16)
    assert not captured_forward(half, token_ids(), keep_logits=1, consumer=Rows).consumed


def test_rows_after_a_cache_are_read_while_the_model_runs() -> None:
    model, ids = tiny("llama"), token_ids()
    head = captured_forward(model, ids[:, :9], keep_logits=1, keep_cache=True, consumer=Rows)
    tail = captured_forward(
        model, ids[:, 9:], past=head.cache, keep_logits=1, layers=[1], consumer=Rows)
    whole = assembled(captured_forward(model, ids, keep_logits=1))
    assert list(tail.consumed) == [1]
    for start, weights, _ in tail.consumed[1].parts:  # type: ignore[attr-defined]
        theirs = whole[1][:, :, start : start + weights.shape[2], : weights.shape[-1]]
        torch.testing.assert_close(weights, theirs, atol=2e-6, rtol=0)


@pytest.mark.parametrize("kind", ["falcon_h1", "qwen3_next", "jamba", "zamba2", "recurrent_gemma"])
def test_layers_of_hybrids_have_their_true_index(kind: str) -> None:
    expected = {"falcon_h1": [0, 1, 2], "qwen3_next": [1], "jamba": [1], "zamba2": [1, 3],
                "recurrent_gemma": [2]}
    forward = captured_forward(tiny(kind), token_ids(), keep_logits=1)
    assert [call.layer for call in forward.calls] == expected[kind]


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gpt2", "gpt_neox", "phi", "olmo2", "opt",
                                  "granite", "qwen3", "roberta"])
def test_rows_after_a_shared_prefix_are_the_same_rows(kind: str) -> None:
    shared = examine(kind).shared
    assert shared is not None
    assert shared <= 1e-6


@pytest.mark.parametrize("kind", sorted(AMPLIFYING - {"gemma4", "gemma4_unified"}))
def test_differences_past_1e_6_are_those_of_the_fast_kernel(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interface_rows, "BLOCK_BYTES", 2**24)  # all rows in one product, as eager
    found = examine(kind, same_kernel=True)
    assert found.attention <= 1e-6
    assert found.hidden <= 1e-6


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_no_architecture_is_read_wrongly() -> None:
    """Of all causal architectures of transformers, each is read right or refused by name."""
    wrong, refused, unbuilt = [], set(), {}
    for kind in ARCHITECTURES:
        try:
            found = examine(kind)
        except Exception as error:
            unbuilt[kind] = f"{type(error).__name__}: {error}"
            continue
        if found.route == "none":
            refused.add(kind)
        exact = 5e-5 if kind in AMPLIFYING else 1e-6
        if found.attention > exact or found.hidden > 5e-5 or found.logits > 1e-5:
            wrong.append(str(found))
        if found.shared is not None and found.shared > 2e-6:
            wrong.append(str(found))
    assert wrong == []
    known = set(ARCHITECTURES)
    assert refused == UNREADABLE & known
    assert {kind: why for kind, why in unbuilt.items() if kind not in NOT_TINY} == {}
