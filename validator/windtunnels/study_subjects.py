"""What the study is made on: models of tunnels, right traces, their twins, and own answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from validator.models.loading import LoadedModel, load_model
from validator.types import Progress, Trace
from validator.windtunnels.answers import exact_accuracy, greedy_answers
from validator.windtunnels.contract import Problem
from validator.windtunnels.edge_model import ComposedTable, baked
from validator.windtunnels.filter_sort import FilterSortTunnel
from validator.windtunnels.symbols import symbol_tokenizer
from validator.windtunnels.tree import TreePathTunnel
from validator.windtunnels.tree_training import path_model, train_paths

__all__ = ["OWN", "SUBJECTS", "Subject", "TrainedPair", "own_answers", "train_pair", "twins"]

OWN = "own answers"
"""The comparison of a model's own right and wrong answers, beside the corruptions."""
TEMPERATURE = 0.7
"""Of the own answers. At 1 the wrong symbol of a model half trained is mostly one that it hardly
believed in, and its log-probability alone tells; the lower, the more errors are of conviction."""
HELD_OUT_SEED = 10_000_000
"""Problems of the study are drawn with this seed plus the model's, far from those of training."""


SMALL = TreePathTunnel(nodes=(8, 16), labels=20)


@dataclass(frozen=True)
class Subject:
    """A tunnel in one style, and how long its models learn."""

    tunnel: TreePathTunnel | FilterSortTunnel
    style: str
    steps: int
    """Batches of the whole training."""
    reads: int
    """Batches after which the model, as it is then, reads the twins: it walks without fault."""
    early: int
    """Batches after which some of its answers are right: as it is then, it writes own answers."""


SUBJECTS = {
    "tree-edges": Subject(SMALL, "edges", 600, 300, 160),
    "tree-edges-late": Subject(SMALL, "edges", 600, 600, 160),
    "tree-flat": Subject(SMALL, "flat", 1000, 600, 425),
    "filter-sort": Subject(FilterSortTunnel(), "flat", 1500, 1200, 600),
}
"""The first two are one training: its model reads the twins as soon as it walks without fault, and
after as long again."""


@dataclass(frozen=True, eq=False)
class TrainedPair:
    """One training's model when it walks without fault, and early on."""

    reader: LoadedModel
    early: LoadedModel
    problems: tuple[Problem, ...]
    """None of them was trained on."""
    reader_accuracy: float
    """Exact accuracy of the greedy answers to these problems, in [0, 1]."""
    early_accuracy: float
    cpu_seconds: float


def train_pair(
    subject: Subject, seed: int, count: int, progress: Progress | None = None
) -> TrainedPair:
    """Train a model from nothing, keeping it as it was early on.

    Args:
        subject: what it learns.
        seed: of weights, training problems and the problems held out.
        count: problems held out.
        progress: called with (steps done, all).
    """
    tunnel, style = subject.tunnel, subject.style
    problems = _fresh(tunnel, np.random.default_rng(HELD_OUT_SEED + seed), count)
    model = path_model(tunnel, style, seed=seed)
    found: dict[int, LoadedModel] = {}

    def keep(step: int) -> None:
        found[step] = _loaded(model, tunnel, style)

    run = train_paths(
        tunnel, style, model, seed=seed, max_steps=subject.steps, progress=progress,
        held_out={p.id for p in problems}, checkpoints=(subject.early, subject.reads), save=keep)
    reader, early = found[subject.reads], found[subject.early]
    return TrainedPair(reader, early, tuple(problems), _exact(reader, subject, problems),
                       _exact(early, subject, problems), run.cpu_seconds)


def _exact(model: LoadedModel, subject: Subject, problems: Sequence[Problem]) -> float:
    """Share of greedy answers that are right throughout."""
    return exact_accuracy(greedy_answers(
        model.model, model.tokenizer, subject.tunnel, problems, subject.style))


def _fresh(tunnel: Any, rng: np.random.Generator, count: int) -> list[Problem]:
    """Distinct problems."""
    found: dict[str, Problem] = {}
    while len(found) < count:
        drawn = tunnel.problems(tunnel.sample_arrays(rng, count - len(found)))
        found |= {problem.id: problem for problem in drawn}
    return list(found.values())


def _loaded(model: Any, tunnel: Any, style: str) -> LoadedModel:
    """A copy of the model as it is now, as a plain checkpoint."""
    composed = isinstance(model.get_input_embeddings(), ComposedTable)
    if composed:
        plain: Any = baked(model)
    else:
        plain = type(model)(model.config)
        plain.load_state_dict(model.state_dict())
    return load_model((plain, symbol_tokenizer(tunnel.symbols(style))))


def twins(
    subject: Subject, problems: Sequence[Problem], kind: str, seed: int
) -> tuple[list[Trace], list[Trace]]:
    """The right trace of each problem and its twin of one kind: as many tokens, wrong."""
    rng = np.random.default_rng([seed, subject.tunnel.corruptions.index(kind)])
    right = [subject.tunnel.render(p, subject.style) for p in problems]
    return right, [subject.tunnel.corrupt(p, subject.style, kind, rng) for p in problems]


def own_answers(
    subject: Subject, model: LoadedModel, problems: Sequence[Problem], samples: int, seed: int,
    progress: Progress | None = None,
) -> list[Trace]:
    """Several answers to each problem, drawn from the model at :data:`TEMPERATURE`."""
    generator = torch.Generator().manual_seed(seed)

    def draw(logits: Tensor) -> Tensor:
        return torch.multinomial((logits / TEMPERATURE).softmax(-1), 1, generator=generator)[:, 0]

    found: list[Trace] = []
    for k in range(samples):
        found += greedy_answers(model.model, model.tokenizer, subject.tunnel, problems,
                                subject.style, source=f"sample{k}", choose=draw)
        if progress is not None:
            progress(k + 1, samples)
    return found
