"""Per-token quantities of the model's own predictions: surprisal and next-token entropy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["TokenScores", "baselines", "token_scores"]

CHUNK = 8
"""Positions whose log-probabilities over the vocabulary are held at once, so that they stay in the
processor's cache."""
LOWEST = -1e30


@dataclass(frozen=True, slots=True)
class TokenScores:
    """What the model thought of each token, given the tokens before it; (K,) float32, nats."""

    surprisal: Tensor
    """-log p(token), >= 0."""
    entropy: Tensor
    """Entropy of the distribution the token was drawn from, in [0, log V]."""

    def part(self, first: int, last: int) -> TokenScores:
        """The scores of tokens first..last-1 alone."""
        return TokenScores(self.surprisal[first:last], self.entropy[first:last])


def token_scores(logits: Tensor, targets: Tensor) -> TokenScores:
    """Surprisal of each target and entropy of the distribution that predicted it.

    Args:
        logits: (K, V) logits at the position before each target.
        targets: (K,) token ids.
    """
    surprisal, entropy = [], []
    wide = logits.dtype if logits.dtype == torch.float64 else torch.float32
    room = logits.new_empty(2, min(CHUNK, len(logits)), logits.shape[-1], dtype=wide)
    for part, wanted in zip(torch.split(logits, CHUNK), torch.split(targets, CHUNK), strict=True):
        scores, weights = room[:, : len(part)]
        # The largest score becomes 0, so that near-certain tokens keep their digits.
        torch.sub(part, part.amax(-1, keepdim=True), out=scores)
        torch.softmax(scores, -1, out=weights)
        log_sum = -weights.amax(-1).log()
        surprisal.append(log_sum - scores.gather(-1, wanted.unsqueeze(-1)).squeeze(-1))
        # Scores of -infinity (tokens ruled out) have weight 0 and add nothing.
        entropy.append(log_sum - weights.mul_(scores.clamp_min_(LOWEST)).sum(-1))
    return TokenScores(torch.cat(surprisal), torch.cat(entropy))


def baselines(scores: TokenScores, prompt_length: int) -> NDArray[np.float64]:
    """Values of :data:`validator.columns.BASELINES`, in that order."""
    surprisal = scores.surprisal.double()
    found = torch.stack([-surprisal.mean(), -surprisal.max(), scores.entropy.double().mean()])
    return np.array([prompt_length, len(surprisal), *found.cpu().numpy()])
