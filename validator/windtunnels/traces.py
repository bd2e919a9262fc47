"""Right traces of a tunnel and wrong twins of equal length, as files hold them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from validator.errors import ParameterError
from validator.types import Progress, Trace
from validator.windtunnels.contract import Problem, require_kind, require_style

__all__ = ["distinct_problems", "tunnel_traces"]

PATIENCE = 1000
"""Problems in a row that were all drawn before: a tunnel has no more then, or hardly any."""


def tunnel_traces(
    tunnel: Any, count: int, *, style: str, seed: int, kinds: Sequence[str] = (),
    progress: Progress | None = None,
) -> list[Trace]:
    """Different problems, each with its right solution and a twin of each kind.

    Args:
        tunnel: whose problems.
        count: of problems.
        style: how they are written.
        seed: of the problems and of the twins; the problems are the same with and without twins.
        kinds: corruptions.
        progress: called with (problems done, all).

    Raises:
        ParameterError: a style or a kind the tunnel does not have, a count below 1, or more
            problems than it has.
    """
    require_style(tunnel, style)
    for kind in kinds:
        require_kind(tunnel, kind)
    twins = np.random.default_rng([seed, 1])
    found: list[Trace] = []
    for i, problem in enumerate(distinct_problems(tunnel, count, seed)):
        found.append(tunnel.render(problem, style))
        found += [tunnel.corrupt(problem, style, kind, twins) for kind in kinds]
        if progress is not None:
            progress(i + 1, count)
    return found


def distinct_problems(tunnel: Any, count: int, seed: int) -> list[Problem]:
    """Problems of which no two are the same. Raises ParameterError where there are not so many."""
    if count < 1:
        raise ParameterError(f"at least 1 problem is needed, got {count}")
    rng, found, misses = np.random.default_rng(seed), dict[str, Problem](), 0
    while len(found) < count:
        problem = tunnel.sample(rng)
        misses = misses + 1 if problem.id in found else 0
        found.setdefault(problem.id, problem)
        if misses == PATIENCE:
            raise ParameterError(
                f"the tunnel {tunnel.name!r} with these settings gave {len(found)} different "
                f"problems and then {PATIENCE} that were drawn before; ask for fewer than {count}, "
                "or for larger problems")
    return list(found.values())
