"""A control without attention: what can be had from the same inputs by their places alone."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from validator.errors import ParameterError

__all__ = ["PositionMLP"]


class PositionMLP(nn.Module):
    """Every earlier symbol at its own place, through two hidden layers; no attention.

    The input at position t is the embeddings of symbols 0 ... t side by side, zeros for those after
    t, and a learned vector of t. So it sees all that a causal model sees; what it lacks is routing
    by content. It has the parts of a causal LM that training and measuring ask for.
    """

    def __init__(self, vocabulary: int, length: int, *, width: int = 16, hidden: int = 160,
                 seed: int = 0) -> None:
        super().__init__()
        self.config = SimpleNamespace(max_position_embeddings=length)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.base_model = _Body(vocabulary, length, width, hidden)
            self.head = nn.Linear(hidden, vocabulary, bias=False)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.head.weight.device

    def get_output_embeddings(self) -> nn.Linear:
        """What makes logits of hidden states."""
        return self.head

    def forward(self, input_ids: Tensor) -> SimpleNamespace:
        """``logits`` (B, T, V) of ``input_ids`` (B, T); T is the length or less.

        Raises ParameterError for a longer T.
        """
        return SimpleNamespace(logits=self.head(self.base_model(input_ids).last_hidden_state))


class _Body(nn.Module):
    def __init__(self, vocabulary: int, length: int, width: int, hidden: int) -> None:
        super().__init__()
        self.length = length
        self.embedding = nn.Embedding(vocabulary, width)
        self.place = nn.Embedding(length, hidden)
        self.first = nn.Linear(length * width, hidden)
        self.rest = nn.Sequential(nn.GELU(), nn.Linear(hidden, hidden), nn.GELU())

    def forward(self, input_ids: Tensor, **_: Any) -> SimpleNamespace:
        """``last_hidden_state`` (B, T, H); options of transformers models change nothing."""
        size = input_ids.shape[1]
        if size > self.length:
            raise ParameterError(f"expected {self.length} symbols at most, got {size}")
        # The first layer is linear in the places, so the first t of them give a running sum.
        weight = self.first.weight.view(-1, self.length, self.embedding.embedding_dim)[:, :size]
        parts = torch.einsum("btd,htd->bth", self.embedding(input_ids), weight).cumsum(dim=1)
        places = self.place(torch.arange(size, device=input_ids.device))
        return SimpleNamespace(last_hidden_state=self.rest(parts + self.first.bias + places))
