"""Solvers by name, and a warning before one that would run for very long."""

from __future__ import annotations

import dataclasses
import time
import warnings
from collections.abc import Sequence

import torch

from validator.errors import ParameterError, ValidatorWarning
from validator.features.eigen import symmetric_eigh
from validator.features.lanczos import LanczosSolver
from validator.features.plan import ReadPlan, View
from validator.features.solver_names import SOLVERS
from validator.features.spectra import ExactSolver, Solver

__all__ = ["SOLVERS", "LongComputationWarning", "SolverAccuracyWarning", "make_solver",
           "solver_errors", "warn_if_long"]

LONG_SECONDS = 120.0
"""A single trace that is expected to take longer than this is warned about."""
PROBE_NODES = 256
LONG_NODES = 1536
"""Graphs smaller than this are not worth a measurement."""


class LongComputationWarning(ValidatorWarning):
    """An exact decomposition will take minutes for one trace."""


class SolverAccuracyWarning(ValidatorWarning):
    """Estimates are less accurate than the solver's tolerance asks for."""


def make_solver(name: str | Solver, seed: int = 0) -> Solver:
    """A solver by name, ``exact`` or ``lanczos``, or one with settings of its own.

    Args:
        name: see :data:`SOLVERS`; or a solver.
        seed: of the Lanczos solver's probes; a solver that is given has its own.

    Raises:
        ParameterError: there is no such solver.
    """
    if isinstance(name, LanczosSolver):
        return name.fresh()
    if not isinstance(name, str):
        return name
    if name == "exact":
        return ExactSolver()
    if name == "lanczos":
        return LanczosSolver(seed=seed)
    raise ParameterError(f"unknown solver {name!r}; known: {', '.join(SOLVERS)}")


def solver_errors(solver: Solver) -> dict[str, float]:
    """What a solver's estimates are worth; empty for one that does not estimate.

    Warns:
        SolverAccuracyWarning: some graphs stayed above its tolerance.
    """
    if not isinstance(solver, LanczosSolver):
        return {}
    errors = solver.errors
    if errors.beyond_tolerance:
        warnings.warn(
            f"{errors.beyond_tolerance} of {errors.graphs} graphs stayed above the tolerance of "
            f"the Lanczos solver: standard error of a distribution function up to "
            f"{errors.distribution:.3g} (tolerance {solver.tolerance:g}), error of an extremal "
            f"eigenvalue up to {errors.extremal:.3g} of the mean (tolerance "
            f"{solver.extremal_tolerance:g}); give LanczosSolver(...) more probes, steps, rounds "
            "or restarts", SolverAccuracyWarning, stacklevel=4)
    return dataclasses.asdict(errors)


def warn_if_long(views: Sequence[Sequence[View]], plan: ReadPlan, layers: int) -> None:
    """Warn with an estimate of time where ``exact`` meets a long trace.

    The estimate scales a decomposition of 256 tokens, timed now, with the cube of the length.

    Args:
        views: what is to be read.
        plan: its feature set and solver.
        layers: how many layers are read.
    """
    if not isinstance(plan.solver, ExactSolver):
        return
    longest, cubes = None, 0.0
    for view in (v for own in views for v in own):
        found = _cubes(view, plan)
        if found > cubes:
            longest, cubes = view, found
    if longest is None or cubes < LONG_NODES**3:
        return
    seconds = cubes * layers * _seconds_per_cube()
    if seconds > LONG_SECONDS:
        warnings.warn(
            f"trace {longest.trace.trace.id!r} ({longest.end} tokens): exact decomposition of its "
            f"graphs in {layers} layers takes about {seconds / 60:.0f} minutes here; "
            "solver='lanczos' estimates the same columns with matrix-vector products, layers=... "
            "reads fewer layers, and the feature set 'fast' needs no solver",
            LongComputationWarning, stacklevel=4)


def _cubes(view: View, plan: ReadPlan) -> float:
    spans = view.spans(plan.features)
    return float(sum(
        (1 + len(g.nulls) * g.null_draws) * sum((last - first) ** 3 for first, last in spans[s])
        for g in plan.features.graphs for s in g.spans))


def _seconds_per_cube() -> float:
    count = max(1, torch.get_num_threads())
    matrices = torch.rand(count, PROBE_NODES, PROBE_NODES)
    matrices = matrices + matrices.transpose(1, 2)
    symmetric_eigh(matrices)
    started = time.perf_counter()
    symmetric_eigh(matrices)
    return (time.perf_counter() - started) / (count * PROBE_NODES**3)
