"""Small models trained from nothing on the fresh problems of a tunnel."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from math import cos, isfinite, pi
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from validator.errors import ModelError, ParameterError
from validator.types import Progress
from validator.windtunnels.contract import TokenBatch

__all__ = ["BatchSource", "Loss", "TrainingRun", "supervised_loss", "train_reference"]

CHUNK = 32
"""Batches drawn at a time: many problems at once cost little more than one."""


Loss = Callable[[Any, Tensor, Tensor], Tensor]
"""(model, (B, T) ids, (B, T) labels) -> what is minimised, a scalar."""


class BatchSource(Protocol):
    """A tunnel that writes many problems as token ids."""

    def token_batch(self, rng: np.random.Generator, count: int, style: str) -> TokenBatch:
        """Fresh problems in a token style."""


@dataclass(frozen=True, slots=True)
class TrainingRun:
    """What a training did; the model itself was changed in place."""

    steps: int
    """Batches the model was trained on."""
    cpu_seconds: float
    """CPU seconds of the process, over all threads, those of ``save`` not counted."""
    losses: tuple[float, ...]
    """(steps,) of each batch: by default mean cross-entropy of supervised positions, in nats."""
    stopped: Literal["steps", "budget"]
    """Why it ended. A run that ended for want of time is another run on another machine."""


def train_reference(
    tunnel: BatchSource,
    style: str,
    model: Any,
    *,
    seed: int,
    max_steps: int,
    batch_size: int = 64,
    learning_rate: float = 3e-3,
    budget_seconds: float | None = None,
    weight_decay: float = 0.0,
    beta2: float = 0.999,
    warmup: int = 50,
    final_rate: float = 0.1,
    held_out: Collection[str] = (),
    checkpoints: Collection[int] = (),
    save: Callable[[int], None] | None = None,
    progress: Progress | None = None,
    threads: int = 1,
    loss: Loss | None = None,
) -> TrainingRun:
    """Train a causal LM in place with AdamW; every batch is of problems never drawn before.

    The same seed, model and number of steps give the same weights. The learning rate rises
    linearly, then falls along a half cosine (Loshchilov & Hutter 2017) that ends at ``max_steps``.

    Args:
        tunnel: where the problems come from.
        style: a token style of it.
        model: a transformers causal LM; it is left in evaluation mode.
        seed: of the problems; the model's first weights are the caller's.
        max_steps: most batches, 1 or more.
        batch_size: problems of a batch.
        learning_rate: the highest.
        budget_seconds: CPU seconds of the process after which no further batch is begun, or None.
        weight_decay: of AdamW.
        beta2: of AdamW, in (0, 1): how slowly it forgets the size of gradients.
        warmup: steps over which the learning rate rises.
        final_rate: the last learning rate as a share of the highest, in [0, 1].
        held_out: ids of problems that are never trained on.
        checkpoints: numbers of steps after which ``save`` is called with that number; 0 is before
            the first.
        save: takes a checkpoint of the model.
        progress: called with (steps done, ``max_steps``).
        threads: of torch, while this runs.
        loss: by default :func:`supervised_loss`.

    Raises:
        ParameterError: a number out of its range, or checkpoints without ``save``.
        ModelError: the loss is not a finite number any more.
    """
    _require(max_steps=max_steps, batch_size=batch_size, threads=threads)
    if checkpoints and save is None:
        raise ParameterError("checkpoints need `save`, which takes them; pass both or neither")
    rate = _Rate(learning_rate, warmup, final_rate, max_steps)
    batches = _batches(tunnel, style, seed, batch_size, frozenset(held_out))
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=learning_rate, weight_decay=weight_decay, betas=(0.9, beta2))
    clock, before = _Clock(budget_seconds), torch.get_num_threads()
    losses: list[float] = []
    torch.set_num_threads(threads)
    try:
        _checkpoint(0, checkpoints, save, clock)
        model.train()
        while len(losses) < max_steps and not clock.spent():
            losses.append(_step(model, optimizer, rate(len(losses)), next(batches),
                                loss or supervised_loss))
            _checkpoint(len(losses), checkpoints, save, clock)
            if progress is not None:
                progress(len(losses), max_steps)
    finally:
        torch.set_num_threads(before)
        model.eval()
    return TrainingRun(len(losses), clock.seconds(), tuple(losses),
                       "steps" if len(losses) == max_steps else "budget")


def supervised_loss(model: Any, ids: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy in nats of the supervised ids, each predicted from what precedes it.

    Logits are formed at supervised positions alone: a vocabulary of edges is wide.

    Args:
        model: a transformers causal LM whose head reads the states of its base model.
        ids: (B, T) token ids.
        labels: (B, T) the ids, -100 where not supervised; the first column is never predicted.
    """
    # Padding comes last, where no token before it can see it: nothing has to be masked.
    hidden = model.base_model(
        input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).last_hidden_state
    wanted = labels[:, 1:] != -100
    logits = model.get_output_embeddings()(hidden[:, :-1][wanted])
    return functional.cross_entropy(logits, labels[:, 1:][wanted])


@dataclass(frozen=True, slots=True)
class _Rate:
    highest: float
    warmup: int
    final: float
    steps: int

    def __call__(self, step: int) -> float:
        if step < self.warmup:
            return self.highest * (step + 1) / self.warmup
        gone = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.highest * (self.final + (1 - self.final) * (1 + cos(pi * gone)) / 2)


class _Clock:
    """CPU time of this process from now on, less what is taken out."""

    def __init__(self, budget: float | None) -> None:
        self.budget, self.began = budget, time.process_time()

    def seconds(self) -> float:
        return time.process_time() - self.began

    def spent(self) -> bool:
        return self.budget is not None and self.seconds() >= self.budget


def _require(**counts: int) -> None:
    for name, count in counts.items():
        if count < 1:
            raise ParameterError(f"{name} must be 1 or more, got {count}")


def _checkpoint(
    step: int, checkpoints: Collection[int], save: Callable[[int], None] | None, clock: _Clock
) -> None:
    if save is not None and step in checkpoints:
        began = time.process_time()
        save(step)
        clock.began += time.process_time() - began


def _step(
    model: Any, optimizer: torch.optim.Optimizer, rate: float, batch: tuple[Tensor, Tensor],
    loss_of: Loss,
) -> float:
    model.train()  # a checkpoint may have evaluated it
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad()
    loss = loss_of(model, *batch)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    value = loss.item()
    if not isfinite(value):
        raise ModelError(f"the loss became {value}; train with a lower learning rate than {rate}")
    return value


def _batches(
    tunnel: BatchSource, style: str, seed: int, size: int, held_out: frozenset[str]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches without end: what was held out is passed over, what does not fill one waits."""
    rng = np.random.default_rng(seed)
    while True:
        batch = tunnel.token_batch(rng, CHUNK * size, style)
        fresh = np.array([key not in held_out for key in batch.problem_ids])
        ids, labels = batch.ids[fresh], batch.labels[fresh]
        for first in range(0, len(ids) - size + 1, size):
            rows = slice(first, first + size)
            width = int((labels[rows] != -100).any(0).nonzero()[0][-1]) + 1
            yield torch.from_numpy(ids[rows, :width]), torch.from_numpy(labels[rows, :width])
