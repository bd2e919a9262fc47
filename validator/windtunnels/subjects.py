"""The reference subjects by name: a tunnel, a style, and how long a small model learns it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from validator.errors import ParameterError
from validator.models.loading import LoadedModel
from validator.models.quiet import quiet
from validator.types import Progress
from validator.windtunnels.bayes_training import (
    Shape,
    reference_model,
    save_reference,
    train_bayes,
)
from validator.windtunnels.bijection import BijectionTunnel
from validator.windtunnels.contract import Problem
from validator.windtunnels.evidence import EvidenceTunnel
from validator.windtunnels.filter_sort import FilterSortTunnel
from validator.windtunnels.hmm import HMMTunnel
from validator.windtunnels.settings import AnyTunnel, changed_tunnel
from validator.windtunnels.sula import SulaTunnel
from validator.windtunnels.symbols import symbol_tokenizer
from validator.windtunnels.training import TrainingRun
from validator.windtunnels.tree import TreePathTunnel
from validator.windtunnels.tree_training import path_model, save_path_model, train_paths

__all__ = ["SUBJECTS", "TEST_SEED", "Subject", "find_subject"]

TEST_SEED = 1_000_000
"""Of the problems that are measured; those trained on have the seeds of the runs."""
SMALL = TreePathTunnel(nodes=(8, 16), labels=20)
LARGE = TreePathTunnel(nodes=(8, 32), labels=36)


@dataclass(frozen=True)
class Subject:
    """A tunnel, a token style, and the training of a small model of it."""

    name: str
    tunnel: AnyTunnel
    style: str
    steps: int
    """Batches, unless another number is asked for."""
    layers: int | None = None
    """Of the model; None for the style's usual number."""
    shape: Shape = "llama"
    """Of the models of :mod:`.bayes_training`."""
    batch: int = 64
    """Problems of a batch; of walks always 64."""
    hold_out: bool = True
    """Whether measured problems are kept out of training: not where there are too few of them."""

    @property
    def walks(self) -> bool:
        """Whether answers are judged whole; else next-token distributions are."""
        return not isinstance(self.tunnel, EvidenceTunnel)

    def problems(self, count: int, seed: int = TEST_SEED) -> list[Problem]:
        """Problems to be measured. Raises ParameterError for a count below 1."""
        if count < 1:
            raise ParameterError(f"at least 1 problem is needed, got {count}")
        rng = np.random.default_rng(seed)
        if isinstance(self.tunnel, EvidenceTunnel):
            return [self.tunnel.sample(rng) for _ in range(count)]
        if isinstance(self.tunnel, TreePathTunnel):
            return self.tunnel.problems(self.tunnel.sample_arrays(rng, count))
        return self.tunnel.problems(self.tunnel.sample_arrays(rng, count))

    def untrained(self, seed: int) -> Any:
        """A model with the first weights of a seed."""
        if isinstance(self.tunnel, EvidenceTunnel):
            layers = {} if self.layers is None else {"layers": self.layers}
            return reference_model(
                self.tunnel, self.style, seed=seed, shape=self.shape, **layers)
        return path_model(self.tunnel, self.style, seed=seed, layers=self.layers)

    def train(
        self, model: Any, *, seed: int, max_steps: int | None = None,
        learning_rate: float | None = None, budget_seconds: float | None = None,
        held_out: Collection[str] = (), checkpoints: Collection[int] = (),
        save: Callable[[int], None] | None = None, progress: Progress | None = None,
    ) -> TrainingRun:
        """:func:`.training.train_reference` as this kind of tunnel is learned best.

        ``max_steps`` and ``learning_rate`` are by default the subject's own; ``held_out`` is passed
        over where :attr:`hold_out` is False.
        """
        rate = {} if learning_rate is None else {"learning_rate": learning_rate}
        options: dict[str, Any] = {
            "seed": seed, "max_steps": self.steps if max_steps is None else max_steps,
            "budget_seconds": budget_seconds, "held_out": held_out if self.hold_out else (),
            "checkpoints": checkpoints, "save": save, "progress": progress, **rate}
        if isinstance(self.tunnel, EvidenceTunnel):
            return train_bayes(self.tunnel, self.style, model, batch_size=self.batch, **options)
        return train_paths(self.tunnel, self.style, model, **options)

    def save(self, model: Any, folder: Path) -> None:
        """Write a model and its tokenizer where :func:`.models.loading.load_model` reads."""
        with quiet():
            if isinstance(self.tunnel, EvidenceTunnel):
                save_reference(model, self.tunnel, self.style, folder)
            else:
                save_path_model(model, self.tunnel, self.style, folder)

    def loaded(self, model: Any, name: str) -> LoadedModel:
        """A model that was not read from a file, in evaluation mode, with its tokenizer."""
        tokenizer = symbol_tokenizer(self.tunnel.symbols(self.style))
        return LoadedModel(model.eval(), tokenizer, name, "trained here")

    def changed(self, settings: Mapping[str, str]) -> Subject:
        """With other settings of its tunnel, see :func:`.settings.changed_tunnel`, and with them in
        its name."""
        name = " ".join([self.name, *(f"{key}={value}" for key, value in settings.items())])
        return replace(self, name=name, tunnel=changed_tunnel(self.tunnel, settings))


SUBJECTS: Mapping[str, Subject] = MappingProxyType({subject.name: subject for subject in (
    Subject("edges-16", SMALL, "edges", 600),
    Subject("edges-32", LARGE, "edges", 600),
    Subject("edges-16-direct", replace(SMALL, task="direct"), "edges", 1000),
    Subject("edges-32-direct", replace(LARGE, task="direct"), "edges", 1000),
    Subject("flat-16", SMALL, "flat", 1000),
    Subject("flat-16-one-layer", SMALL, "flat", 1000, layers=1),
    Subject("filter-sort", FilterSortTunnel(), "flat", 1500),
    Subject("bijection-10", BijectionTunnel(10), "pairs", 13_000),
    Subject("bijection-20", BijectionTunnel(20), "pairs", 20_000, shape="gpt2", batch=32),
    Subject("bijection-10-repeat", BijectionTunnel(10, repeat=True), "pairs", 5000),
    Subject("hmm-fixed", HMMTunnel(), "symbols", 1000),
    Subject("hmm-banded", HMMTunnel(banded=True), "symbols", 1000),
    Subject("hmm-given", HMMTunnel(3, 3, given=True, levels=10), "symbols", 6000, layers=4),
    Subject("sula", SulaTunnel(), "answer", 1500, hold_out=False),
)})
"""Name -> subject. Without the chain of thought sequences are shorter: the same CPU time is more
steps."""


def find_subject(name: str) -> Subject:
    """The subject of a name. Raises ParameterError for an unknown one."""
    if name not in SUBJECTS:
        raise ParameterError(f"no subject {name!r}; there are: {', '.join(SUBJECTS)}")
    return SUBJECTS[name]
