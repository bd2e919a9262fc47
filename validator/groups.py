"""Problem ids that turn out to be of one problem."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

__all__ = ["joined_ids"]


def joined_ids(ids: Sequence[str], pairs: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """(N,) the ids, where those that pairs connect, in chains too, are that which comes first.

    ``ids`` (N,), repeats allowed; ``pairs`` of ids that belong together.
    """
    parent: dict[str, str] = {}

    def root(node: str) -> str:
        while parent.setdefault(node, node) != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for a, b in pairs:
        parent[root(b)] = root(a)
    first: dict[str, str] = {}
    for i in ids:
        first.setdefault(root(i), i)
    return tuple(first[root(i)] for i in ids)
