"""What a model of evidence is worth: its entropies, beside controls, and its geometry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from validator.errors import ParameterError
from validator.models.loading import LoadedModel
from validator.types import Progress
from validator.windtunnels.bayes_training import control_model, train_bayes
from validator.windtunnels.contract import Problem
from validator.windtunnels.entropy import EntropyReport, measure_entropy
from validator.windtunnels.geometry import (
    EntropyAxis,
    KeyFrame,
    QueryStates,
    ablated_entropy_error,
    entropy_axis,
    key_frame,
    query_states,
)
from validator.windtunnels.subjects import Subject

__all__ = ["SEES", "EvidenceMeasures", "Geometry", "TrainedControl", "measure_evidence",
           "measure_geometry", "train_control", "uniform_subject"]

Sees = Literal["last", "all"]
SEES: tuple[Sees, ...] = ("last", "all")
"""What MLPs are shown, see :class:`.controls.PositionMLP`."""


@dataclass(frozen=True, slots=True)
class Geometry:
    """Key frame before and after training, entropy axis, and what taking it out does."""

    key_frame: Mapping[str, KeyFrame]
    """Of the symbols of ``evidence`` and of ``answers``."""
    key_frame_untrained: Mapping[str, KeyFrame]
    entropy_axis: EntropyAxis
    entropy_error_without: Mapping[str, float]
    """See :func:`.geometry.ablated_entropy_error`."""
    problems: int
    states: QueryStates = field(compare=False)
    """What it was measured on."""

    def to_json(self) -> dict[str, Any]:
        """Plain numbers, without the states."""
        return {
            "problems": self.problems,
            "key_frame": {kind: asdict(frame) for kind, frame in self.key_frame.items()},
            "key_frame_untrained": {
                kind: asdict(frame) for kind, frame in self.key_frame_untrained.items()},
            "entropy_axis": asdict(self.entropy_axis),
            "entropy_error_without": dict(self.entropy_error_without)}


@dataclass(frozen=True, slots=True)
class EvidenceMeasures:
    """What :func:`measure_evidence` found."""

    model: EntropyReport
    controls: Mapping[str, EntropyReport]
    """``uniform``: all candidates equally likely; ``untrained``: the model before its first step,
    where it is known."""

    def to_json(self) -> dict[str, Any]:
        """Plain numbers."""
        return {"model": self.model.to_json(),
                "controls": {name: found.to_json() for name, found in self.controls.items()}}


@dataclass(frozen=True, slots=True)
class TrainedControl:
    """An MLP without attention, trained as the model was."""

    parameters: int
    steps: int
    cpu_seconds: float
    report: EntropyReport

    def to_json(self) -> dict[str, Any]:
        """Plain numbers."""
        return {"parameters": self.parameters, "steps": self.steps,
                "cpu_seconds": round(self.cpu_seconds, 1), **self.report.to_json()}


def measure_evidence(
    loaded: LoadedModel, subject: Subject, problems: Sequence[Problem], style: str, *,
    untrained: LoadedModel | None = None, progress: Progress | None = None,
) -> EvidenceMeasures:
    """Compare a model and the cheap controls with the exact posterior.

    Args:
        loaded: any causal LM; for a token style of its symbols.
        subject: whose problems these are.
        problems: at least one.
        style: how they are written.
        untrained: the model before training, for a control.
        progress: called with (problems done, all), of all models together.

    Raises:
        ParameterError: as :func:`.entropy.measure_entropy`.
    """
    models = {"model": loaded, "uniform": uniform_subject(loaded)}
    if untrained is not None:
        models["untrained"] = untrained
    total, tunnel = len(models) * len(problems), _evidence(subject)
    found = {}
    for i, (name, model) in enumerate(models.items()):
        def advance(done: int, _: int, before: int = i * len(problems)) -> None:
            if progress is not None:
                progress(before + done, total)

        found[name] = measure_entropy(model, tunnel, problems, style, progress=advance)
    return EvidenceMeasures(found.pop("model"), found)


def measure_geometry(
    loaded: LoadedModel, subject: Subject, problems: Sequence[Problem], untrained: LoadedModel
) -> Geometry:
    """Of a Llama-shaped model of the symbols of the subject's style.

    Raises ModelError for other shapes, ParameterError where all entropies are equal.
    """
    tunnel, style = _evidence(subject), subject.style
    asked = tunnel.queries(problems[0], style)[0].posterior.symbols
    states = query_states(loaded, tunnel, problems, style)
    kinds = {"evidence": tunnel.symbols(style)[:len(asked)], "answers": asked}
    candidates = loaded.tokenizer.convert_tokens_to_ids(list(asked))
    return Geometry(
        {kind: key_frame(loaded, names) for kind, names in kinds.items()},
        {kind: key_frame(untrained, names) for kind, names in kinds.items()},
        entropy_axis(states), ablated_entropy_error(loaded, states, candidates), len(problems),
        states)


def train_control(
    subject: Subject, problems: Sequence[Problem], *, sees: Sees, seed: int, steps: int,
    progress: Progress | None = None,
) -> TrainedControl:
    """Train an MLP without attention on the same tunnel and measure it.

    Args:
        subject: of evidence.
        problems: measured, and held out of the training where the subject's are.
        sees: what it is shown at each position, see :class:`.controls.PositionMLP`.
        seed: of its weights and of its problems.
        steps: batches.
        progress: called with (steps done, steps).
    """
    tunnel, style = _evidence(subject), subject.style
    example = tunnel.token_batch(np.random.default_rng(0), 1, style)
    control = control_model(tunnel, style, example.ids.shape[1], sees=sees, seed=seed)
    run = train_bayes(
        tunnel, style, control, seed=seed, learning_rate=1e-3, max_steps=steps,
        held_out=[p.id for p in problems] if subject.hold_out else (), progress=progress)
    report = measure_entropy(subject.loaded(control, "mlp"), tunnel, problems, style)
    return TrainedControl(sum(p.numel() for p in control.parameters()), run.steps,
                          run.cpu_seconds, report)


def uniform_subject(loaded: LoadedModel) -> LoadedModel:
    """A model of the same vocabulary to which every token is always equally likely."""
    network: Any = _Uniform(len(loaded.tokenizer), loaded.model.config)
    return LoadedModel(network, loaded.tokenizer, "uniform", "uniform")


class _Uniform(nn.Module):
    def __init__(self, vocabulary: int, config: Any) -> None:
        super().__init__()
        self.vocabulary, self.config = vocabulary, config
        self.device = torch.device("cpu")

    def forward(self, input_ids: Tensor) -> SimpleNamespace:
        """``logits`` (B, T, V), all zero."""
        return SimpleNamespace(logits=torch.zeros(1).expand(*input_ids.shape, self.vocabulary))


def _evidence(subject: Subject) -> Any:
    if subject.walks:
        raise ParameterError(f"{subject.name} asks for whole answers, not for distributions; "
                             "measure it with measure_walks")
    return subject.tunnel
