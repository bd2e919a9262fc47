"""What choosing one of N sampled answers by a score is worth, beside the ways that need no score.

Each function returns the expected accuracy on every problem, so that an interval over problems and
paired differences follow from :func:`validator.metrics.mean_statistic`.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from validator.errors import LabelError, ScoreError
from validator.metrics.inputs import as_groups, as_labels, as_scores

__all__ = [
    "PerProblem",
    "best_of_n",
    "first_answer",
    "majority_vote",
    "oracle",
    "weighted_vote",
]

Groups = Sequence[Any] | NDArray[Any]


class PerProblem(NamedTuple):
    """One number for each problem."""

    problems: NDArray[Any]
    """(P,) sorted problem ids."""
    values: NDArray[np.float64]
    """(P,) expected accuracy, in [0, 1]."""


def best_of_n(labels: ArrayLike, scores: ArrayLike, groups: Groups) -> PerProblem:
    """Accuracy of the highest-scored answer of each problem; tied answers are averaged.

    ``labels``, ``scores``, ``groups`` (N,). Raises ScoreError for a NaN score.
    """
    y = as_labels(labels)
    s = as_scores(scores, y.size)
    problems, index = as_groups(groups, y.size)
    best = np.full(problems.size, -np.inf)
    np.maximum.at(best, index, s)
    chosen = (s == best[index]).astype(np.float64)
    return PerProblem(problems, np.bincount(index, chosen * y) / np.bincount(index, chosen))


def first_answer(labels: ArrayLike, groups: Groups) -> PerProblem:
    """Accuracy of the first row of each problem, i.e. of no selection."""
    y = as_labels(labels)
    problems, index = as_groups(groups, y.size)
    first = np.unique(index, return_index=True)[1]
    return PerProblem(problems, y[first].astype(np.float64))


def oracle(labels: ArrayLike, groups: Groups) -> PerProblem:
    """1 where any answer of the problem is valid: the ceiling of every selection."""
    y = as_labels(labels)
    problems, index = as_groups(groups, y.size)
    return PerProblem(problems, (np.bincount(index, y) > 0).astype(np.float64))


def majority_vote(labels: ArrayLike, answers: Sequence[str | None], groups: Groups) -> PerProblem:
    """Accuracy of the most frequent parsed answer (self-consistency, Wang et al. 2023).

    ``answers`` (N,) as parsed; None does not vote. Tied answers are averaged; an answer's accuracy
    is the share of valid rows among those that gave it; a problem where nothing parsed scores 0.
    """
    y = as_labels(labels)
    return weighted_vote(y, answers, np.ones(y.size), groups)


def weighted_vote(labels: ArrayLike, answers: Sequence[str | None], scores: ArrayLike,
                  groups: Groups) -> PerProblem:
    """Accuracy of the answer with the largest sum of scores; rules as :func:`majority_vote`.

    ``scores`` (N,) finite and not negative, e.g. P(valid): a sum of log-probabilities would favour
    rare answers. Raises ScoreError otherwise.
    """
    y = as_labels(labels)
    s = as_scores(scores, y.size)
    if s.min() < 0 or np.isinf(s).any():
        raise ScoreError(f"votes must be finite and not negative, got [{s.min():g}, {s.max():g}]; "
                         "vote with P(valid)")
    if len(answers) != y.size:
        raise LabelError(f"expected {y.size} answers, one for each label, got {len(answers)}")
    problems, index = as_groups(groups, y.size)
    ballots: list[dict[str, list[int]]] = [defaultdict(list) for _ in problems]
    for row, (g, answer) in enumerate(zip(index, answers, strict=True)):
        if answer is not None:
            ballots[g][answer].append(row)
    return PerProblem(problems, np.array([_elected(ballot, y, s) for ballot in ballots]))


def _elected(ballot: dict[str, list[int]], y: NDArray[np.int64], s: NDArray[np.float64]) -> float:
    if not ballot:
        return 0.0
    # fsum rounds once, so equal votes tie whatever the order of the rows
    votes = {answer: math.fsum(s[rows]) for answer, rows in ballot.items()}
    top = max(votes.values())
    winners = [float(y[rows].mean()) for answer, rows in ballot.items() if votes[answer] == top]
    return math.fsum(winners) / len(winners)
