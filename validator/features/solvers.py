"""Solvers by name, and a warning before one that would run for very long."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence

import torch

from validator.errors import ParameterError
from validator.features.eigen import symmetric_eigh
from validator.features.plan import ReadPlan, View
from validator.features.solver_names import SOLVERS
from validator.features.spectra import ExactSolver, Solver

__all__ = ["SOLVERS", "LongComputationWarning", "make_solver", "warn_if_long"]

LONG_SECONDS = 120.0
"""A single trace that is expected to take longer than this is warned about."""
PROBE_NODES = 256
LONG_NODES = 1536
"""Graphs smaller than this are not worth a measurement."""


class LongComputationWarning(UserWarning):
    """An exact decomposition will take minutes for one trace."""


def make_solver(name: str, seed: int = 0) -> Solver:
    """The solver called ``exact`` or ``lanczos``.

    Args:
        name: see :data:`SOLVERS`.
        seed: of the Lanczos solver's probes.

    Raises:
        ParameterError: there is no such solver.
    """
    if name == "exact":
        return ExactSolver()
    raise ParameterError(f"unknown solver {name!r}; known: {', '.join(SOLVERS)}")


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
