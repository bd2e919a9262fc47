"""Training: what it is given, what it leaves, and that it learns."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

from validator.errors import ModelError, ParameterError
from validator.windtunnels.contract import TokenBatch
from validator.windtunnels.symbols import symbol_tokenizer
from validator.windtunnels.training import supervised_loss, train_reference
from validator.windtunnels.tree import TreePathTunnel

SMALL = TreePathTunnel(task="backward", nodes=(5, 6), depth=(2, 3), dummies=(0, 1), labels=8)


def tiny_llama(symbols: int, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(
        vocab_size=symbols + 3, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=64, pad_token_id=0, bos_token_id=1,
        eos_token_id=2, tie_word_embeddings=False))


class Recorded:
    """A tunnel whose batches are seen by the test."""

    def __init__(self, tunnel: TreePathTunnel) -> None:
        self.tunnel, self.batches = tunnel, list[TokenBatch]()

    def token_batch(self, rng: np.random.Generator, count: int, style: str) -> TokenBatch:
        self.batches.append(self.tunnel.token_batch(rng, count, style))
        return self.batches[-1]


def trained(seed: int = 0, steps: int = 6, tunnel: Any = SMALL, **options: Any) -> tuple[Any, Any]:
    model = tiny_llama(len(SMALL.symbols("flat")))
    run = train_reference(
        tunnel, "flat", model, seed=seed, max_steps=steps, batch_size=8, **options)
    return model, run


def test_the_loss_is_that_of_the_supervised_positions_alone() -> None:
    model = tiny_llama(len(SMALL.symbols("flat")))
    batch = SMALL.token_batch(np.random.default_rng(0), 5, "flat")
    ids, labels = torch.from_numpy(batch.ids), torch.from_numpy(batch.labels)
    logits = model(input_ids=ids).logits
    terms = [-functional.log_softmax(logits[b, t - 1], -1)[labels[b, t]]
             for b in range(5) for t in range(1, ids.shape[1]) if labels[b, t] != -100]
    expected = torch.stack(terms).mean()
    torch.testing.assert_close(supervised_loss(model, ids, labels), expected)


def test_one_seed_gives_one_model_and_another_another() -> None:
    (first, run), (again, _), (other, _) = trained(0), trained(0), trained(1)
    assert (run.steps, run.stopped, len(run.losses)) == (6, "steps", 6)
    assert all(torch.equal(a, b) for a, b in zip(
        first.parameters(), again.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(
        first.parameters(), other.parameters(), strict=True))
    assert not first.training


def test_it_learns() -> None:
    _, run = trained(steps=150, learning_rate=1e-2)
    assert np.mean(run.losses[-10:]) < 0.6 * np.mean(run.losses[:5])


def test_no_problem_that_was_held_out_is_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    few = TreePathTunnel(task="backward", nodes=(4, 4), depth=(2, 2), dummies=(0, 0), labels=4)
    held = few.problems(few.sample_arrays(np.random.default_rng(9), 5))
    tokenizer = symbol_tokenizer(few.symbols("flat"))
    forbidden = {p.id for p in held}

    def key(ids: list[int]) -> tuple[frozenset[tuple[str, ...]], str]:
        """A tree from its tokens, by no code of the tunnel: its edges, its root and goal."""
        words = tokenizer.decode(ids).split()
        ends = words.index("root")
        return frozenset(tuple(words[i:i + 2]) for i in range(0, ends, 3)), words[ends + 1] + (
            words[ends + 3])

    keys = {key(tokenizer(few.render(p, "flat").prompt)["input_ids"]) for p in held}
    seen: list[list[int]] = []

    def loss(model: Any, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        seen.extend(ids.tolist())
        return supervised_loss(model, ids, labels)

    monkeypatch.setattr("validator.windtunnels.training.supervised_loss", loss)
    recorded = Recorded(few)
    train_reference(recorded, "flat", tiny_llama(len(few.symbols("flat"))), seed=1, max_steps=40,
                    batch_size=8, held_out=forbidden)
    drawn = [name for batch in recorded.batches for name in batch.problem_ids]
    assert forbidden & set(drawn)  # they come up, there are few trees of four nodes
    assert len(seen) == 320
    assert not keys & {key(ids) for ids in seen}


def test_the_budget_ends_a_run() -> None:
    began = time.process_time()
    _, run = trained(steps=100_000, budget_seconds=0.3)
    assert run.stopped == "budget"
    assert 0.3 <= run.cpu_seconds < time.process_time() - began
    assert 0 < run.steps == len(run.losses) < 100_000


def test_checkpoints_are_taken_where_they_were_asked_for_at_no_cost_to_the_budget() -> None:
    taken: list[tuple[int, bool]] = []
    model = tiny_llama(len(SMALL.symbols("flat")))

    def save(step: int) -> None:
        model.eval()
        end = time.process_time() + 0.5
        while time.process_time() < end:
            pass
        taken.append((step, model.training))

    seen: list[tuple[int, int]] = []
    run = train_reference(SMALL, "flat", model, seed=0, max_steps=4, batch_size=8,
                          checkpoints=[0, 3, 9], save=save, budget_seconds=0.9,
                          progress=lambda done, total: seen.append((done, total)))
    assert taken == [(0, False), (3, False)]
    assert run.cpu_seconds < 0.9
    assert seen == [(i, 4) for i in range(1, 5)]
    same, _ = trained(steps=4)
    assert all(torch.equal(a, b) for a, b in zip(
        model.parameters(), same.parameters(), strict=True))


def test_threads_are_given_back() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        trained(steps=1, progress=lambda *_: None)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_what_cannot_be_trained_is_refused() -> None:
    with pytest.raises(ParameterError, match="max_steps must be 1 or more"):
        trained(steps=0)
    with pytest.raises(ParameterError, match="need `save`"):
        trained(checkpoints=[1])
    with pytest.raises(ModelError, match="loss became"):
        trained(steps=60, learning_rate=float("inf"), warmup=0)
