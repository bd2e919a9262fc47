"""The one right next step of a walk on a tree, after any steps whatever.

A step is judged by the problem and by what was written before it, right or wrong: after a wrong
step the walk goes on from where it led, and the way back follows the way that was taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from validator.windtunnels.tree_text import Edge, Move

__all__ = ["TASKS", "Tree", "moves_along", "next_move", "right_moves"]

TASKS = ("forward", "backward", "direct")
"""``backward``: from the goal to the root. ``forward``: that, then its reversal, a chain of thought
of two stages. ``direct``: from the root to the goal at once, without the chain of thought."""


@dataclass(frozen=True)
class Tree:
    """Edges as they are listed, the root and the goal of the walk."""

    edges: tuple[Edge, ...]
    """(parent, child); every node is the child of at most one edge."""
    root: int
    goal: int

    @cached_property
    def parent(self) -> Mapping[int, int]:
        """child -> parent."""
        return {child: parent for parent, child in self.edges}

    @cached_property
    def path(self) -> tuple[int, ...]:
        """Nodes from the goal to the root."""
        nodes = [self.goal]
        while nodes[-1] != self.root:
            nodes.append(self.parent[nodes[-1]])
        return tuple(nodes)

    @property
    def nodes(self) -> tuple[int, ...]:
        """Every node of an edge, ascending; those of dummy edges are among them."""
        return tuple(sorted({node for edge in self.edges for node in edge}))


def moves_along(back: Sequence[int], forth: Sequence[int], task: str, style: str) -> list[Move]:
    """The steps of a walk along nodes: towards the root, then away from it; either may be empty."""
    if style != "flat":
        return [*(Move("up", a, b) for a, b in pairwise(back)),
                *(Move("down", a, b) for a, b in pairwise(forth))]
    turn = [Move("turn")] if task == "forward" else []
    return [*(Move("node", node) for node in back), *turn, *(Move("node", node) for node in forth)]


def right_moves(tree: Tree, task: str, style: str) -> list[Move]:
    """The solution."""
    back = () if task == "direct" else tree.path
    forth = () if task == "backward" else tree.path[::-1]
    return moves_along(back, forth, task, style)


def next_move(tree: Tree, task: str, style: str, moves: Sequence[Move]) -> Move | None:
    """The step that follows, or None where the walk ends, or has led where no step is right."""
    return (_next_node if style == "flat" else _next_edge)(tree, task, moves)


def _next_edge(tree: Tree, task: str, moves: Sequence[Move]) -> Move | None:
    ups = [move for move in moves if move.kind == "up"]
    downs = [move for move in moves if move.kind == "down"]
    if task != "direct" and (task == "backward" or not downs):
        at = ups[-1].second if ups else tree.goal
        if at != tree.root:
            parent = tree.parent.get(at)
            return None if parent is None else Move("up", at, parent)
        if task == "backward":
            return None
    way = {m.second: m.first for m in ups} if task == "forward" else _way_down(tree)
    at = downs[-1].second if downs else tree.root
    return Move("down", at, way[at]) if at != tree.goal and at in way else None


def _next_node(tree: Tree, task: str, moves: Sequence[Move]) -> Move | None:
    kinds = [move.kind for move in moves]
    turn = -1 if task == "direct" else kinds.index("turn") if "turn" in kinds else len(kinds)
    back = [move.first for move in moves[:max(turn, 0)] if move.kind == "node"]
    forth = [move.first for move in moves[turn + 1:] if move.kind == "node"]
    if turn == len(kinds):
        if back and back[-1] == tree.root:
            return Move("turn") if task == "forward" else None
        node = tree.parent.get(back[-1]) if back else tree.goal
    elif not forth:
        node = back[-1] if back else tree.root
    elif forth[-1] == tree.goal:
        node = None
    else:
        way = {b: a for a, b in pairwise(back)} if task == "forward" else _way_down(tree)
        node = way.get(forth[-1])
    return None if node is None else Move("node", node)


def _way_down(tree: Tree) -> dict[int, int]:
    return {parent: child for child, parent in pairwise(tree.path)}
