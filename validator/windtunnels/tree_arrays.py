"""Many random trees at once, as arrays: training asks for thousands a second.

A tree is a path from the root to the goal with further nodes hung on it and on each other. Dummy
edges lie above the root and beside it: the first ends in the root, so that a walk towards the root
has to know where to stop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from validator.windtunnels.contract import TokenBatch

__all__ = ["Piece", "TreeArrays", "mix64", "pack", "sample_trees", "tree_keys"]

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class TreeArrays:
    """N trees; what a tree has fewer of than the largest is -1."""

    edges: Ints
    """(N, E, 2) parent and child of each edge, in the order in which they are listed."""
    path: Ints
    """(N, D + 1) nodes from the goal to the root."""
    depth: Ints
    """(N,) edges of the path."""


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """Consecutive columns of token ids, of which a row may have only some."""

    ids: Ints
    """(N, W) token ids."""
    present: NDArray[np.bool_]
    """(N, W) which of them the row has."""
    supervised: bool = False
    """Whether a model is to predict them."""


def sample_trees(
    rng: np.random.Generator, count: int, *, nodes: tuple[int, int], depth: tuple[int, int],
    branching: int, dummies: tuple[int, int], labels: int,
) -> TreeArrays:
    """Draw trees; sizes, depths of the goal and numbers of dummy edges are uniform.

    Args:
        rng: its state decides the trees.
        count: N.
        nodes: fewest and most nodes, dummies not counted.
        depth: least and greatest depth of the goal, which is at most the nodes - 2, so that one
            node is off the path; no node is deeper than the greatest.
        branching: most children of a node, dummies not counted.
        dummies: fewest and most dummy edges.
        labels: nodes are named by distinct numbers below this, at random.
    """
    size = rng.integers(nodes[0], nodes[1] + 1, count)
    goal = rng.integers(depth[0], np.minimum(depth[1], size - 2) + 1)
    extra = rng.integers(dummies[0], dummies[1] + 1, count)
    parent = np.concatenate([
        _parents(rng, size, goal, nodes[1], depth[1], branching),
        _dummy_parents(rng, count, nodes[1], dummies[1])], axis=1)
    child = np.tile(np.arange(nodes[1] + dummies[1]), (count, 1))
    if dummies[1]:
        child[:, nodes[1]], parent[:, nodes[1]] = 0, nodes[1]
    present = np.concatenate([
        (child[:, :nodes[1]] > 0) & (child[:, :nodes[1]] < size[:, None]),
        np.arange(dummies[1]) < extra[:, None]], axis=1)
    names = np.argsort(rng.random((count, labels)), axis=1)
    edges = np.stack([np.take_along_axis(names, parent, 1), np.take_along_axis(names, child, 1)], 2)
    back = goal[:, None] - np.arange(int(depth[1]) + 1)
    path = np.where(back >= 0, np.take_along_axis(names, np.maximum(back, 0), 1), -1)
    return TreeArrays(_shuffled(rng, edges, present), path, goal)


def _parents(
    rng: np.random.Generator, size: Ints, goal: Ints, most: int, deepest: int, branching: int,
) -> Ints:
    """(N, most) parent of each node: 0..goal are the path, the others hang where there is room."""
    count = len(size)
    parent = np.zeros((count, most), dtype=np.int64)
    depth, children = np.zeros_like(parent), np.zeros_like(parent)
    rows = np.arange(count)
    for i in range(1, most):
        room = (children[:, :i] < branching) & (depth[:, :i] < deepest)
        drawn = np.where(room, rng.random((count, i)), -1.0).argmax(1)
        parent[:, i] = np.where(i <= goal, i - 1, drawn)
        depth[:, i] = depth[rows, parent[:, i]] + 1
        # The path is laid before anything hangs on it, so every node below i is final.
        children[rows, parent[:, i]] += i < size
    return parent


def _dummy_parents(rng: np.random.Generator, count: int, first: int, most: int) -> Ints:
    """(N, most) parent of each dummy node: an earlier dummy node."""
    below = (rng.random((count, most)) * np.arange(most)).astype(np.int64)
    return first + below


def _shuffled(rng: np.random.Generator, edges: Ints, present: NDArray[np.bool_]) -> Ints:
    """The present edges of each row in random order, then -1; no wider than needed."""
    order = np.argsort(np.where(present, rng.random(present.shape), 2.0), axis=1)
    shuffled = np.take_along_axis(edges, order[:, :, None], 1)
    counts = present.sum(1)
    absent = np.arange(present.shape[1]) >= counts[:, None]
    shuffled[absent] = -1
    return shuffled[:, : int(counts.max())]


def tree_keys(edges: Ints, root: Ints, goal: Ints) -> NDArray[np.uint64]:
    """(N,) a 64-bit key of each set of named edges with its root and goal, in whatever order.

    The sum modulo 2^64 of the edges' numbers, mixed by the finaliser of SplitMix64 (Steele et al.
    2014): chance alone gives two trees the same key.

    Args:
        edges: (N, E, 2), -1 where there is none.
        root: (N,).
        goal: (N,).
    """
    present = edges[..., 0] >= 0
    mixed = mix64(edges[..., 0] * 256 + edges[..., 1] + 1)
    total = np.where(present, mixed, np.uint64(0)).sum(1, dtype=np.uint64)
    ends: NDArray[np.uint64] = mix64(65536 + root) + mix64(131072 + goal)
    return np.asarray(total + ends, dtype=np.uint64)


def mix64(numbers: Ints) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64: one to one, and no bit of it tells of a neighbour's."""
    z = numbers.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(z ^ (z >> np.uint64(31)), dtype=np.uint64)


def pack(pieces: Sequence[Piece], problem_ids: Sequence[str], *, pad: int = 0) -> TokenBatch:
    """Rows of the present ids in order, padded on the right."""
    ids = np.concatenate([piece.ids for piece in pieces], 1)
    present = np.concatenate([piece.present for piece in pieces], 1)
    wanted = np.concatenate([np.full(p.ids.shape[1], p.supervised) for p in pieces])
    row, column = np.nonzero(present)
    place = (np.cumsum(present, 1) - 1)[row, column]
    shape = (len(ids), int(present.sum(1).max()))
    packed, labels = np.full(shape, pad), np.full(shape, -100)
    packed[row, place] = ids[row, column]
    labels[row, place] = np.where(wanted[column], ids[row, column], -100)
    return TokenBatch(packed, labels, tuple(problem_ids))
