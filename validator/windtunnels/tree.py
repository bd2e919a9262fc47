"""Finding the path between the root and the goal of a random tree (arXiv 2508.08222).

*Multi-head Transformers Provably Learn Symbolic Multi-step Reasoning via Gradient Descent* shows
that one layer of two heads can learn to walk from the goal to the root, and to walk back as well:
one head finds the next edge, the other knows in which of the two stages the walk is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from validator.errors import ParameterError
from validator.types import Trace
from validator.windtunnels.contract import (
    Posterior,
    Problem,
    TokenBatch,
    require_kind,
    require_style,
    twin,
)
from validator.windtunnels.symbols import EOS
from validator.windtunnels.tree_arrays import TreeArrays, sample_trees, tree_keys
from validator.windtunnels.tree_text import (
    MOST_LABELS,
    STYLES,
    Move,
    edge_symbols,
    flat_symbols,
    problem_text,
    read_move,
    read_moves,
    step_spans,
    write_moves,
)
from validator.windtunnels.tree_tokens import tree_batch
from validator.windtunnels.tree_walk import TASKS, Tree, moves_along, next_move, right_moves

__all__ = ["TreePathTunnel"]


@dataclass(frozen=True)
class TreePathTunnel:
    """Random trees; the answer is a path in them.

    Two trees are the same problem if they have the same edges, root and goal, in whatever order the
    edges are listed.
    """

    name = "tree"
    styles = STYLES
    task: str = "forward"
    """One of :data:`validator.windtunnels.tree_walk.TASKS`."""
    nodes: tuple[int, int] = (8, 32)
    """Fewest and most nodes, those of dummy edges not counted."""
    depth: tuple[int, int] = (2, 6)
    """Least and greatest depth of the goal in edges; no node of the tree is deeper."""
    branching: int = 3
    """Most children of a node."""
    dummies: tuple[int, int] = (0, 4)
    """Fewest and most dummy edges: the first leads into the root, the others lie beside it."""
    labels: int = 36
    """Nodes get distinct names of this many, at random."""

    def __post_init__(self) -> None:
        for name, valid, wanted in (
            ("task", self.task in TASKS, f"one of {', '.join(TASKS)}"),
            ("depth", 2 <= self.depth[0] <= self.depth[1], "2 or more, ascending"),
            ("nodes", self.depth[1] + 2 <= self.nodes[0] <= self.nodes[1],
             "ascending, and the fewest 2 more than the greatest depth"),
            ("branching", self.branching >= 2, "2 or more"),
            ("nodes", self.nodes[1] <= 2 ** (self.depth[1] + 1) - 1,
             "no more than a binary tree of the greatest depth holds"),
            ("dummies", 0 <= self.dummies[0] <= self.dummies[1], "0 or more, ascending"),
            ("labels", self.nodes[1] + self.dummies[1] <= self.labels <= MOST_LABELS,
             f"as many as nodes and dummy edges at most, and no more than {MOST_LABELS}"),
        ):
            if not valid:
                raise ParameterError(f"{name} must be {wanted}, got {getattr(self, name)!r}")

    @property
    def corruptions(self) -> tuple[str, ...]:
        """``bad_reversal`` only where there is a reversal."""
        shared = ("swapped", "off_path", "early_stop")
        return (*shared, "bad_reversal") if self.task == "forward" else shared

    def symbols(self, style: str) -> tuple[str, ...]:
        """Every symbol of a token style; none of ``text``."""
        require_style(self, style)
        if style == "text":
            return ()
        return edge_symbols(self.labels) if style == "edges" else flat_symbols(self.labels)

    def sample_arrays(self, rng: np.random.Generator, count: int) -> TreeArrays:
        """Many trees at once; one of them is what :meth:`sample` draws."""
        return sample_trees(rng, count, nodes=self.nodes, depth=self.depth, labels=self.labels,
                            branching=self.branching, dummies=self.dummies)

    def sample(self, rng: np.random.Generator) -> Problem:
        """A tree with its goal."""
        return self.problems(self.sample_arrays(rng, 1))[0]

    def problems(self, arrays: TreeArrays) -> list[Problem]:
        """Each of many trees as a problem."""
        roots = arrays.path[np.arange(len(arrays.depth)), arrays.depth]
        keys = tree_keys(arrays.edges, roots, arrays.path[:, 0])
        found = []
        for edges, path, depth, key in zip(
                arrays.edges.tolist(), arrays.path.tolist(), arrays.depth.tolist(), keys,
                strict=True):
            tree = Tree(tuple((p, c) for p, c in edges if p >= 0), path[depth], path[0])
            found.append(Problem(f"tree-{key:016x}", tree, _facts(tree)))
        return found

    def token_batch(self, rng: np.random.Generator, count: int, style: str) -> TokenBatch:
        """Fresh problems as token ids; every symbol of the solution and the end are supervised.

        Raises ParameterError for ``text``, which has no ids of its own.
        """
        require_style(self, style)
        return tree_batch(self.sample_arrays(rng, count), style, self.task, self.labels)

    def render(self, problem: Problem, style: str) -> Trace:
        """The problem with its solution."""
        require_style(self, style)
        moves = right_moves(problem.content, self.task, style)
        return self._trace(problem, style, write_moves(moves, style), problem.id, self.name)

    def judge(self, problem: Problem, style: str, completion: str, *, trace_id: str,
              source: str = "") -> Trace:
        """A completion that anybody wrote as a trace, with its exact labels.

        Args:
            problem: what it answers.
            style: how it is written.
            completion: any text; what is no step of the style is a wrong step.
            trace_id: of the trace.
            source: who wrote it.
        """
        require_style(self, style)
        return self._trace(problem, style, completion, trace_id, source)

    def verify(self, problem: Problem, trace: Trace) -> tuple[bool, ...]:
        """Whether each step is the right one after those before it, as it was led by them.

        The style is the trace's ``meta["style"]``, else ``edges``. See :mod:`.tree_walk`.
        """
        style = _style(trace)
        return self._verdicts(problem, style, read_moves(trace, style))

    def valid(self, problem: Problem, trace: Trace) -> bool:
        """Whether all steps are right and the walk ends where it must."""
        style = _style(trace)
        moves = read_moves(trace, style)
        right = self._verdicts(problem, style, moves)
        read = [move for move in moves if move is not None]
        return bool(right) and all(right) and self._next(problem, style, read) is None

    def corrupt(self, problem: Problem, style: str, kind: str, rng: np.random.Generator) -> Trace:
        """A wrong walk of as many steps, each as many characters as the right one.

        ``swapped``: two neighbouring nodes change places, inside the path where it has two there,
        and the way back follows. ``off_path``: a node inside the path is another node of the
        problem, on the way back as well. ``early_stop``: the last stage breaks off after some of
        its steps and repeats the last of them. ``bad_reversal``: the way back visits the same nodes
        in another order.
        """
        require_style(self, style)
        require_kind(self, kind)
        tree: Tree = problem.content
        moves = CORRUPTIONS[kind](tree, self.task, style, rng)
        completion = write_moves(moves, style)
        right = self.render(problem, style)
        read: list[Move | None] = [*moves]
        return twin(right, completion, kind, step_spans(completion, style),
                    self._verdicts(problem, style, read))

    def posterior(self, problem: Problem, prefix: Sequence[str]) -> Posterior:
        """All mass on the one right next symbol, or on the end, also where no step is right.

        Args:
            problem: the tree.
            prefix: symbols of the prompt, all of it, and of the completion so far.

        Raises:
            ParameterError: the prefix does not begin with the prompt in a token style.
        """
        for style in STYLES[:2]:
            prompt = self.prompt(problem, style).split()
            if list(prefix[: len(prompt)]) == prompt:
                read = [read_move(symbol, style) for symbol in prefix[len(prompt):]]
                after = self._next(problem, style, [move for move in read if move is not None])
                symbol = EOS if after is None else write_moves([after], style)
                symbols = (EOS, *self.symbols(style))
                return Posterior(symbols, np.array([s == symbol for s in symbols], dtype=float))
        raise ParameterError("the prefix must begin with the problem's prompt, whole, in the style "
                             f"edges or flat; it begins with {' '.join(prefix[:5])!r}")

    def prompt(self, problem: Problem, style: str) -> str:
        """The problem as it is shown."""
        tree: Tree = problem.content
        return problem_text(tree.edges, tree.root, tree.goal, style, self.task)

    def _next(self, problem: Problem, style: str, moves: Sequence[Move]) -> Move | None:
        return next_move(problem.content, self.task, style, moves)

    def _verdicts(self, problem: Problem, style: str, moves: Sequence[Move | None]
                  ) -> tuple[bool, ...]:
        read: list[Move] = []
        verdicts = []
        for move in moves:
            verdicts.append(move is not None and move == self._next(problem, style, read))
            read += [move] if move is not None else []
        return tuple(verdicts)

    def _trace(self, problem: Problem, style: str, completion: str, trace_id: str, source: str
               ) -> Trace:
        meta: dict[str, Any] = {**problem.meta, "style": style, "task": self.task}
        spans = step_spans(completion, style)
        trace = Trace(trace_id, problem.id, self.prompt(problem, style), completion,
                      steps=spans, source=source, meta=meta)
        verdicts = self.verify(problem, trace)
        return Trace(trace_id, problem.id, trace.prompt, completion,
                     int(self.valid(problem, trace)), steps=spans, source=source, meta=meta,
                     step_labels=tuple(int(verdict) for verdict in verdicts))


def _style(trace: Trace) -> str:
    style = trace.meta.get("style")
    return style if style in STYLES else STYLES[0]


def _facts(tree: Tree) -> dict[str, Any]:
    return {"depth": len(tree.path) - 1, "edges": len(tree.edges)}


def _walk(back: Sequence[int], task: str, style: str) -> list[Move]:
    """Along a path from goal to root that may be wrong, and back along the same path."""
    return moves_along(() if task == "direct" else back, () if task == "backward" else back[::-1],
                       task, style)


def _swapped(tree: Tree, task: str, style: str, rng: np.random.Generator) -> list[Move]:
    path = list(tree.path)
    i = int(rng.integers(1, max(2, len(path) - 2)))
    path[i], path[i + 1] = path[i + 1], path[i]
    return _walk(path, task, style)


def _off_path(tree: Tree, task: str, style: str, rng: np.random.Generator) -> list[Move]:
    path = list(tree.path)
    elsewhere = sorted(set(tree.nodes) - set(path))
    path[int(rng.integers(1, len(path) - 1))] = int(rng.choice(elsewhere))
    return _walk(path, task, style)


def _early_stop(tree: Tree, task: str, style: str, rng: np.random.Generator) -> list[Move]:
    moves = _walk(tree.path, task, style)
    stage = len(tree.path) - (style != "flat")
    kept = len(moves) - stage + int(rng.integers(1, stage))
    return moves[:kept] + [moves[kept - 1]] * (len(moves) - kept)


def _bad_reversal(tree: Tree, task: str, style: str, rng: np.random.Generator) -> list[Move]:
    right = list(tree.path[::-1])
    inner = slice(1, -1) if len(right) > 3 else slice(None)
    wrong = right
    while wrong == right:
        wrong = list(right)
        wrong[inner] = [int(node) for node in rng.permutation(right[inner])]
    return moves_along(tree.path, wrong, task, style)


CORRUPTIONS: dict[str, Callable[[Tree, str, str, np.random.Generator], list[Move]]] = {
    "swapped": _swapped, "off_path": _off_path, "early_stop": _early_stop,
    "bad_reversal": _bad_reversal,
}
