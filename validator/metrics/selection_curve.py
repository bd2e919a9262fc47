"""What choosing one of N answers is worth for every N up to the M that were sampled.

Each function returns the expected accuracy on every problem if N of its M answers are drawn without
replacement and the rule chooses among these: the unbiased estimate that pass@k is (Chen et al.
2021, eq. 1), for other rules. Best of N and oracle are exact; votes are averages over random
orders, which are the same for every rule.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from validator.errors import LabelError, ParameterError, ScoreError
from validator.metrics.inputs import as_groups, as_labels, as_scores

__all__ = ["SelectionCurves"]

Curve = NDArray[np.float64]
"""(P, S) expected accuracy of each problem at each size."""

TIE = 1e-9
"""Sums of votes closer than this are equal: they were summed in another order."""

_Voters = Callable[[NDArray[np.int64], int], NDArray[np.int64]]
"""Orders (T, M) and a size -> the rows (T, n) that vote."""


@dataclass(frozen=True)
class _Problem:
    rows: NDArray[np.int64]
    """(M,) the problem's rows, in order."""
    orders: NDArray[np.int64]
    """(T, M) permutations of 0..M-1."""


class SelectionCurves:
    """Expected accuracy on P problems by rule and number of answers.

    Args:
        labels: (N,) 1 valid, 0 invalid.
        groups: (N,) problem ids.
        sizes: ascending numbers of answers; a problem that has fewer answers than a size counts
            with all it has.
        n_orders: random orders of a problem's answers, for votes.
        seed: of the orders.

    Attributes:
        problems: (P,) sorted problem ids.
        sizes: (S,).
    """

    def __init__(self, labels: ArrayLike, groups: Sequence[Any] | NDArray[Any],
                 sizes: Sequence[int], n_orders: int = 64, seed: int = 0) -> None:
        if not sizes or list(sizes) != sorted(set(sizes)) or sizes[0] < 1:
            raise ParameterError(f"sizes must ascend from 1 or more, got {list(sizes)}")
        if n_orders < 1:
            raise ParameterError(f"n_orders must be at least 1, got {n_orders}")
        self.labels = as_labels(labels)
        self.problems, index = as_groups(groups, self.labels.size)
        self.sizes = tuple(int(n) for n in sizes)
        rng = np.random.default_rng(seed)
        order = np.argsort(index, kind="stable")
        self._parts = [
            _Problem(rows, rng.permuted(np.tile(np.arange(rows.size), (n_orders, 1)), axis=1))
            for rows in np.split(order, np.cumsum(np.bincount(index))[:-1])
        ]

    def first(self) -> Curve:
        """The first answer that was given, whatever the number."""
        return self._constant(lambda y: float(y[0]))

    def random(self) -> Curve:
        """An answer drawn at random: the share valid, whatever the number."""
        return self._constant(lambda y: float(y.mean()))

    def oracle(self) -> Curve:
        """1 - C(M - v, N) / C(M, N) with v valid answers: pass@N."""
        return np.array([
            [1 - _none(y.size, int(y.sum()), n) for n in self._sizes(y)]
            for y in self._labels()])

    def best(self, scores: ArrayLike) -> Curve:
        """The highest-scored answer; tied ones are averaged. ``scores`` (N,), -inf allowed.

        Raises ScoreError for NaN.
        """
        s = as_scores(scores, self.labels.size)
        return np.array([_best(self.labels[p.rows], s[p.rows], self._sizes(p.rows))
                         for p in self._parts])

    def vote(self, answers: Sequence[str | None], weights: ArrayLike | None = None) -> Curve:
        """The answer with most votes, or the largest sum of ``weights`` (N,), >= 0.

        Rules as :func:`validator.metrics.majority_vote`: None does not vote, tied answers are
        averaged, an answer's accuracy is the share of valid rows among those that gave it, and
        0 where nothing was parsed.
        """
        w = np.ones(self.labels.size) if weights is None else as_scores(weights, self.labels.size)
        if w.min() < 0 or np.isinf(w).any():
            raise ScoreError(f"votes must be finite and not negative, got [{w.min():g}, "
                             f"{w.max():g}]; vote with P(valid)")
        return np.array([self._voted(p, kinds, w[p.rows], lambda orders, n: orders[:, :n])
                         for p, kinds in self._classes(answers)])

    def filtered_vote(self, answers: Sequence[str | None], scores: ArrayLike,
                      keep: float = 0.5) -> Curve:
        """Majority vote among the best-scored ``keep`` of the N answers, rounded up.

        ``scores`` (N,); rules as :meth:`vote`.
        """
        if not 0 < keep <= 1:
            raise ParameterError(f"keep must be in (0, 1], got {keep}")
        s = as_scores(scores, self.labels.size)

        def kept(own: NDArray[np.float64]) -> _Voters:
            def voters(orders: NDArray[np.int64], n: int) -> NDArray[np.int64]:
                # 0.3 of 10 is 3, although 0.3 * 10 in floating point is more
                count = int(np.ceil(keep * n - 1e-9))
                drawn = orders[:, :n]
                best = np.argsort(-own[drawn], axis=1, kind="stable")[:, :count]
                return np.take_along_axis(drawn, best, axis=1)

            return voters

        return np.array([self._voted(p, kinds, np.ones(p.rows.size), kept(s[p.rows]))
                         for p, kinds in self._classes(answers)])

    def _voted(self, problem: _Problem, kinds: NDArray[np.int64], weights: NDArray[np.float64],
               voters: _Voters) -> list[float]:
        y, found = self.labels[problem.rows], []
        for n in self._sizes(y):
            orders = problem.orders if n < y.size else np.arange(y.size)[None]
            found.append(float(_elected(voters(orders, n), kinds, weights, y).mean()))
        return found

    def _labels(self) -> Iterator[NDArray[np.int64]]:
        return (self.labels[p.rows] for p in self._parts)

    def _sizes(self, own: NDArray[Any]) -> list[int]:
        return [min(n, own.size) for n in self.sizes]

    def _constant(self, value: Callable[[NDArray[np.int64]], float]) -> Curve:
        return np.array([[value(y)] * len(self.sizes) for y in self._labels()])

    def _classes(
        self, answers: Sequence[str | None]
    ) -> Iterator[tuple[_Problem, NDArray[np.int64]]]:
        if len(answers) != self.labels.size:
            raise LabelError(f"expected {self.labels.size} answers, one for each label, got "
                             f"{len(answers)}")
        for problem in self._parts:
            names: dict[str, int] = {}
            kinds = [-1 if a is None else names.setdefault(a, len(names))
                     for a in (answers[i] for i in problem.rows.tolist())]
            yield problem, np.array(kinds, dtype=np.int64)


def _best(y: NDArray[np.int64], s: NDArray[np.float64], sizes: Sequence[int]) -> list[float]:
    """Sum over groups of equal scores of P(the best of N is one of them) * their share valid."""
    values, kind = np.unique(-s, return_inverse=True)
    counts = np.bincount(kind, minlength=values.size)
    shares = np.bincount(kind, y, minlength=values.size) / counts
    above = np.concatenate([[0], np.cumsum(counts)])
    return [
        float(sum(
            (_none(y.size, int(a), n) - _none(y.size, int(b), n)) * share
            for a, b, share in zip(above, above[1:], shares, strict=False)))
        for n in sizes
    ]


def _none(total: int, marked: int, n: int) -> float:
    """C(total - marked, n) / C(total, n): the chance that none of ``marked`` is among n drawn."""
    if total - marked < n:
        return 0.0
    i = np.arange(n)
    return float(np.prod((total - marked - i) / (total - i)))


def _elected(rows: NDArray[np.int64], kinds: NDArray[np.int64], weights: NDArray[np.float64],
             y: NDArray[np.int64]) -> NDArray[np.float64]:
    """(T,) accuracy of the elected answer of each set of voters ``rows`` (T, n)."""
    one_hot = (kinds[:, None] == np.arange(max(1, kinds.max() + 1))).astype(np.float64)
    votes = (one_hot * weights[:, None])[rows].sum(1)
    counts, valid = one_hot[rows].sum(1), (one_hot * y[:, None])[rows].sum(1)
    wins = (votes >= votes.max(1, keepdims=True) - TIE) & (counts > 0)
    accuracy = np.divide(valid, counts, out=np.zeros_like(valid), where=counts > 0)
    return np.asarray((accuracy * wins).sum(1) / np.maximum(wins.sum(1), 1), dtype=np.float64)
