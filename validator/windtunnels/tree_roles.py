"""Which tokens each decision of a walk on a tree has to look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from validator.types import Trace
from validator.windtunnels.contract import Problem
from validator.windtunnels.tree import TreePathTunnel
from validator.windtunnels.tree_text import Move, node_name, read_moves
from validator.windtunnels.tree_walk import Tree

__all__ = ["STAGES", "TARGETS", "Decision", "tree_decisions"]

STAGES = ("start", "backward", "turn", "restart", "forward", "end")
"""Finding the goal (``flat``), stepping towards the root, seeing that it is reached, taking up the
way back (``flat``), stepping away from the root, and seeing that the goal is reached."""
TARGETS = ("edge", "own", "root", "goal")
"""The listed edge that the step follows; of the walk's own steps the one that this step reverses
(``forward``), else the last; the root's and the goal's mark in the problem."""

Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Decision:
    """A place in a text where what comes next depends on something that can be pointed at."""

    stage: str
    at: int
    """Offset of the decided character in prompt + completion; their length for the end."""
    targets: Mapping[str, Span]
    """Name -> characters in prompt + completion, all of them before ``at``."""


def tree_decisions(
    tunnel: TreePathTunnel, problem: Problem, style: str
) -> tuple[Trace, tuple[Decision, ...]]:
    """The rendered solution and its decisions, in order.

    In the token styles each symbol is one decision and so is the end. In ``text`` a line's second
    node is one, and the word that begins the way back is the ``turn``.
    """
    trace = tunnel.render(problem, style)
    moves = [move for move in read_moves(trace, style) if move is not None]
    shift = len(trace.prompt)
    steps = [(start + shift, end + shift) for start, end in trace.steps or ()]
    problem_marks = _marks(problem.content, trace.prompt, style)
    decide = _flat if style == "flat" else _edges
    found = decide(problem.content, trace, moves, steps, style)
    decisions = [Decision(stage, at, {**problem_marks, **targets}) for stage, at, targets in found]
    if style != "text":
        decisions.append(Decision("end", shift + len(trace.completion), problem_marks))
    return trace, tuple(decisions)


def _marks(tree: Tree, prompt: str, style: str) -> dict[str, Span]:
    """Where the prompt names the root and the goal."""
    joint = {"edges": "=", "flat": " ", "text": " is "}[style]
    marks = {"root": f"root{joint}{node_name(tree.root)}",
             "goal": f"goal{joint}{node_name(tree.goal)}"}
    return {name: _find(prompt, mark) for name, mark in marks.items()}


def _find(text: str, words: str) -> Span:
    """Names have two digits each, so none is found inside another."""
    start = text.index(words)
    return start, start + len(words)


def _listed(prompt: str, parent: int, child: int, style: str) -> Span:
    a, b = node_name(parent), node_name(child)
    return _find(prompt, {"edges": f"{a}>{b}", "flat": f"{a} {b} ;", "text": f"{a} > {b}"}[style])


def _edges(
    tree: Tree, trace: Trace, moves: Sequence[Move], steps: Sequence[Span], style: str
) -> list[tuple[str, int, dict[str, Span]]]:
    found: list[tuple[str, int, dict[str, Span]]] = []
    up = {(m.second, m.first): span for m, span in zip(moves, steps, strict=True) if m.kind == "up"}
    for i, (move, span) in enumerate(zip(moves, steps, strict=True)):
        back = move.kind == "up"
        ends = (move.second, move.first) if back else (move.first, move.second)
        targets = {"edge": _listed(trace.prompt, *ends, style)}
        own = steps[i - 1] if back and i else up.get(ends) if not back else None
        targets |= {} if own is None else {"own": own}
        turns = not back and i > 0 and moves[i - 1].kind == "up"
        stage = "backward" if back else "turn" if turns and style == "edges" else "forward"
        if turns and style == "text":
            found.append(("turn", span[0], {}))
        found.append((stage, span[1] - 2 if style == "text" else span[0], targets))
    return found


def _flat(
    tree: Tree, trace: Trace, moves: Sequence[Move], steps: Sequence[Span], style: str
) -> list[tuple[str, int, dict[str, Span]]]:
    depth = len(tree.path) - 1
    kinds = [move.kind for move in moves]
    turn = kinds.index("turn") if "turn" in kinds else -1
    down = turn + 1 if turn >= 0 or moves[0].first == tree.root else len(moves)
    found: list[tuple[str, int, dict[str, Span]]] = []
    for i, (move, span) in enumerate(zip(moves, steps, strict=True)):
        stage = "turn" if i == turn else "forward" if i > down else "backward" if i < down else (
            "restart" if turn >= 0 else "start")
        stage = stage if i else "start"
        targets: dict[str, Span] = {}
        if stage in ("backward", "forward"):
            ends = (moves[i - 1].first, move.first)
            ends = ends if stage == "forward" else ends[::-1]
            targets["edge"] = _listed(trace.prompt, *ends, style)
        if stage in ("backward", "turn"):
            targets["own"] = steps[i - 1]
        elif turn >= 0 and i >= down:  # node depth - k of the way back is the k-th of the way there
            k = depth - (i - down)
            targets["own"] = (steps[k][0], steps[min(k + 1, depth)][1])
        found.append((stage, span[0], targets))
    return found
