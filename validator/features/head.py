"""Token scores without the logits of all tokens at once.

Logits of a few thousand tokens over a vocabulary of 50,000 take more memory than all that is read
of the attention. Where a model's logits are its output embedding applied to its last hidden states
and nothing else, which is found by comparison, they are formed a few tokens at a time.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from validator.features.tokens import TokenScores, token_scores
from validator.features.untouched import evaluating

__all__ = ["plain_head", "scores_from_hidden"]

ROWS = 128
"""Tokens whose logits are held at once."""
TOLERANCE = 1e-5
SHAPED = ("final_logit_softcapping", "logits_soft_cap", "output_logits_soft_cap")
"""Settings of functions that do nothing to the small logits that a comparison may meet."""

_plain: WeakKeyDictionary[torch.nn.Module, bool] = WeakKeyDictionary()


def plain_head(model: Any) -> torch.nn.Module | None:
    """The output embedding that makes the model's logits alone; None where more is done to them.

    A soft cap, a scale, or a projection between the two is found on the first call, by a forward
    pass over two tokens.
    """
    head = model.get_output_embeddings()
    config = model.config.get_text_config()
    shaped = any(getattr(config, name, None) is not None for name in SHAPED)
    if shaped or not isinstance(head, torch.nn.Module):
        return None
    if model not in _plain:
        _plain[model] = _agrees(model, head)
    return head if _plain[model] else None


def scores_from_hidden(head: torch.nn.Module, hidden: Tensor, targets: Tensor) -> TokenScores:
    """As :func:`validator.features.tokens.token_scores`.

    Args:
        head: from :func:`plain_head`.
        hidden: (K, D) last hidden states at the position before each target.
        targets: (K,) token ids.
    """
    parts = []
    with torch.inference_mode():
        for states, wanted in zip(
            torch.split(hidden, ROWS), torch.split(targets, ROWS), strict=True
        ):
            parts.append(token_scores(head(states), wanted))
    return TokenScores(torch.cat([p.surprisal for p in parts]),
                       torch.cat([p.entropy for p in parts]))


def _agrees(model: Any, head: torch.nn.Module) -> bool:
    ids = torch.tensor([[1, 2]], device=model.device) % model.get_input_embeddings().weight.shape[0]
    with torch.inference_mode(), evaluating(model):
        output = model(input_ids=ids, output_hidden_states=True, return_dict=True)
        if not getattr(output, "hidden_states", None):
            return False
        last = output.hidden_states[-1]
        if last.shape[:2] != ids.shape or last.shape[-1] != getattr(head, "in_features", 0):
            return False
        found, logits = head(last), output.logits
    if found.shape != logits.shape:
        return False
    scale = logits.abs().max().clamp_min(1.0)
    return bool(((found - logits).abs() <= TOLERANCE * scale).all())
