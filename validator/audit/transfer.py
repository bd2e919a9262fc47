"""Does a score hold for authors it was not trained on?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from validator.errors import LabelError
from validator.splits import problem_folds

__all__ = ["source_groups", "transfer_scores", "transfer_splits"]

Rows = NDArray[np.int64]
Array = NDArray[np.float64]

MOST_GROUPS = 10


def source_groups(sources: Sequence[Any] | NDArray[Any], most: int = MOST_GROUPS
                  ) -> NDArray[np.int64]:
    """(N,) group of each source; one each, or ``most`` groups of like size if there are more.

    The sources are dealt out by falling number of traces.
    """
    _, index = np.unique(np.asarray(sources), return_inverse=True)
    counts = np.bincount(index)
    place = np.empty(len(counts), dtype=np.int64)
    place[np.argsort(-counts, kind="stable")] = np.arange(len(counts)) % most
    return place[index]


def transfer_splits(problems: Sequence[Any] | NDArray[Any], labels: NDArray[np.int64],
                    groups: NDArray[np.int64], n_splits: int = 5, seed: int = 0
                    ) -> list[tuple[Rows, Rows]]:
    """Pairs of rows (train, test) that share neither a problem nor a group of sources.

    Every fold of :func:`validator.splits.problem_folds`, once for each group: trained on the
    training problems' traces by the other groups, tested on the test problems' traces by this one.
    Each row is tested exactly once. Raises LabelError where a training side has one class only.
    """
    splits = []
    for train, test in problem_folds(problems, labels, n_splits, seed):
        for group in np.unique(groups[test]):
            others = train[groups[train] != group]
            if np.unique(labels[others]).size < 2:
                raise LabelError("without one group of sources the training traces are of one "
                                 "class; a score cannot be carried over to that source")
            splits.append((others, test[groups[test] == group]))
    return splits


def transfer_scores(splits: Sequence[tuple[Rows, Rows]], fit_score: Callable[[Rows, Rows], Array],
                    n: int, progress: Callable[[], None] = lambda: None) -> Array:
    """(n,) scores of each row by a model that saw neither its problem nor its source.

    ``fit_score(train, test)`` returns the scores of the test rows. Scores of different sources
    come from different models: compare them inside a source only.
    """
    scores = np.full(n, np.nan)
    for train, test in splits:
        scores[test] = fit_score(train, test)
        progress()
    return scores
