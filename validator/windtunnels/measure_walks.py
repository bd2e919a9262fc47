"""What a model of walks is worth: whole answers by depth, and which head does what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from validator.errors import ParameterError
from validator.metrics.selective import wilson_interval
from validator.models.loading import LoadedModel
from validator.types import Progress, Trace
from validator.windtunnels.answers import accuracy_by, exact_accuracy, greedy_answers
from validator.windtunnels.contract import Problem
from validator.windtunnels.head_roles import BestHead, HeadRoles, head_roles
from validator.windtunnels.subjects import Subject
from validator.windtunnels.tree import TreePathTunnel

__all__ = ["ROLES", "Exactness", "WalkMeasures", "best_roles", "deeper_tunnel", "exactness",
           "measure_walks"]

ROLES = (("backward", "edge"), ("backward", "own"), ("turn", "root"), ("forward", "own"),
         ("forward", "edge"), ("end", "goal"))
"""Stages of a walk and what a head may look at there."""
ROLE_PROBLEMS = 300


@dataclass(frozen=True, slots=True)
class Exactness:
    """How often whole answers are right."""

    exact: float
    """Share right throughout, in [0, 1]."""
    interval: tuple[float, float]
    """95%, Wilson's."""
    by_depth: Mapping[int, tuple[float, int]]
    """Depth of the goal, or numbers kept -> the share, and answers it is of."""
    problems: int


@dataclass(frozen=True, slots=True)
class WalkMeasures:
    """What :func:`measure_walks` found."""

    unseen: Exactness
    """On problems like those trained on."""
    deeper: Exactness | None
    """On trees with goals deeper than any that was trained on; None where there are none."""
    roles: Mapping[str, BestHead]
    """Stage and target -> the head with the most mass; empty where the tunnel has no roles."""

    def to_json(self) -> dict[str, Any]:
        """Plain numbers, depths as strings."""
        return {"model": _plain(self.unseen),
                "deeper": None if self.deeper is None else _plain(self.deeper),
                "roles": {name: asdict(head) for name, head in self.roles.items()}}


def measure_walks(
    loaded: LoadedModel, subject: Subject, problems: Sequence[Problem], *,
    progress: Progress | None = None,
) -> WalkMeasures:
    """Greedy answers to problems, to as many deeper ones, and the roles of heads.

    Args:
        loaded: a model of the symbols of the subject's style.
        subject: whose problems these are.
        problems: at least one, not trained on.
        progress: called with (answers done, all).

    Raises:
        ParameterError: no problems.
    """
    tunnel = subject.tunnel
    further = deeper_tunnel(tunnel)
    ahead = () if further is None else replace(subject, tunnel=further).problems(len(problems))
    total = len(problems) + len(ahead)

    def answered(own: Any, asked: Sequence[Problem], before: int) -> Exactness:
        return exactness(greedy_answers(
            loaded.model, loaded.tokenizer, own, asked, subject.style,
            progress=None if progress is None else lambda done, _: progress(before + done, total)))

    unseen = answered(tunnel, problems, 0)
    roles = (best_roles(head_roles(loaded.model, loaded.tokenizer, tunnel,
                                   problems[:ROLE_PROBLEMS], subject.style))
             if isinstance(tunnel, TreePathTunnel) else {})
    return WalkMeasures(unseen, answered(further, ahead, len(problems)) if ahead else None, roles)


def exactness(answers: Sequence[Trace]) -> Exactness:
    """Of judged answers. Raises ParameterError for none."""
    share = exact_accuracy(answers)
    low, high = wilson_interval(np.array([share]), np.array([len(answers)]))
    return Exactness(share, (float(low[0]), float(high[0])), accuracy_by(answers), len(answers))


def best_roles(roles: HeadRoles) -> dict[str, BestHead]:
    """The best head of each stage and target of :data:`ROLES` that occurs, and of stage control."""
    found = {f"{stage} {target}": roles.best(stage, target) for stage, target in ROLES
             if not np.isnan(roles.of(stage, target)).any()}
    if not np.isnan(roles.control).any():
        found["control"] = roles.best_control()
    return found


def deeper_tunnel(tunnel: Any) -> TreePathTunnel | None:
    """Trees of no more nodes whose goals are up to twice as deep, and all deeper than the tunnel's.

    None where the tunnel has no depth, or too few nodes for it.
    """
    if not isinstance(tunnel, TreePathTunnel):
        return None
    deepest = tunnel.depth[1]
    depth, fewest = (deepest + 1, 2 * deepest), max(tunnel.nodes[0], 2 * deepest + 2)
    try:
        return replace(tunnel, depth=depth, nodes=(fewest, tunnel.nodes[1]))
    except ParameterError:  # the tunnel itself knows what it can hold
        return None


def _plain(found: Exactness) -> dict[str, Any]:
    return {"problems": found.problems, "exact": found.exact, "interval": list(found.interval),
            "exact_by_depth": {str(k): list(v) for k, v in found.by_depth.items()}}
