"""A tiny random model of every causal architecture, and the attention it says it has.

    python tests/features/architectures.py

(half a minute) prints the table of docs/architectures.md.
"""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import logging

from validator.errors import NoAttentionError
from validator.features.attention import CapturedForward, attention_rows, captured_forward
from validator.features.fallback import ReplayCall

ARCHITECTURES: tuple[str, ...] = tuple(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
TOKENS = 21
SHARED = 12
WINDOW = 8
LARGEST = 20_000_000
"""Parameters of a model that still counts as tiny."""

SMALL: dict[str, Any] = {
    "vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
    "max_position_embeddings": 128, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    "sliding_window": WINDOW, "is_decoder": True, "embedding_size": 32,
    # encoder-decoder families
    "d_model": 32, "encoder_layers": 2, "decoder_layers": 3, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "ffn_dim": 48, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48,
    "word_embed_proj_dim": 32,
    # experts
    "num_experts": 4, "n_routed_experts": 4, "num_local_experts": 4, "moe_num_experts": 4,
    "num_experts_per_tok": 2, "moe_intermediate_size": 16, "moe_num_active_experts": 2,
    "shared_expert_intermediate_size": 16, "n_group": 1, "topk_group": 1,
    # multi-head latent attention
    "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    # vision towers, which text does not enter
    "image_size": 32, "patch_size": 8, "depth": 1, "encoder_hash_byte_group_vocab": 50,
    "vocab_size_per_layer_input": 96, "hidden_size_per_layer_input": 8, "audio_vocab_size": 32,
    # linear attention beside full attention
    "linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
"""Set wherever a configuration has an attribute of that name."""

LINEAR, FULL = "linear_attention", "full_attention"
LATENT: dict[str, Any] = {"num_key_value_heads": 4}
HYBRID: dict[str, Any] = {"layer_types": [LINEAR, FULL, LINEAR]}
INDEXED: dict[str, Any] = {
    "layer_types": [LINEAR, "indexed_attention", LINEAR], "indexer_n_heads": 2,
    "indexer_kv_heads": 1, "indexer_head_dim": 8, "indexer_budget": 8,
    "indexer_compress_ratio": 4}
MAMBA: dict[str, Any] = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8}
ROTARY: dict[str, Any] = {"rotary_dim": 4}
ABSENT = object()

OWN: dict[str, dict[str, Any]] = {
    **dict.fromkeys(
        ("axk1", "axk2", "deepseek_v2", "deepseek_v3", "deepseek_v32", "dots3_note_text",
         "glm4_moe_lite", "glm_moe_dsa", "longcat_flash", "minicpm3", "youtu"), LATENT),
    **dict.fromkeys(
        ("qwen3_next", "qwen3_5_text", "qwen3_5_moe_text"),
        HYBRID),
    **dict.fromkeys(("codegen", "gptj"), ROTARY),
    "bailing_hybrid": HYBRID | LATENT,
    "kimi_linear": HYBRID | LATENT,
    "bamba": MAMBA | {"attn_layer_indices": [1]},
    "cohere_compass_text": {"rope_parameters": {FULL: {"rope_type": "default", "rope_theta": 1e4}}},
    "dots1": {"n_shared_experts": 1},
    "dots3_note": {"text_config": LATENT},
    "falcon": {"head_dim": ABSENT},
    "falcon_h1": MAMBA | {"mamba_d_ssm": 64, "mamba_chunk_size": 16},
    "gemma3n_text": {"num_kv_shared_layers": 0},
    "gpt_neo": {"attention_types": [[["global", "local"], 1], [["global"], 1]],
                "window_size": WINDOW},
    "granitemoehybrid": MAMBA | HYBRID,
    "got_ocr2": {"text_config": {"model_type": "qwen2"}},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "lfm2_moe": {"layer_types": ["conv", FULL, "conv"]},
    "mamba2": {"num_heads": 8, "head_dim": 8},
    "prophetnet": {"num_hidden_layers": ABSENT, "num_encoder_layers": 3, "num_decoder_layers": 3,
                   "num_decoder_attention_heads": 4, "num_encoder_attention_heads": 4},
    "qwen3_5": {"text_config": HYBRID},
    "qwen3_5_moe": {"text_config": HYBRID},
    "qwen4_exp": {"text_config": INDEXED},
    "qwen4_exp_text": INDEXED,
    "reformer": {"axial_pos_embds": False, "attn_layers": ["local", "lsh", "local"]},
    "xlm": {"causal": True},
    "xlnet": {"max_position_embeddings": ABSENT, "d_head": 8},
    "xlstm": {"v_head_dim": ABSENT},
    "xmod": {"default_language": "en_XX"},
    "zamba": {"num_hidden_layers": 5, "layers_block_type": [LINEAR, "hybrid", LINEAR, "hybrid",
                                                            LINEAR]},
    "zamba2": {"num_hidden_layers": 5, "hybrid_layer_ids": [1, 3],
               "layer_types": [LINEAR, "hybrid", LINEAR, "hybrid", LINEAR]},
    "zaya": {"num_experts_per_tok": 1},
}
"""What an architecture needs on top, or must not be given."""


NO_DEFAULT = {"ValueError", "StrictDataclassClassValidationError",
              "AmbiguousGlobalPerLayerAttributeError"}
"""What configurations raise that have no default, or one per layer; some are private classes."""


def tiny_config(kind: str, **overrides: Any) -> Any:
    """A configuration of the architecture that builds in a moment."""
    cls = CONFIG_MAPPING[kind]
    return cls(**_settings(cls, OWN.get(kind, {}) | overrides))


def _settings(cls: Any, own: Mapping[str, Any]) -> dict[str, Any]:
    parts = getattr(cls, "sub_configs", {})
    try:
        default = cls()
        settings = {name: v for name, v in SMALL.items() if hasattr(default, name)}
    except Exception as error:
        if type(error).__name__ not in NO_DEFAULT:
            raise
        settings = dict(SMALL)
    if "text_config" in parts:  # the others belong to the text part
        settings = {}
    for name, part in parts.items():
        asked = own.get(name, {})
        if part is AutoConfig and "model_type" in asked:
            settings[name] = _settings(CONFIG_MAPPING[asked["model_type"]], asked)
        elif part is not AutoConfig:
            settings[name] = _settings(part, asked)
    settings |= {name: v for name, v in own.items() if name not in parts}
    return {name: v for name, v in settings.items() if v is not ABSENT}


def tiny(kind: str, dtype: torch.dtype = torch.float32, **overrides: Any) -> Any:
    """A random model of the architecture in evaluation mode; always the same."""
    config = tiny_config(kind, **overrides)
    try:
        with torch.device("meta"):
            size = sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())
    except (TypeError, NotImplementedError, RuntimeError):
        size = 0  # cannot be built without memory
    if size > LARGEST:
        raise MemoryError(f"{size} parameters")
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    _enliven(model)
    return model


def _enliven(model: Any) -> None:
    """Larger projections, so that attention is far from uniform and a wrong mask or scale shows."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2 and "emb" not in name and "wte" not in name:
                parameter.mul_(3.0)


def token_ids(rows: int = 2, tokens: int = TOKENS) -> Tensor:
    """(rows, tokens) token ids, none of them special; the first SHARED are the same in all rows."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(5, 90, (rows, tokens), generator=generator)
    ids[:, :SHARED] = ids[0, :SHARED].clone()
    return ids


def assembled(forward: CapturedForward) -> dict[int, Tensor]:
    """Layer -> (B, H, R, T) weights; a captured forward's blocks put together."""
    layers = {}
    for attention in attention_rows(forward):
        total = attention.start + attention.hidden.shape[1]
        # a block is overwritten by the next one
        rows = [torch.nn.functional.pad(b.weights, (0, total - b.weights.shape[-1])).clone()
                for b in attention.blocks]
        layers[attention.layer] = torch.cat(rows, 2)
    return layers


def eager(model: Any, ids: Tensor, **inputs: Any) -> tuple[Any, dict[int, Tensor]]:
    """What the same model returns in eager mode, and what enters each of its layers.

    A second model that is built so, because not all take another mode later. The layers are found
    by their place in the model alone.
    """
    config = copy.deepcopy(model.config)
    twin = AutoModelForCausalLM.from_config(
        config, dtype=model.dtype, attn_implementation="eager").eval()
    twin.load_state_dict(model.state_dict())
    entered: dict[int, Tensor] = {}

    def note(layer: int) -> Callable[..., None]:
        def hook(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            entered.setdefault(layer, args[0] if args else kwargs["hidden_states"])
        return hook

    for name, module in twin.named_modules():
        if re.fullmatch(r"(?:[a-z_]\w*\.)*\d+", name):
            module.register_forward_pre_hook(note(int(name.split(".")[-1])), with_kwargs=True)
    with torch.inference_mode():
        output = twin(ids, output_attentions=True, output_hidden_states=True, **inputs)
    return output, entered


def own_attention(output: Any, layers: list[int]) -> dict[int, Tensor]:
    """Layer -> weights as the model returns them, for each layer or each that has attention."""
    shown = [a for a in output.attentions or () if a is not None]
    if len(shown) == len(layers):
        return dict(zip(layers, shown, strict=True))
    return {layer: shown[layer] for layer in layers}


@dataclass(frozen=True)
class Finding:
    """What reading one architecture gave."""

    kind: str
    route: str
    """``interface``, ``replay`` or ``none``."""
    layers: tuple[int, ...] = ()
    total: int = 0
    attention: float = 0.0
    """Largest difference from the model's own eager weights."""
    hidden: float = 0.0
    """Largest difference from what enters the layer."""
    logits: float = 0.0
    """Largest difference from a plain forward pass and from eager mode."""
    shared: float | None = None
    """Largest difference of rows read after a shared prefix; None where it cannot be shared."""
    row_sum: float = 1.0
    """Smallest sum of a row."""
    note: str = ""


def examine(kind: str, same_kernel: bool = False) -> Finding:
    """Compare what is captured of a tiny model with what it returns itself.

    Args:
        kind: the architecture.
        same_kernel: run the captured forward with the eager function too, so that rounding in the
            fast kernel, which some architectures amplify, plays no part.
    """
    model = tiny(kind)
    if same_kernel:
        model._supports_sdpa = False
    ids = token_ids()
    try:
        forward = captured_forward(model, ids, keep_logits=4)
    except NoAttentionError as error:
        return Finding(kind, "none", note=str(error))
    route = "replay" if isinstance(forward.calls[0], ReplayCall) else "interface"
    hidden, logits = dict(forward.hidden), forward.logits
    ours = assembled(forward)
    output, entered = eager(model, ids)
    with torch.inference_mode():
        plain = model(ids).logits[:, -4:]
    both = (plain, output.logits[:, -4:])
    theirs = own_attention(output, list(ours))
    return Finding(
        kind, route, tuple(ours), len(output.hidden_states) - 1,
        max(difference(ours[i], theirs[i]) for i in ours),
        max(difference(hidden[i], entered[i][:, :TOKENS]) for i in ours),
        max(difference(logits, theirs) for theirs in both),
        _after_prefix(model, ids, ours),
        min(float(w.sum(-1).min()) for w in ours.values()),
    )


def _after_prefix(model: Any, ids: Tensor, whole: dict[int, Tensor]) -> float | None:
    head = captured_forward(model, ids[:1, :SHARED], keep_logits=1, keep_cache=True)
    if head.cache is None:
        return None
    past = copy.deepcopy(head.cache)
    past.batch_repeat_interleave(len(ids))
    rest = assembled(captured_forward(model, ids[:, SHARED:], past=past, keep_logits=1))
    return max(difference(rest[i], whole[i][:, :, SHARED:]) for i in whole)


def difference(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference; raises where the shapes are not the same."""
    assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
    return float((ours - theirs).abs().max())


def table_row(kind: str) -> str:
    """The architecture's line in the table of docs/architectures.md."""
    try:
        found = examine(kind)
    except Exception as error:
        reason = str(error).strip().splitlines()[0][:60]
        return f"| `{kind}` | not checked | | | | {type(error).__name__}: {reason} |"
    if found.route == "none":
        return f"| `{kind}` | none | | | | {found.note.split(':')[0].split(';')[0]} |"
    notes = []
    if len(found.layers) < found.total:
        notes.append(f"attention in {len(found.layers)} of {found.total} layers")
    if found.row_sum < 0.999:
        notes.append("sink: rows sum to less than 1")
    sharing = "no" if found.shared is None else "yes"
    return (f"| `{kind}` | {found.route} | {found.attention:.0e} | {found.hidden:.0e} | {sharing} "
            f"| {'; '.join(notes)} |")


def main() -> None:
    """Print the table."""
    warnings.simplefilter("ignore")
    logging.set_verbosity_error()
    print("| architecture | route | weights | hidden states | prefix sharing | notes |")  # noqa: T201
    print("|---|---|---|---|---|---|")  # noqa: T201
    for kind in sorted(ARCHITECTURES):
        print(table_row(kind), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
