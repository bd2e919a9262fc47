"""What the attention rows of a completion add up to so far: O(T) for each new row.

Of a row of T weights every quantity takes one pass: the weights are added to the column sums, from
which the directed Laplacian's diagonal follows (it is triangular, so its eigenvalues are its
diagonal), and the row's entropy, self-attention, share on the prompt and mean surprisal are single
numbers that are written down. Nothing of an earlier row is looked at again.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from validator.features.describe_heads import HeadReading
from validator.features.plan import ReadPlan

__all__ = ["RunningRows"]

FIRST_ROOM = 64
SIGNALS = ("surprisal", "token_entropy")


class RunningRows:
    """Running quantities of L layers, B sequences and H heads over C tokens of the completion.

    Args:
        plan: which of them are needed.
        border: tokens of the prompt, padding included.

    Attributes:
        count: C.
        signals: (B, room, 2) surprisal and entropy of each token, nats.
    """

    def __init__(self, plan: ReadPlan, border: int) -> None:
        self.plan, self.border, self.count = plan, border, 0
        self.attended = [SIGNALS.index(name) for name in plan.attended]
        self.signals = torch.empty(0)
        self.received, self.diagonal, self.entropy = (torch.empty(0) for _ in range(3))
        self.lookback: Tensor | None = None
        self.renyi: Tensor | None = None
        self.averages = torch.empty(0)
        self.graph: Tensor | None = None

    def add(self, weights: Tensor, entropy: Tensor, signals: Tensor) -> None:
        """Take the row of the next token of the completion.

        Args:
            weights: (L, B, H, T), of prompt and completion up to the token itself.
            entropy: (L, B, H) nats.
            signals: (B, 2) surprisal and entropy of the token.
        """
        if self.plan.heads is not None:
            chosen = list(self.plan.heads)
            weights, entropy = weights[:, :, chosen], entropy[:, :, chosen]
        if self.count == 0:
            self._allocate(weights)
        elif self.count == self.received.shape[-1]:
            self._double()
        t = self.count
        own = weights[..., self.border :]
        self.signals[:, t] = signals
        self.received[..., : t + 1] += own
        self.diagonal[..., t] = own[..., -1]
        self.entropy[..., t] = entropy
        if self.lookback is not None:
            self.lookback[..., t] = weights[..., : self.border].sum(-1)
        if self.renyi is not None:
            self.renyi[..., t] = -weights.square().sum(-1).log()
        if self.attended:
            self.averages[..., t, :] = own @ self.signals[:, : t + 1, self.attended]
        if self.graph is not None:
            kept = own.mean(2) if self.plan.graph == "mean" else own
            self.graph[..., t, : t + 1] = kept
        self.count = t + 1

    def reading(self, row: int) -> HeadReading:
        """What :func:`~validator.features.describe_heads.head_blocks` reads, of one sequence.

        Tokens are counted from the border on.
        """
        t = self.count
        return HeadReading(
            self.received[:, row, :, None, :t], (t,), self.diagonal[:, row, :, :t],
            self.entropy[:, row, :, :t],
            None if self.renyi is None else self.renyi[:, row, :, :t],
            self.averages[:, row, :, :t],
            None if self.lookback is None else self.lookback[:, row, :, :t])

    def attention(self, row: int) -> Tensor:
        """(L, C, C) head-mean or (L, H, C, C) attention within the completion."""
        assert self.graph is not None
        return self.graph[:, row, ..., : self.count, : self.count]

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with some of the B sequences."""
        index = list(rows)
        self.signals = self.signals[index]
        for name in ("received", "diagonal", "entropy", "lookback", "renyi", "averages", "graph"):
            value = getattr(self, name)
            if value is not None and value.numel():
                setattr(self, name, value[:, index])

    def _allocate(self, weights: Tensor) -> None:
        layers, batch, heads = weights.shape[:3]
        room = FIRST_ROOM
        shape = (layers, batch, heads, room)
        self.signals = weights.new_zeros(batch, room, len(SIGNALS))
        self.received, self.diagonal, self.entropy = (weights.new_zeros(shape) for _ in range(3))
        self.lookback = weights.new_zeros(shape) if self.plan.lookback else None
        self.renyi = weights.new_zeros(shape) if self.plan.renyi else None
        self.averages = weights.new_zeros(*shape, len(self.attended))
        if self.plan.graph:
            kept = () if self.plan.graph == "mean" else (heads,)
            self.graph = weights.new_zeros(layers, batch, *kept, room, room)

    def _double(self) -> None:
        self.signals = _doubled(self.signals, 1)
        self.received, self.diagonal, self.entropy = (
            _doubled(x, 3) for x in (self.received, self.diagonal, self.entropy))
        self.lookback = None if self.lookback is None else _doubled(self.lookback, 3)
        self.renyi = None if self.renyi is None else _doubled(self.renyi, 3)
        self.averages = _doubled(self.averages, 3)
        if self.graph is not None:
            self.graph = _doubled(_doubled(self.graph, -1), -2)


def _doubled(values: Tensor, axis: int) -> Tensor:
    return torch.cat([values, torch.zeros_like(values)], axis)
