"""Roles by loops over pairs of tokens, on made and on real attention."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from validator.errors import ParameterError
from validator.explain.head_roles import ROLES, attention_roles, repeated_tokens, role_keys
from validator.features.attention import attention_rows, captured_forward
from validator.types import AttentionRows, LayerAttention


def looked_at(ids: list[int], query: int) -> dict[str, set[int]]:
    """The keys of each role, by the words of the definition."""
    before = [p for p in range(query) if ids[p] == ids[query]]
    return {"induction": {p + 1 for p in before if p + 1 < query}, "duplicate": set(before),
            "previous": {query - 1} if query else set(), "first": {0} if query else set(),
            "self": {query} if query else set()}


def brute_force(weights: np.ndarray, ids: list[int]) -> dict[str, np.ndarray]:
    """(H, T, T) weights -> role -> (H,)."""
    found = {}
    for role in ROLES:
        sums = [weights[:, q, sorted(keys)].sum(axis=1)
                for q in range(len(ids)) if (keys := looked_at(ids, q)[role])]
        found[role] = np.mean(sums, axis=0) if sums else np.full(len(weights), np.nan)
    return found


@pytest.mark.parametrize("ids", [[5, 6, 7, 5, 6, 7, 5], [4, 4, 4], [9], [1, 2, 3]])
def test_keys_are_those_of_the_definition(ids: list[int]) -> None:
    found = role_keys(ids)
    for query in range(len(ids)):
        for role, keys in looked_at(ids, query).items():
            assert set(np.flatnonzero(found[role][query])) == keys, (role, query)


def test_scores_equal_a_loop_over_the_models_attention(tiny: Any) -> None:
    model, tokenizer = tiny
    sequences = [*repeated_tokens(tokenizer, model, length=5, repeats=3, count=2), [40, 41, 42]]
    found = attention_roles(model, sequences)
    assert found.layers == (0, 1, 2)
    expected: list[list[dict[str, np.ndarray]]] = []
    for ids in sequences:
        forward = captured_forward(model, torch.tensor([ids]), keep_logits=1)
        whole = [next(iter(layer.blocks)).weights[0].double().numpy()
                 for layer in attention_rows(forward)]
        expected.append([brute_force(weights, ids) for weights in whole])
    for role in ROLES:
        values = np.array([[by_layer[role] for by_layer in one] for one in expected])
        defined = values[:2] if role in ("induction", "duplicate") else values
        np.testing.assert_allclose(found.scores[role], defined.mean(axis=0), atol=1e-6)


def made(kind: str, length: int, start: int) -> torch.Tensor:
    """Attention of one head that does one thing only, else rests on the first token."""
    size = start + 2 * length
    weights = torch.zeros(size, size)
    weights[:, 0] = 1.0
    for query in range(1, size):
        key = {"induction": query - length + 1 if query >= start + length else 0,
               "duplicate": query - length if query >= start + length else 0,
               "previous": query - 1, "first": 0, "self": query}[kind]
        weights[query, 0] = 0.0
        weights[query, key] = 1.0
    return weights


def test_a_head_that_does_just_that_scores_one(
    tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = tiny
    sequences = repeated_tokens(tokenizer, model, length=6, repeats=2, count=1)
    heads = torch.stack([made(kind, 6, len(sequences[0]) - 12) for kind in ROLES])

    def rows(forward: Any) -> Iterator[LayerAttention]:
        blocks = (AttentionRows(heads[None, :, a:a + 4, :a + 4], a) for a in range(0, 13, 4))
        yield LayerAttention(7, 0, torch.zeros(1, 13, 0), None, blocks)

    monkeypatch.setattr("validator.explain.head_roles.attention_rows", rows)
    found = attention_roles(model, sequences)
    assert found.layers == (7,)
    for i, role in enumerate(ROLES):
        assert found.scores[role][0, i] == pytest.approx(1.0), role
        others = [found.scores[role][0, k] for k in range(len(ROLES)) if k != i]
        assert max(others) < 0.95, role  # resting on the first token is its only other habit


def test_a_role_without_a_key_is_undefined(tiny: Any) -> None:
    found = attention_roles(tiny[0], [[40, 41, 42]])
    assert np.isnan(found.scores["induction"]).all()
    assert np.isfinite(found.scores["previous"]).all()


def test_random_tokens_repeat_are_plain_and_seeded(tiny: Any) -> None:
    model, tokenizer = tiny
    found = repeated_tokens(tokenizer, model, length=25, repeats=4, count=3, seed=4)
    assert found == repeated_tokens(tokenizer, model, length=25, repeats=4, count=3, seed=4)
    for ids in found:
        assert ids[0] == tokenizer.bos_token_id
        assert ids[1:] == ids[1:26] * 4
        assert len(set(ids[1:26])) == 25
        assert not set(ids[1:]) & set(tokenizer.all_special_ids)
    assert found[0] != found[1]
    with pytest.raises(ParameterError, match="at least 2"):
        repeated_tokens(tokenizer, model, length=1)
    with pytest.raises(ParameterError, match="256 positions"):
        repeated_tokens(tokenizer, model, length=100)
    with pytest.raises(ParameterError, match="no sequences"):
        attention_roles(model, [])


@pytest.mark.slow
@pytest.mark.model
def test_the_default_model_has_induction_heads() -> None:
    """A model that repeats what it has seen has heads for it; shuffled attention would not."""
    from validator.models.loading import load_model

    loaded = load_model("smollm2-135m-instruct")
    ids = repeated_tokens(loaded.tokenizer, loaded.model, count=1)
    found = attention_roles(loaded.model, ids)
    assert found.scores["induction"].max() > 0.6
    assert np.median(found.scores["induction"]) < 0.1
    assert found.scores["previous"].max() > 0.6
