"""Ranks of scores: what makes scores on different scales, or of different problems, comparable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from validator.errors import ParameterError, ScoreError
from validator.metrics.inputs import as_groups, as_scores
from validator.types import FeatureMatrix

__all__ = ["RankEnsemble", "Scorer", "mean_rank", "within_problem_rank"]

Array = NDArray[np.float64]


class Scorer(Protocol):
    """Whatever turns N traces into N scores, higher meaning more valid."""

    def score(self, features: FeatureMatrix) -> Array:
        """(N,) scores, NaN where undefined."""
        ...


def within_problem_rank(scores: ArrayLike, problem_ids: Sequence[Any] | NDArray[Any]) -> Array:
    """(N,) mid-rank of each score among those of its problem, in [0, 1]; 0 lowest, 0.5 alone.

    (samples of the problem below + half of the others tied with it) / (its samples - 1). How hard
    the problem is drops out: every problem's ranks have the mean 0.5.
    ``scores``, ``problem_ids`` (N,). Raises ScoreError for a NaN or an empty array.
    """
    given = np.asarray(scores, dtype=np.float64)
    if given.ndim != 1 or given.size == 0:
        raise ScoreError(f"expected scores of shape (N,) with N > 0, got shape {given.shape}")
    s = as_scores(given, given.size)
    group = as_groups(problem_ids, s.size)[1]
    order = np.lexsort((s, group))
    g, v = group[order], s[order]
    size = np.bincount(group)
    tie = np.cumsum(np.r_[False, (g[1:] != g[:-1]) | (v[1:] != v[:-1])])
    last = np.cumsum(np.bincount(tie)) - 1
    middle = (last - (np.bincount(tie) - 1) / 2)[tie] - (np.cumsum(size) - size)[g]
    ranks = np.empty(s.size)
    ranks[order] = np.where(size[g] > 1, middle / np.maximum(size[g] - 1, 1), 0.5)
    return ranks


def mean_rank(scores: Sequence[Array], problem_ids: NDArray[Any] | None = None) -> Array:
    """(N,) mean over scores of their ranks in [0, 1], pooled or within problems.

    A NaN takes no part in the ranking and counts as 0.5, no evidence; NaN comes out only for a
    trace that no score is defined for.
    """
    ranks = np.full((len(scores), len(scores[0])), 0.5)
    for row, s in zip(ranks, scores, strict=True):
        here = np.flatnonzero(~np.isnan(s))
        if here.size:
            groups = np.zeros(len(s)) if problem_ids is None else problem_ids
            row[here] = within_problem_rank(s[here], groups[here])
    undefined = np.isnan(scores).all(axis=0)
    return np.asarray(np.where(undefined, np.nan, ranks.mean(axis=0)))


class RankEnsemble:
    """The mean rank of several scores: no label, no weight, no scale.

    A rank is among the traces scored together, so a trace's score depends on the others; one that
    is scored alone gets 0.5.

    Args:
        scorers: what is averaged, as a sequence or by name.
        within_problem: rank among the samples of the same problem, for choosing one of them,
            instead of among all.
    """

    def __init__(self, scorers: Mapping[str, Scorer] | Sequence[Scorer], *,
                 within_problem: bool = False) -> None:
        self.scorers = scorers
        self.within_problem = within_problem

    def score(self, features: FeatureMatrix) -> Array:
        """(N,) in [0, 1], as :func:`mean_rank`; NaN where every score is undefined.

        Raises ParameterError without scorers, and what the scorers raise.
        """
        given = self.scorers
        members = list(given.values()) if isinstance(given, Mapping) else list(given)
        if not members:
            raise ParameterError("an ensemble needs at least one scorer, got none")
        return mean_rank([m.score(features) for m in members],
                         features.problem_ids if self.within_problem else None)
