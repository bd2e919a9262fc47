"""Trees and their solutions as token ids, without writing text in between."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from validator.errors import ParameterError
from validator.windtunnels.contract import TokenBatch
from validator.windtunnels.tree_arrays import Piece, TreeArrays, pack, tree_keys
from validator.windtunnels.tree_text import MARKS

__all__ = ["tree_batch"]

Ints = NDArray[np.int64]
FIRST, END = 3, 2
"""Ids of the first symbol and of the end in the symbol tokenizer."""


def tree_batch(arrays: TreeArrays, style: str, task: str, labels: int) -> TokenBatch:
    """What the symbol tokenizer makes of each rendered problem and its end.

    Args:
        arrays: N trees.
        style: ``edges`` or ``flat``.
        task: which walk is the solution.
        labels: L, how many names nodes have.
    """
    if style not in ("edges", "flat"):
        raise ParameterError(f"a model of symbols reads the styles edges and flat, not {style!r}")
    rows = np.arange(len(arrays.depth))
    root, goal = arrays.path[rows, arrays.depth], arrays.path[:, 0]
    problem = (_edge_problem if style == "edges" else _flat_problem)(arrays, root, goal, labels)
    solution = (_edge_solution if style == "edges" else _flat_solution)(arrays, task, labels)
    end = _always(np.full((len(rows), 1), END), True)
    keys = tree_keys(arrays.edges, root, goal)
    return pack([*problem, *solution, end], [f"tree-{key:016x}" for key in keys])


def _always(ids: Ints, supervised: bool = False) -> Piece:
    return Piece(ids, np.ones(ids.shape, dtype=bool), supervised)


def _pair(a: Ints, b: Ints, labels: int) -> Ints:
    """Place of a>b among all ordered pairs of two different nodes."""
    return np.asarray(a * (labels - 1) + b - (b > a), dtype=np.int64)


def _edge_problem(arrays: TreeArrays, root: Ints, goal: Ints, labels: int) -> list[Piece]:
    parent, child = arrays.edges[..., 0], arrays.edges[..., 1]
    marks = FIRST + 2 * labels * (labels - 1)
    return [Piece(FIRST + _pair(parent, child, labels), parent >= 0),
            _always(np.stack([marks + root, marks + labels + goal], 1))]


def _edge_solution(arrays: TreeArrays, task: str, labels: int) -> list[Piece]:
    child, parent = arrays.path[:, :-1], arrays.path[:, 1:]
    present = parent >= 0
    up = FIRST + labels * (labels - 1) + _pair(child, parent, labels)
    down = FIRST + _pair(parent, child, labels)
    pieces = [] if task == "direct" else [Piece(up, present, True)]
    return pieces if task == "backward" else [
        *pieces, Piece(down[:, ::-1], present[:, ::-1], True)]


def _flat_problem(arrays: TreeArrays, root: Ints, goal: Ints, labels: int) -> list[Piece]:
    nodes = FIRST + len(MARKS)
    mark = {symbol: FIRST + i for i, symbol in enumerate(MARKS)}
    count, most = arrays.edges.shape[:2]
    present = np.repeat(arrays.edges[..., 0] >= 0, 3, axis=1)
    semicolons = np.full((count, most, 1), mark[";"] - nodes)
    listed = nodes + np.concatenate([arrays.edges, semicolons], 2).reshape(count, 3 * most)
    ends = [np.full(count, mark["root"]), nodes + root, np.full(count, mark["goal"]), nodes + goal,
            np.full(count, mark[":"])]
    return [Piece(listed, present), _always(np.stack(ends, 1))]


def _flat_solution(arrays: TreeArrays, task: str, labels: int) -> list[Piece]:
    del labels
    nodes = FIRST + len(MARKS)
    present = arrays.path >= 0
    back = Piece(nodes + arrays.path, present, True)
    forth = Piece(nodes + arrays.path[:, ::-1], present[:, ::-1], True)
    if task == "forward":
        turn = FIRST + MARKS.index("|")
        return [back, _always(np.full((len(present), 1), turn), True), forth]
    return [back] if task == "backward" else [forth]
