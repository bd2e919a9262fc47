"""How trees and steps on them are written and read.

=========  ==================================  ========================================
style      problem                             steps
=========  ==================================  ========================================
``edges``  ``13>25 14>13 root=14 goal=25``     ``25<13 13<14 14>13 13>25``: one token per
                                               edge, ``<`` towards the root, ``>`` away
``flat``   ``13 25 ; 14 13 ; root 14 goal      ``25 13 14 | 14 13 25``: one token per node
           25 :``
``text``   English                             ``up from 25 to 13``, a line for each
=========  ==================================  ========================================

Nodes have names of two digits, so that no tokenizer makes one longer than another.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

from validator.types import Trace

__all__ = [
    "FIRST_NAME", "MARKS", "MOST_LABELS", "STYLES", "Edge", "Move", "edge_symbols", "flat_symbols",
    "node_name", "problem_text", "read_move", "read_moves", "step_spans", "write_moves",
]

Edge = tuple[int, int]
STYLES = ("edges", "flat", "text")
FIRST_NAME = 10
MOST_LABELS = 90
MARKS = (";", "root", "goal", ":", "|")
"""The symbols of the flat style that are no nodes."""


class Move(NamedTuple):
    """One step: along an edge (``up`` from child to parent, ``down``), or in the flat style a node
    or the turn between the stages."""

    kind: Literal["up", "down", "node", "turn"]
    first: int = -1
    """Where an edge is left, or the node."""
    second: int = -1
    """Where it leads."""


def node_name(node: int) -> str:
    """Two digits."""
    return str(node + FIRST_NAME)


def edge_symbols(labels: int) -> tuple[str, ...]:
    """(2 L (L - 1) + 2 L,) edges down, edges up, root marks, goal marks, each in order of nodes."""
    names = [node_name(node) for node in range(labels)]
    pairs = [(a, b) for a in names for b in names if a != b]
    return (*(f"{a}>{b}" for a, b in pairs), *(f"{a}<{b}" for a, b in pairs),
            *(f"root={a}" for a in names), *(f"goal={a}" for a in names))


def flat_symbols(labels: int) -> tuple[str, ...]:
    """(5 + L,) the marks, then the nodes."""
    return (*MARKS, *(node_name(node) for node in range(labels)))


def problem_text(edges: Sequence[Edge], root: int, goal: int, style: str, task: str) -> str:
    """The prompt, with the white space that parts it from the completion."""
    a, b = node_name(root), node_name(goal)
    named = [(node_name(p), node_name(c)) for p, c in edges]
    if style == "edges":
        return " ".join([*(f"{p}>{c}" for p, c in named), f"root={a}", f"goal={b}"]) + " "
    if style == "flat":
        return " ".join([*(f"{p} {c} ;" for p, c in named), f"root {a} goal {b} :"]) + " "
    listed = ", ".join(f"{p} > {c}" for p, c in named)
    return (f"Each edge of a tree leads from a parent to its child: {listed}. The root is {a} and "
            f"the goal is {b}.\n{_REQUEST[task].format(root=a, goal=b)}\n")


_REQUEST = {
    "backward": "Walk from the goal {goal} up to the root {root}, one edge on each line, written "
                "as `up from CHILD to PARENT`.",
    "forward": "Walk from the goal {goal} up to the root {root}, one edge on each line, written as "
               "`up from CHILD to PARENT`, and then the same way back, written as `down from "
               "PARENT to CHILD`.",
    "direct": "Walk from the root {root} down to the goal {goal}, one edge on each line, written "
              "as `down from PARENT to CHILD`.",
}


def write_moves(moves: Sequence[Move], style: str) -> str:
    """The completion of these steps."""
    return ("\n" if style == "text" else " ").join(_written(move, style) for move in moves)


def _written(move: Move, style: str) -> str:
    if move.kind == "turn":
        return "|"
    first = node_name(move.first)
    if move.kind == "node":
        return first
    second = node_name(move.second)
    if style == "text":
        return f"{move.kind} from {first} to {second}"
    return f"{first}{'<' if move.kind == 'up' else '>'}{second}"


_EDGE = re.compile(r"([1-9][0-9])([<>])([1-9][0-9])")
_NODE = re.compile(r"[1-9][0-9]")
_LINE = re.compile(r"[-*\s]*(up|down) from ([1-9][0-9]) to ([1-9][0-9])[.,;]?", re.IGNORECASE)


def read_move(step: str, style: str) -> Move | None:
    """The step that a piece of text is, or None where it is none of this style."""
    step = step.strip()
    if style == "flat":
        if step == "|":
            return Move("turn")
        return Move("node", int(step) - FIRST_NAME) if _NODE.fullmatch(step) else None
    match = (_LINE if style == "text" else _EDGE).fullmatch(step)
    if match is None:
        return None
    if style == "text":
        word, first, second = match.groups()
    else:
        first, word, second = match.groups()
    up = word.lower() in ("<", "up")
    return Move("up" if up else "down", int(first) - FIRST_NAME, int(second) - FIRST_NAME)


def read_moves(trace: Trace, style: str) -> list[Move | None]:
    """Each step of a trace in turn: those it names, else those its text falls into."""
    spans = trace.steps if trace.steps is not None else step_spans(trace.completion, style)
    return [read_move(trace.completion[start:end], style) for start, end in spans]


def step_spans(completion: str, style: str) -> tuple[tuple[int, int], ...]:
    """Character spans of the lines that are not blank, or of the words of a token style."""
    pattern = r"[^\s\n][^\n]*" if style == "text" else r"\S+"
    return tuple(match.span() for match in re.finditer(pattern, completion))
