"""The reference models of trees: made, saved, loaded, and (slow) as good as they are said to be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from validator.models.loading import load_model
from validator.windtunnels.answers import exact_accuracy, greedy_answers
from validator.windtunnels.edge_model import trained_parameters
from validator.windtunnels.filter_sort import FilterSortTunnel
from validator.windtunnels.head_roles import RoleRecord, head_roles
from validator.windtunnels.symbols import symbol_tokenizer
from validator.windtunnels.tree import TreePathTunnel
from validator.windtunnels.tree_training import path_model, save_path_model, train_paths

TINY = TreePathTunnel(nodes=(5, 6), depth=(2, 3), dummies=(0, 1), labels=8)
SMALL = TreePathTunnel(nodes=(8, 16), labels=20)


@pytest.mark.parametrize(("tunnel", "style", "layers", "heads"), [
    (TINY, "edges", 1, 2), (TINY, "flat", 2, 4), (FilterSortTunnel(), "flat", 2, 4)])
def test_a_model_is_made_trained_saved_and_loaded(
    tunnel: Any, style: str, layers: int, heads: int, tmp_path: Path
) -> None:
    torch.manual_seed(5)
    model = path_model(tunnel, style, seed=0)
    drawn = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(drawn, torch.rand(1))
    shape = (model.config.num_hidden_layers, model.config.num_attention_heads)
    assert shape == (layers, heads)
    run = train_paths(tunnel, style, model, seed=0, max_steps=12)
    assert run.losses[-1] < run.losses[0]
    save_path_model(model, tunnel, style, tmp_path)
    loaded = load_model(tmp_path)
    ids = torch.from_numpy(tunnel.token_batch(np.random.default_rng(0), 3, style).ids)
    seen = torch.ones_like(ids)
    with torch.inference_mode():
        torch.testing.assert_close(loaded.model(input_ids=ids, attention_mask=seen).logits,
                                   model(input_ids=ids, attention_mask=seen).logits)
    assert len(loaded.tokenizer) == model.config.vocab_size


def test_other_numbers_of_layers_and_heads() -> None:
    for style in ("edges", "flat"):
        config = path_model(TINY, style, seed=0, layers=3, heads=8).config
        assert (config.num_hidden_layers, config.num_attention_heads) == (3, 8)


def unseen(tunnel: TreePathTunnel) -> Any:
    return tunnel.problems(tunnel.sample_arrays(np.random.default_rng(10**6), 2000))


def trained(tunnel: TreePathTunnel, style: str, steps: int, **options: Any) -> tuple[Any, Any]:
    """A trained model, and its answers to 2,000 trees it was not trained on."""
    model, test = path_model(tunnel, style, seed=0, **options), unseen(tunnel)
    train_paths(tunnel, style, model, seed=0, max_steps=steps, held_out={p.id for p in test})
    tokenizer = symbol_tokenizer(tunnel.symbols(style))
    return model, greedy_answers(model, tokenizer, tunnel, test, style)


@pytest.mark.slow
def test_one_layer_of_edges_walks_both_ways_with_a_head_for_each() -> None:
    """The claim of arXiv 2508.08222; trees of up to 32 nodes: ``benchmarks.windtunnel_trees``."""
    tunnel = SMALL
    tokenizer, test = symbol_tokenizer(tunnel.symbols("edges")), unseen(tunnel)
    model = path_model(tunnel, "edges", seed=0)
    record = RoleRecord(model, tokenizer, tunnel, test[:50], "edges")
    run = train_paths(tunnel, "edges", model, seed=0, max_steps=600, checkpoints=[0, 600],
                      save=record, held_out={p.id for p in test})
    assert trained_parameters(model) < 25_000
    assert run.cpu_seconds < 60
    answers = greedy_answers(model, tokenizer, tunnel, test, "edges")
    assert exact_accuracy(answers) >= 0.99
    roles = head_roles(model, tokenizer, tunnel, test[:300], "edges")
    assert roles.best("backward", "edge").value >= 0.9
    assert roles.best("forward", "own").value >= 0.9
    assert record.history("backward", "edge")[0] < 0.3


@pytest.mark.slow
def test_without_the_chain_of_thought_one_layer_falls_short() -> None:
    _, answers = trained(replace(SMALL, task="direct"), "edges", 900)
    assert exact_accuracy(answers) < 0.79


@pytest.mark.slow
def test_nodes_as_tokens_are_not_walked_by_one_layer() -> None:
    assert exact_accuracy(trained(SMALL, "flat", 300, layers=1)[1]) < 0.5
