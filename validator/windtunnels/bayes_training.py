"""Small reference models that learn a tunnel of evidence from its sequences alone.

The targets are the symbols that were drawn, never a posterior: whatever a model knows of the
posterior it found out. Labels are only where the next symbol is asked for: a bijection's values
after their keys, an HMM's observations, a SULA prompt's labels and answer.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from validator.types import Progress
from validator.windtunnels.controls import PositionMLP
from validator.windtunnels.evidence import EvidenceTunnel
from validator.windtunnels.symbols import symbol_tokenizer
from validator.windtunnels.training import TrainingRun, train_reference

__all__ = ["Shape", "control_model", "reference_model", "save_reference", "train_bayes"]

WARMUP = 200
"""Steps over which the learning rate rises."""
BETA2 = 0.98
"""Of AdamW: at its usual 0.999, after as much CPU time, the entropy error of a bijection of ten
is a fifth larger."""
POSITIONS = 512
Shape = Literal["llama", "gpt2"]
"""Standard transformers configurations."""
SPREAD = 0.1
"""Standard deviation of the first weights. The 0.02 of large models is slow at this width: after
1,500 steps the entropy error of a bijection is a fifth larger."""


def reference_model(
    tunnel: EvidenceTunnel, style: str, *, seed: int, layers: int = 2, width: int = 64,
    heads: int = 2, shape: Shape = "llama",
) -> Any:
    """An untrained model over the symbols of a token style.

    Args:
        tunnel: whose symbols it reads.
        style: a token style of it.
        seed: decides the initial weights; torch's own random state is left as it was.
        layers: decoder layers.
        width: D of the hidden states; a multiple of twice the heads.
        heads: attention heads of each layer, with as many key-value heads.
        shape: ``llama``, or ``gpt2`` with ReLU and an inner layer four times as wide, which takes
            as much CPU time for a step and needs fewer of them where many symbols may come next.
    """
    shared = {"vocab_size": len(symbol_tokenizer(tunnel.symbols(style))), "hidden_size": width,
              "num_hidden_layers": layers, "num_attention_heads": heads, "pad_token_id": 0,
              "bos_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": False,
              "max_position_embeddings": POSITIONS, "initializer_range": SPREAD}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if shape == "llama":
            return LlamaForCausalLM(LlamaConfig(
                **shared, intermediate_size=width, num_key_value_heads=heads))
        return GPT2LMHeadModel(GPT2Config(
            **shared, n_inner=4 * width, activation_function="relu", resid_pdrop=0.0,
            embd_pdrop=0.0, attn_pdrop=0.0))


def control_model(
    tunnel: EvidenceTunnel, style: str, length: int, *, sees: Literal["last", "all"], seed: int
) -> PositionMLP:
    """An untrained model of about as many parameters without attention.

    Args:
        tunnel: whose symbols it reads.
        style: a token style of it.
        length: most symbols of a sequence, the begin-of-sequence symbol included.
        sees: what it is shown at each position, see :class:`.controls.PositionMLP`.
        seed: decides the initial weights.
    """
    return PositionMLP(len(symbol_tokenizer(tunnel.symbols(style))), length, sees=sees, seed=seed)


def train_bayes(
    tunnel: EvidenceTunnel,
    style: str,
    model: Any,
    *,
    seed: int,
    max_steps: int,
    batch_size: int = 64,
    learning_rate: float = 3e-3,
    budget_seconds: float | None = None,
    held_out: Collection[str] = (),
    checkpoints: Collection[int] = (),
    save: Callable[[int], None] | None = None,
    progress: Progress | None = None,
) -> TrainingRun:
    """:func:`.training.train_reference` with a learning rate that falls to 0.

    With a tenth of the rate left at the end, weights still move about by as much as the last digit
    of the entropy error. The arguments are those of that function; ``held_out`` should stay empty
    for tunnels with few problems, e.g. SULA's 2 V^k.
    """
    return train_reference(
        tunnel, style, model, seed=seed, max_steps=max_steps, batch_size=batch_size,
        learning_rate=learning_rate, budget_seconds=budget_seconds, held_out=held_out,
        checkpoints=checkpoints, save=save, progress=progress, warmup=WARMUP, final_rate=0.0,
        beta2=BETA2)


def save_reference(model: Any, tunnel: EvidenceTunnel, style: str, folder: Path) -> None:
    """Write a model and its tokenizer where :func:`validator.models.loading.load_model` reads."""
    model.save_pretrained(folder)
    symbol_tokenizer(tunnel.symbols(style)).save_pretrained(folder)
