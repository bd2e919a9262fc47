"""Documents of the wind tunnels' tasks: drawn anew for each run, no file and no network.

``--metadata`` says what is drawn: ``tunnel`` (settings of the tunnel, or ``{name of a tunnel:
settings}`` where several run together), ``style``, ``problem_count`` and ``problem_seed``. The same
four give the same documents.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import islice
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

import numpy as np

from validator.errors import HarnessError, ParameterError
from validator.windtunnels.contract import Problem
from validator.windtunnels.settings import TUNNELS, tunnel_class, tunnel_from_json
from validator.windtunnels.tree import TreePathTunnel
from validator.windtunnels.tree_walk import Tree

__all__ = [
    "DEMONSTRATIONS", "KEYS", "PROBLEMS", "Drawn", "bijection", "draw", "hmm", "sula", "tree_of",
    "treepath",
]

KEYS = ("tunnel", "style", "problem_count", "problem_seed")
"""Keys of ``--metadata`` that change the documents."""
PROBLEMS = 100
"""Documents of a run that does not say how many."""
DEMONSTRATIONS = 8
"""Solved problems that a prompt can begin with, none of them among the documents."""
MOST_DRAWS = 200
"""Problems that are drawn in search of demonstrations."""


@dataclass(frozen=True)
class Drawn:
    """What a run's metadata stands for."""

    tunnel: Any
    """A tunnel with its settings."""
    style: str
    """One of the tunnel's."""
    problems: tuple[Problem, ...]
    seed: int


def draw(name: str, metadata: Mapping[str, Any]) -> Drawn:
    """The problems of a tunnel: one after the other from ``default_rng(problem_seed)``.

    Args:
        name: of the tunnel: ``tree``, ``bijection``, ``hmm`` or ``sula``.
        metadata: model arguments and ``--metadata`` together, as lm-eval hands them to tasks.

    Raises:
        HarnessError: an unknown setting, style or tunnel, or a value that cannot be.
    """
    count = _whole(metadata, "problem_count", PROBLEMS, least=1)
    seed = _whole(metadata, "problem_seed", 0, least=0)
    tunnel = _tunnel(name, _settings(name, metadata.get("tunnel")))
    style = metadata.get("style", "text")
    if style not in tunnel.styles:
        raise HarnessError(f"style: the tunnel {name!r} with these settings has no style {style!r};"
                           f" it has: {', '.join(tunnel.styles)}")
    rng = np.random.default_rng(seed)
    return Drawn(tunnel, style, tuple(tunnel.sample(rng) for _ in range(count)), seed)


def _settings(name: str, given: Any) -> Mapping[str, Any]:
    """The settings of one tunnel; those of others are the other tasks'."""
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise HarnessError("tunnel must be {setting: value} or {name of a tunnel: settings}, got "
                           f"{type(given).__name__}")
    if not given or not set(given) <= set(TUNNELS):
        return given
    return _settings(name, given.get(name))


def _tunnel(name: str, settings: Mapping[str, Any]) -> Any:
    hints = get_type_hints(tunnel_class(name))
    known = [field.name for field in fields(tunnel_class(name))]  # type: ignore[arg-type]
    for setting, value in settings.items():
        if setting not in known:
            near = difflib.get_close_matches(str(setting), known, n=1)
            raise HarnessError(
                f"tunnel: {name!r} has no setting {setting!r}"
                + (f"; did you mean {near[0]!r}?" if near else "") + f" It has: {', '.join(known)}")
        if not _fits(value, hints[setting]):
            raise HarnessError(f"tunnel: the setting {setting!r} of {name!r} must be "
                               f"{_said(hints[setting])}, got {value!r}")
    try:
        return tunnel_from_json(name, settings)
    except ParameterError as error:
        raise HarnessError(f"tunnel {name!r}: {error}") from error


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value of JSON is of a setting's type."""
    if isinstance(hint, UnionType):
        return any(_fits(value, part) for part in get_args(hint))
    if get_origin(hint) is tuple:
        kind, *more = get_args(hint)
        return (isinstance(value, (list, tuple)) and all(_fits(v, kind) for v in value)
                and (more == [...] or len(value) == 1 + len(more)))
    if isinstance(value, bool):
        return hint is bool
    return isinstance(value, (int, float) if hint is float else hint)


def _said(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) and not get_args(hint) else (
        str(hint).replace("tuple", "list"))


def _whole(metadata: Mapping[str, Any], key: str, default: int, *, least: int) -> int:
    value = metadata.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise HarnessError(f"{key} must be a whole number, {least} or more, got {value!r}")
    return value


def _evidence(name: str, metadata: Mapping[str, Any]) -> Any:
    """One document a problem: its queries in order, and the exact posterior at each."""
    import datasets

    drawn = draw(name, metadata)
    rows = []
    for problem in drawn.problems:
        queries = drawn.tunnel.queries(problem, drawn.style)
        rows.append({
            "problem_id": problem.id, "style": drawn.style,
            "written": drawn.tunnel.render(problem, drawn.style).completion,
            "position": [q.position for q in queries], "prefix": [q.prefix for q in queries],
            "candidates": [list(q.candidates) for q in queries],
            "posterior": [q.posterior.probabilities.tolist() for q in queries]})
    return {"test": datasets.Dataset.from_list(rows)}


def bijection(**metadata: Any) -> Any:
    """Problems of :class:`validator.windtunnels.bijection.BijectionTunnel`."""
    return _evidence("bijection", metadata)


def hmm(**metadata: Any) -> Any:
    """Problems of :class:`validator.windtunnels.hmm.HMMTunnel`."""
    return _evidence("hmm", metadata)


def sula(**metadata: Any) -> Any:
    """Problems of :class:`validator.windtunnels.sula.SulaTunnel`."""
    return _evidence("sula", metadata)


def treepath(**metadata: Any) -> Any:
    """Problems of :class:`validator.windtunnels.tree.TreePathTunnel` with their solutions.

    The split ``demonstrations`` holds solved problems that are no documents.

    Raises HarnessError also for settings with too few different trees for both.
    """
    import datasets

    drawn = draw("tree", metadata)
    taken = {problem.id for problem in drawn.problems}
    rng = np.random.default_rng([drawn.seed, 1])
    others = (drawn.tunnel.sample(rng) for _ in range(MOST_DRAWS))
    shown = list(islice((p for p in others if p.id not in taken), DEMONSTRATIONS))
    if len(shown) < DEMONSTRATIONS:
        raise HarnessError(f"tunnel 'tree': with these settings there are fewer problems than the "
                           f"{len(drawn.problems)} documents and {DEMONSTRATIONS} demonstrations; "
                           "ask for fewer, or for larger trees")
    splits = {"test": drawn.problems, "demonstrations": shown}
    return {split: datasets.Dataset.from_list([_tree_row(drawn, p) for p in problems])
            for split, problems in splits.items()}


def _tree_row(drawn: Drawn, problem: Problem) -> dict[str, Any]:
    right, tree = drawn.tunnel.render(problem, drawn.style), problem.content
    return {"problem_id": problem.id, "style": drawn.style, "task": drawn.tunnel.task,
            "prompt": right.prompt, "solution": right.completion, "root": tree.root,
            "goal": tree.goal, "edges": [list(edge) for edge in tree.edges],
            "depth": problem.meta["depth"]}


def tree_of(document: Mapping[str, Any]) -> tuple[TreePathTunnel, Problem]:
    """The tunnel and the problem that judge answers to a document."""
    edges: Sequence[Sequence[int]] = document["edges"]
    tree = Tree(tuple((p, c) for p, c in edges), document["root"], document["goal"])
    return TreePathTunnel(task=document["task"]), Problem(
        document["problem_id"], tree, {"depth": document["depth"], "edges": len(edges)})
