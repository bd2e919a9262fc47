"""The reference models of walks on trees, and of other tunnels of two stages."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from validator.types import Progress
from validator.windtunnels.contract import TokenBatch
from validator.windtunnels.edge_model import ComposedTable, baked, edge_model
from validator.windtunnels.symbols import symbol_tokenizer
from validator.windtunnels.training import BatchSource, TrainingRun, train_reference

__all__ = ["StageTunnel", "path_model", "save_path_model", "train_paths"]

SPREAD = 0.02
"""Standard deviation of the first weights of the Llama-shaped model. A larger one is slow at
finding the node before: after 400 steps 0.1 gives 4% of the paths, 0.02 gives 56%."""
RATES = {"edges": 3e-3, "flat": 2e-3}
"""Highest learning rate by style."""


class StageTunnel(BatchSource, Protocol):
    """A tunnel with a token style to be trained on."""

    def symbols(self, style: str) -> tuple[str, ...]:
        """Every symbol of a token style."""

    def token_batch(self, rng: Any, count: int, style: str) -> TokenBatch:
        """Fresh problems."""


def path_model(
    tunnel: StageTunnel, style: str, *, seed: int, layers: int | None = None,
    heads: int | None = None,
) -> Any:
    """An untrained model over the symbols of a token style.

    Args:
        tunnel: whose symbols it reads.
        style: ``edges`` gives :func:`.edge_model.edge_model`, any other a Llama-shaped model, 64
            wide, whose rotations tell it which token comes before which.
        seed: decides the first weights; torch's own random state is left as it was.
        layers: by default 1 for edges, else 2.
        heads: of each layer, by default 2 for edges, else 4.
    """
    symbols = tunnel.symbols(style)
    if style == "edges":
        return edge_model(symbols, seed=seed, layers=layers or 1, heads=heads or 2)
    config = LlamaConfig(
        vocab_size=len(symbols) + 3, hidden_size=64, intermediate_size=128,
        num_hidden_layers=layers or 2, num_attention_heads=heads or 4,
        num_key_value_heads=heads or 4, max_position_embeddings=512, pad_token_id=0,
        bos_token_id=1, eos_token_id=2, tie_word_embeddings=False, initializer_range=SPREAD)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


def train_paths(
    tunnel: StageTunnel, style: str, model: Any, *, seed: int, max_steps: int,
    learning_rate: float | None = None, budget_seconds: float | None = None,
    held_out: Collection[str] = (),
    checkpoints: Collection[int] = (), save: Callable[[int], None] | None = None,
    progress: Progress | None = None,
) -> TrainingRun:
    """:func:`.training.train_reference` in batches of 64, by default at the style's learning rate.
    """
    rate = RATES[style] if learning_rate is None else learning_rate
    return train_reference(
        tunnel, style, model, seed=seed, max_steps=max_steps, learning_rate=rate,
        budget_seconds=budget_seconds, held_out=held_out, checkpoints=checkpoints, save=save,
        progress=progress)


def save_path_model(model: Any, tunnel: StageTunnel, style: str, folder: Path) -> None:
    """Write a model and its tokenizer where :func:`validator.models.loading.load_model` reads.

    Composed tables are written as plain ones; the model itself stays as it is.
    """
    composed = isinstance(model.get_input_embeddings(), ComposedTable)
    (baked(model) if composed else model).save_pretrained(folder)
    symbol_tokenizer(tunnel.symbols(style)).save_pretrained(folder)
