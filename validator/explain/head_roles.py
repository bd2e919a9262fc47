"""What each head looks at: what followed last time, the token before, the first one, itself.

All scores are mean attention in [0, 1] over the tokens that have such a key. Induction and
duplicate are read on repeated random tokens, where nothing but the repetition can be known (Olsson
et al. 2022, arXiv 2209.11895, "prefix matching"); the others wherever one wants to know.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from validator.errors import ParameterError
from validator.features.attention import attention_rows, captured_forward
from validator.features.encoding import max_positions

__all__ = ["ROLES", "AttentionRoles", "attention_roles", "repeated_tokens", "role_keys"]

ROLES: Mapping[str, str] = {
    "induction": "tokens that followed earlier occurrences of the same token",
    "duplicate": "earlier occurrences of the same token",
    "previous": "the token before",
    "first": "the first token of the sequence (attention sink)",
    "self": "the token itself",
}
"""Role -> which keys count."""


@dataclass(frozen=True, slots=True, eq=False)
class AttentionRoles:
    """Mean attention of each head on the keys of each role, over some sequences."""

    layers: tuple[int, ...]
    """(L,) true indices, ascending."""
    scores: Mapping[str, NDArray[np.float64]]
    """Role -> (L, H) in [0, 1]; NaN where no token of any sequence has such a key."""


def repeated_tokens(
    tokenizer: Any, model: Any, *, length: int = 25, repeats: int = 4, count: int = 8,
    seed: int = 0,
) -> list[list[int]]:
    """Random tokens, repeated, after the tokenizer's first special token if it has one.

    25 tokens four times, as in Olsson et al. 2022. They leave out the most and least common tokens;
    here only special tokens are left out, because how common a token is is not known. The tokens of
    a sequence are distinct.

    Raises:
        ParameterError: sizes below 2, no sequence, or more tokens than the model has positions for.
    """
    if min(length, repeats) < 2 or count < 1:
        raise ParameterError(
            f"expected length and repeats of at least 2 and a count of at least 1, got {length}, "
            f"{repeats} and {count}")
    start = [] if tokenizer.bos_token_id is None else [int(tokenizer.bos_token_id)]
    limit = max_positions(model.config)
    if limit is not None and len(start) + length * repeats > limit:
        raise ParameterError(f"{repeats} times {length} tokens are more than the model's {limit} "
                             "positions; ask for fewer")
    size = min(len(tokenizer), model.get_input_embeddings().num_embeddings)
    plain = np.setdiff1d(np.arange(size), tokenizer.all_special_ids)
    rng = np.random.default_rng(seed)
    return [start + rng.choice(plain, length, replace=False).tolist() * repeats
            for _ in range(count)]


def role_keys(ids: Sequence[int]) -> dict[str, NDArray[np.bool_]]:
    """Role -> (T, T) which keys (columns) count for which query (row).

    A key is never later than its query, and only ``self`` is the query itself. The first token has
    no key of any role: it can attend to nothing but itself.
    """
    tokens = np.asarray(ids)
    same = tokens[:, None] == tokens[None, :]
    earlier = np.tri(len(tokens), k=-1, dtype=bool)
    duplicate = same & earlier
    induction = np.zeros_like(duplicate)
    induction[:, 1:] = duplicate[:, :-1]
    first = np.zeros_like(duplicate)
    first[1:, 0] = True
    own = np.eye(len(tokens), dtype=bool)
    own[0, 0] = False
    return {"induction": induction & earlier, "duplicate": duplicate,
            "previous": np.eye(len(tokens), k=-1, dtype=bool), "first": first, "self": own}


def attention_roles(model: Any, sequences: Sequence[Sequence[int]]) -> AttentionRoles:
    """Read each sequence and average, over sequences, its mean over tokens.

    Where several keys count for a token (three earlier occurrences), their attention is summed.

    Args:
        model: a transformers causal LM.
        sequences: of token ids, at least one.

    Raises:
        ParameterError: no sequences.
        NoAttentionError: the model's attention cannot be read.
    """
    if not sequences:
        raise ParameterError("no sequences to read; give at least one")
    found: list[dict[int, NDArray[np.float64]]] = [_read(model, ids) for ids in sequences]
    layers = tuple(sorted(found[0]))
    scores = np.array([[one[layer] for layer in layers] for one in found])  # (S, L, H, roles)
    known = ~np.isnan(scores)
    with np.errstate(invalid="ignore"):
        means = np.nansum(scores, axis=0) / known.sum(axis=0)
    return AttentionRoles(layers, {role: means[..., i] for i, role in enumerate(ROLES)})


def _read(model: Any, ids: Sequence[int]) -> dict[int, NDArray[np.float64]]:
    """Layer -> (H, roles) mean over the tokens of one sequence; NaN for a role without keys."""
    keys = np.stack([role_keys(ids)[role] for role in ROLES]).astype(np.float64)
    queries = keys.any(axis=2).sum(axis=1)
    tokens = torch.tensor([list(ids)], device=model.device)
    found = {}
    for layer in attention_rows(captured_forward(model, tokens, keep_logits=1)):
        total: NDArray[np.float64] = np.zeros(())
        for block in layer.blocks:
            weights = block.weights[0].cpu().double().numpy()  # (H, R, keys)
            rows = keys[:, block.start : block.start + weights.shape[1], : weights.shape[2]]
            total = total + np.einsum("hrt,krt->hk", weights, rows)
        with np.errstate(invalid="ignore"):
            found[layer.layer] = np.where(queries > 0, total / queries, np.nan)
    return found
