"""Per-token quantities of the model's own predictions: surprisal and next-token entropy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["TokenScores", "baselines", "token_scores"]

CHUNK = 256
"""Positions whose log-probabilities over the vocabulary are held at once."""


@dataclass(frozen=True, slots=True)
class TokenScores:
    """What the model thought of each token, given the tokens before it; (K,) float32, nats."""

    surprisal: Tensor
    """-log p(token), >= 0."""
    entropy: Tensor
    """Entropy of the distribution the token was drawn from, in [0, log V]."""


def token_scores(logits: Tensor, targets: Tensor) -> TokenScores:
    """Surprisal of each target and entropy of the distribution that predicted it.

    Args:
        logits: (K, V) logits at the position before each target.
        targets: (K,) token ids.
    """
    surprisal, entropy = [], []
    for part, wanted in zip(torch.split(logits, CHUNK), torch.split(targets, CHUNK), strict=True):
        wide = part if part.dtype == torch.float64 else part.float()
        logp = torch.log_softmax(wide, -1)
        surprisal.append(-logp.gather(-1, wanted.unsqueeze(-1)).squeeze(-1))
        entropy.append(torch.special.entr(logp.exp()).sum(-1))
    return TokenScores(torch.cat(surprisal), torch.cat(entropy))


def baselines(scores: TokenScores, prompt_length: int) -> NDArray[np.float64]:
    """Values of :data:`validator.columns.BASELINES`, in that order."""
    surprisal = scores.surprisal.double()
    return np.array([
        prompt_length, len(surprisal), -surprisal.mean(), -surprisal.max(),
        scores.entropy.double().mean(),
    ])
