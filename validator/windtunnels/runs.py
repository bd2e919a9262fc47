"""Runs of reference models on disk: checkpoints, what each was worth, and how they came about.

A run's folder has ``checkpoint-<step>`` folders that :func:`validator.models.loading.load_model`
reads, ``training.json`` (everything of :class:`Run`), ``trainer_state.json`` with the losses on
held-out problems where ``validator checkpoints`` looks for them, and, for tunnels whose answers are
judged whole, ``truth.json`` for its ``--truth``.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from validator import __version__
from validator.errors import ParameterError
from validator.types import Progress
from validator.windtunnels.answers import exact_accuracy, greedy_answers
from validator.windtunnels.contract import Problem
from validator.windtunnels.edge_model import trained_parameters
from validator.windtunnels.entropy import measure_entropy
from validator.windtunnels.head_roles import head_roles
from validator.windtunnels.measure_walks import best_roles
from validator.windtunnels.settings import settings_of, tunnel_from_json
from validator.windtunnels.subjects import TEST_SEED, Subject
from validator.windtunnels.training import TrainingRun, supervised_loss
from validator.windtunnels.tree import TreePathTunnel

__all__ = ["RECORD", "TRUTH", "CheckpointRecord", "Run", "Schedule", "library_versions",
           "read_run", "train_run"]

RECORD, STATE, TRUTH = "training.json", "trainer_state.json", "truth.json"
ROLE_PROBLEMS = 100
LOSS_PROBLEMS = 512


@dataclass(frozen=True, slots=True)
class Schedule:
    """How a run is trained; None is the subject's own."""

    seed: int = 0
    steps: int | None = None
    learning_rate: float | None = None
    """The highest."""
    budget_seconds: float | None = None
    """CPU seconds after which no further batch is begun."""
    checkpoints: int = 10
    """Evenly spaced, the last after the last step; that of the untrained model is one more."""
    problems: int | None = None
    """Measured at each checkpoint and never trained on; None for 500 of walks, 100 of evidence."""


@dataclass(frozen=True, slots=True)
class CheckpointRecord:
    """One checkpoint, measured on problems that were held out."""

    step: int
    loss: float
    """Mean cross-entropy of the supervised symbols of 512 further held-out problems, nats."""
    exact: float | None = None
    """Share of whole answers that are right; None for tunnels of evidence."""
    entropy_mae_bits: float | None = None
    """Mean absolute entropy error; None for tunnels of walks."""
    posterior_kl_bits: float | None = None
    """None where it is infinite as well."""
    roles: Mapping[str, Any] | None = None
    """Stage and target -> layer, head and mass of the best head; None where there are no roles."""

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"checkpoint-{self.step}"


@dataclass(frozen=True, slots=True)
class Run:
    """What was trained, how, and what came of it."""

    folder: Path
    subject: Subject
    schedule: Schedule
    """With the numbers that the subject's own were."""
    parameters: int
    training: TrainingRun
    checkpoints: tuple[CheckpointRecord, ...]
    """Earliest first; the last is the trained model."""
    versions: Mapping[str, str]

    @property
    def last(self) -> Path:
        """Folder of the trained model."""
        return self.folder / self.checkpoints[-1].name

    def to_json(self) -> dict[str, Any]:
        """Plain values, from which :func:`read_run` makes the run again."""
        s, t = self.subject, self.training
        return {
            "subject": {"name": s.name, "tunnel": s.tunnel.name, "style": s.style,
                        "settings": settings_of(s.tunnel), "steps": s.steps, "layers": s.layers,
                        "shape": s.shape, "batch": s.batch, "hold_out": s.hold_out},
            "schedule": asdict(self.schedule), "parameters": self.parameters,
            "steps": t.steps, "stopped": t.stopped, "cpu_seconds": t.cpu_seconds,
            "checkpoints": [asdict(c) for c in self.checkpoints],
            "versions": dict(self.versions), "losses": list(t.losses)}


def train_run(
    subject: Subject, folder: Path, schedule: Schedule, *, model: Any = None,
    progress: Progress | None = None,
) -> Run:
    """Train a subject's model and write its checkpoints and its record.

    Args:
        subject: what is learned.
        folder: of the run; it must hold none.
        schedule: seed, steps and checkpoints.
        model: to begin with, as the subject makes them; it is changed in place. By default an
            untrained one.
        progress: called with (steps done, all).

    Raises:
        ParameterError: the folder holds a run, or a number out of its range.
        ModelError: the loss is not finite any more; checkpoints up to then stay.
    """
    _require_free(folder)
    given = _complete(schedule, subject)
    assert given.steps is not None
    assert given.problems is not None
    problems = subject.problems(given.problems)
    first = subject.untrained(given.seed) if model is None else model
    recorder = _Recorder(subject, first, folder, problems)
    run = subject.train(
        recorder.model, seed=given.seed, max_steps=given.steps,
        learning_rate=given.learning_rate, budget_seconds=given.budget_seconds,
        held_out=recorder.held_out, checkpoints=_places(given.steps, given.checkpoints),
        save=recorder, progress=progress)
    if recorder.records[-1].step != run.steps:
        recorder(run.steps)
    found = Run(folder, subject, given, trained_parameters(recorder.model), run,
                tuple(recorder.records), library_versions())
    _write(found)
    return found


def read_run(folder: Path) -> Run:
    """The run that :func:`train_run` wrote. Raises ParameterError where there is none."""
    path = folder / RECORD
    if not path.is_file():
        raise ParameterError(f"{folder} holds no {RECORD}: give the folder that `validator "
                             "windtunnel train` wrote")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        own = found["subject"]
        tunnel = tunnel_from_json(own["tunnel"], own["settings"])
        subject = Subject(
            own["name"], tunnel, own["style"], own["steps"], layers=own["layers"],
            shape=own["shape"], batch=own["batch"], hold_out=own["hold_out"])
        training = TrainingRun(found["steps"], found["cpu_seconds"], tuple(found["losses"]),
                               found["stopped"])
        return Run(folder, subject, Schedule(**found["schedule"]), found["parameters"], training,
                   tuple(CheckpointRecord(**c) for c in found["checkpoints"]), found["versions"])
    except (ValueError, KeyError, TypeError) as error:
        raise ParameterError(f"{path} is no record of a run ({type(error).__name__}: {error}); "
                             "train it again") from error


class _Recorder:
    """Saves and measures the model as it is when it is called with a step."""

    def __init__(self, subject: Subject, model: Any, folder: Path, problems: Sequence[Problem]
                 ) -> None:
        self.subject, self.model, self.folder, self.problems = subject, model, folder, problems
        self.batch = subject.tunnel.token_batch(
            np.random.default_rng(TEST_SEED + 1), LOSS_PROBLEMS, subject.style)
        self.held_out = {*(p.id for p in problems), *self.batch.problem_ids}
        self.records: list[CheckpointRecord] = []

    def __call__(self, step: int) -> None:
        self.model.eval()
        self.subject.save(self.model, self.folder / f"checkpoint-{step}")
        self.records.append(CheckpointRecord(step, self._loss(), **self._measures()))

    def _loss(self) -> float:
        with torch.inference_mode():
            return float(supervised_loss(self.model, torch.from_numpy(self.batch.ids),
                                         torch.from_numpy(self.batch.labels)))

    def _measures(self) -> dict[str, Any]:
        loaded = self.subject.loaded(self.model, "in training")
        tunnel, style = self.subject.tunnel, self.subject.style
        if not self.subject.walks:
            report = measure_entropy(loaded, tunnel, self.problems, style)  # type: ignore[arg-type]
            kl = report.overall.posterior_kl_bits
            return {"entropy_mae_bits": report.overall.entropy_mae_bits,
                    "posterior_kl_bits": kl if isfinite(kl) else None}
        answers = greedy_answers(self.model, loaded.tokenizer, tunnel, self.problems, style)
        roles = None
        if isinstance(tunnel, TreePathTunnel):
            found = best_roles(head_roles(self.model, loaded.tokenizer, tunnel,
                                          self.problems[:ROLE_PROBLEMS], style))
            roles = {name: asdict(head) for name, head in found.items()}
        return {"exact": exact_accuracy(answers), "roles": roles}


def library_versions() -> dict[str, str]:
    """Of what a number depends on."""
    return {"validator": __version__, "python": platform.python_version(),
            "torch": torch.__version__, "transformers": transformers.__version__,
            "numpy": np.__version__}


def _require_free(folder: Path) -> None:
    if (folder / RECORD).exists() or any(folder.glob("checkpoint-*")):
        raise ParameterError(f"{folder} holds a run already; give another folder, or remove it")


def _complete(schedule: Schedule, subject: Subject) -> Schedule:
    for name, valid, wanted in (
        ("checkpoints", schedule.checkpoints >= 1, "1 or more"),
        ("learning_rate", schedule.learning_rate is None or schedule.learning_rate > 0,
         "above 0"),
        ("budget_seconds", schedule.budget_seconds is None or schedule.budget_seconds >= 0,
         "0 or more"),
    ):
        if not valid:
            raise ParameterError(f"{name} must be {wanted}, got {getattr(schedule, name)}")
    return replace(
        schedule, steps=subject.steps if schedule.steps is None else schedule.steps,
        problems=(500 if subject.walks else 100) if schedule.problems is None
        else schedule.problems)


def _places(steps: int, count: int) -> set[int]:
    return {round(steps * i / count) for i in range(count + 1)}


def _write(run: Run) -> None:
    def put(name: str, value: Any) -> None:
        text = json.dumps(value, indent=1, allow_nan=False) + "\n"
        (run.folder / name).write_text(text, encoding="utf-8")

    losses = [{"step": c.step, "eval_loss": c.loss} for c in run.checkpoints]
    put(STATE, {"global_step": run.training.steps, "log_history": losses})
    if run.subject.walks:
        put(TRUTH, {c.name: c.exact for c in run.checkpoints})
    put(RECORD, run.to_json())
