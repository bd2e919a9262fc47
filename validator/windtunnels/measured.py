"""One model measured on one subject: everything that there is to say of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

from validator.errors import ModelError, ParameterError
from validator.models.loading import LoadedModel
from validator.types import Progress
from validator.windtunnels.contract import Problem
from validator.windtunnels.in_context import text_answers
from validator.windtunnels.measure_evidence import (
    SEES,
    EvidenceMeasures,
    Geometry,
    TrainedControl,
    measure_evidence,
    measure_geometry,
    train_control,
)
from validator.windtunnels.measure_walks import (
    Exactness,
    WalkMeasures,
    exactness,
    measure_walks,
)
from validator.windtunnels.runs import Run, library_versions
from validator.windtunnels.settings import settings_of
from validator.windtunnels.subjects import TEST_SEED, Subject

__all__ = ["Measured", "Measuring", "measure_subject"]

GEOMETRY_PROBLEMS, USUAL_SHOTS = 200, 3
ProgressOf = Callable[[str], Any]
"""What is being done -> a context manager that gives a progress callback."""


@dataclass(frozen=True, slots=True)
class Measuring:
    """How a model is measured."""

    problems: int | None = None
    """None for 2,000 of walks, 500 of evidence, 20 in context."""
    in_context: bool = False
    """Written in English, to a model that was never trained on them; else in the subject's style,
    to a model of its symbols."""
    shots: int | None = None
    """Solved walks before each, in context; None for 3."""
    control_steps: int | None = None
    """Train two MLPs for so many batches as controls, on evidence; None trains none."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What was found; of walks and evidence there is one or the other."""

    subject: Subject
    loaded: LoadedModel
    style: str
    problems: tuple[Problem, ...]
    run: Run | None = None
    """Where the model comes from one."""
    walks: WalkMeasures | None = None
    in_context: Exactness | None = None
    """Of walks in English."""
    evidence: EvidenceMeasures | None = None
    geometry: Geometry | None = None
    mlps: Mapping[str, TrainedControl] = field(default_factory=dict)
    """``mlp last`` and ``mlp all``."""
    notes: tuple[str, ...] = ()
    """What could not be measured, and why."""

    def to_json(self) -> dict[str, Any]:
        """Plain values; an infinite divergence is None."""
        facts: dict[str, Any] = {
            "subject": self.subject.name, "tunnel": self.subject.tunnel.name,
            "settings": settings_of(self.subject.tunnel), "style": self.style,
            "model": self.loaded.name, "revision": self.loaded.revision,
            "problems": len(self.problems), "problem_seed": TEST_SEED,
            "versions": library_versions(), "notes": list(self.notes)}
        if self.run is not None:
            facts["run"] = {k: v for k, v in self.run.to_json().items() if k != "losses"}
        for name in ("walks", "evidence", "geometry"):
            found = getattr(self, name)
            if found is not None:
                facts[name] = found.to_json()
        if self.in_context is not None:
            facts["walks"] = WalkMeasures(self.in_context, None, {}).to_json()
        for name, control in self.mlps.items():
            facts["evidence"]["controls"][name] = control.to_json()
        found = _finite(facts)
        assert isinstance(found, dict)
        return found


def measure_subject(
    loaded: LoadedModel, subject: Subject, how: Measuring, *, progress: ProgressOf,
    run: Run | None = None,
) -> Measured:
    """Measure a model on problems of a subject that a run of it was not trained on.

    Args:
        loaded: the model.
        subject: what it is measured on.
        how: on how many problems, in which words.
        progress: makes a progress callback for what is being done.
        run: where the model comes from, if it does.

    Raises:
        ParameterError: a model that does not know the subject's symbols, or an option that has no
            part in this subject.
    """
    usual = 20 if how.in_context else 2000 if subject.walks else 500
    problems = subject.problems(usual if how.problems is None else how.problems)
    if how.control_steps is not None and (subject.walks or how.in_context):
        raise ParameterError("MLPs are controls of evidence in symbols; measure "
                             f"{subject.name}{' in context' * how.in_context} without them")
    if how.shots is not None and not (subject.walks and how.in_context):
        raise ParameterError("shots are solved walks before one to solve, in context; measure "
                             f"{subject.name}{' in context' * how.in_context} without them")
    if not how.in_context:
        _require_symbols(loaded, subject)
    measure = _walks if subject.walks else _evidence
    return measure(loaded, subject, how, problems, run, progress)


def _walks(
    loaded: LoadedModel, subject: Subject, how: Measuring, problems: list[Problem],
    run: Run | None, progress: ProgressOf,
) -> Measured:
    with progress(f"{len(problems)} problems") as advance:
        if not how.in_context:
            found = measure_walks(loaded, subject, problems, progress=advance)
            return Measured(subject, loaded, subject.style, tuple(problems), run, found)
        shots = USUAL_SHOTS if how.shots is None else how.shots
        answers = text_answers(loaded, subject.tunnel, problems, shots=shots,  # type: ignore[arg-type]
                               progress=advance)
    note = (f"{sum(a.status == 'truncated' for a in answers)} of {len(answers)} answers had not "
            f"ended at the token limit; {shots} solved problems before each")
    return Measured(subject, loaded, "text", tuple(problems), in_context=exactness(answers),
                    notes=(note,))


def _evidence(
    loaded: LoadedModel, subject: Subject, how: Measuring, problems: list[Problem],
    run: Run | None, progress: ProgressOf,
) -> Measured:
    seed = 0 if run is None else run.schedule.seed
    untrained = subject.loaded(subject.untrained(seed), "untrained")
    style = "text" if how.in_context else subject.style
    with progress(f"{len(problems)} problems") as advance:
        found = measure_evidence(loaded, subject, problems, style, progress=advance,
                                 untrained=None if run is None else untrained)
    geometry, notes = None, []
    if not how.in_context:
        try:
            geometry = measure_geometry(loaded, subject, problems[:GEOMETRY_PROBLEMS], untrained)
        except (ModelError, ParameterError) as error:
            notes.append(f"no geometry: {error}")
    mlps = _mlps(subject, how, problems, seed, progress)
    return Measured(subject, loaded, style, tuple(problems), run, evidence=found,
                    geometry=geometry, mlps=mlps, notes=tuple(notes))


def _mlps(
    subject: Subject, how: Measuring, problems: list[Problem], seed: int, progress: ProgressOf
) -> dict[str, TrainedControl]:
    found = {}
    for sees in SEES if how.control_steps is not None else ():
        with progress(f"control: MLP that sees {sees}") as advance:
            own: Progress = advance
            found[f"mlp {sees}"] = train_control(
                subject, problems, sees=sees, seed=seed, steps=how.control_steps or 0,
                progress=own)
    return found


def _require_symbols(loaded: LoadedModel, subject: Subject) -> None:
    known = loaded.tokenizer.get_vocab()
    missing = [s for s in subject.tunnel.symbols(subject.style) if s not in known]
    if missing:
        raise ParameterError(
            f"{loaded.name} does not know {len(missing)} symbols of {subject.name}, e.g. "
            f"{missing[0]!r}: it was not trained on it. Measure it in context (`--model "
            f"{loaded.name}`), or give the subject that it was trained on")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not isfinite(value) else value
