"""Controls without attention: what can be had from the same inputs by their places alone."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from validator.errors import ParameterError

__all__ = ["PositionMLP"]


class PositionMLP(nn.Module):
    """Two hidden layers on symbols at their places and a learned vector of the position.

    With ``sees="last"`` the input at position t is symbol t: a transformer without its attention,
    which knows how much evidence came but not which. With ``sees="all"`` it is symbols 0 ... t side
    by side: all that a causal model sees, and what it lacks is routing by content. It has the parts
    of a causal LM that training and measuring ask for.
    """

    def __init__(self, vocabulary: int, length: int, *, sees: Literal["last", "all"],
                 width: int = 16, hidden: int = 160, seed: int = 0) -> None:
        super().__init__()
        self.config = SimpleNamespace(max_position_embeddings=length)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.base_model = _Body(vocabulary, length, width, hidden, everything=sees == "all")
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
    def __init__(self, vocabulary: int, length: int, width: int, hidden: int, *, everything: bool
                 ) -> None:
        super().__init__()
        self.length, self.everything = length, everything
        self.embedding = nn.Embedding(vocabulary, width)
        self.place = nn.Embedding(length, hidden)
        self.first = nn.Linear((length if everything else 1) * width, hidden)
        self.rest = nn.Sequential(nn.GELU(), nn.Linear(hidden, hidden), nn.GELU())

    def forward(self, input_ids: Tensor, **_: Any) -> SimpleNamespace:
        """``last_hidden_state`` (B, T, H); options of transformers models change nothing."""
        size = input_ids.shape[1]
        if size > self.length:
            raise ParameterError(f"expected {self.length} symbols at most, got {size}")
        places = self.place(torch.arange(size, device=input_ids.device))
        inner = self._inner(self.embedding(input_ids)) + self.first.bias + places
        return SimpleNamespace(last_hidden_state=self.rest(inner))

    def _inner(self, embedded: Tensor) -> Tensor:
        if not self.everything:
            return embedded @ self.first.weight.T
        # The first layer is linear in the places, so the first t of them give a running sum.
        weight = self.first.weight.view(-1, self.length, embedded.shape[2])[:, :embedded.shape[1]]
        return torch.einsum("btd,htd->bth", embedded, weight).cumsum(dim=1)
