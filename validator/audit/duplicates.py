"""Questions that are all but the same under different problem ids: grouped folds do not part them.

A split by problem id keeps copies of one question together only if they share an id.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import CountVectorizer

from validator.audit.sample import question_texts
from validator.errors import ParameterError
from validator.groups import joined_ids
from validator.types import Trace

__all__ = ["DuplicatePair", "merge_near_duplicates", "near_duplicates"]

THRESHOLD = 0.8
"""Jaccard similarity above which two questions are near duplicates."""

SHINGLE = 5  # characters

_BLOCK = 256  # questions compared with all others at once


@dataclass(frozen=True, slots=True)
class DuplicatePair:
    """Two problem ids whose questions are nearly the same."""

    first: str
    second: str
    similarity: float
    """Jaccard similarity of the sets of 5-grams, in (threshold, 1]."""
    text: str
    """The first one's question."""
    other: str
    """The second one's question."""


def near_duplicates(traces: Sequence[Trace], threshold: float = THRESHOLD
                    ) -> tuple[DuplicatePair, ...]:
    """Pairs of problem ids whose questions share more than ``threshold`` of their 5-grams.

    Jaccard similarity |A and B| / |A or B| (Broder 1997) of the sets of 5-grams of characters,
    small letters, white space collapsed, counted exactly for all pairs. The question is the prompt
    less what all prompts share. A problem with several wordings counts by its most similar one.
    Most similar first. Cost: all pairs of different questions, about a second per thousand squared.
    """
    if not 0 < threshold < 1:
        raise ParameterError(f"threshold must lie in (0, 1), got {threshold}")
    wordings = dict.fromkeys(
        (t.problem_id, " ".join(q.lower().split()))
        for t, q in zip(traces, question_texts(traces), strict=True))
    known = [(problem, text) for problem, text in wordings if text]
    if not known:
        return ()
    best: dict[tuple[str, str], DuplicatePair] = {}
    for i, j, similarity in _similar([text for _, text in known], threshold):
        (a, text), (b, other) = known[i], known[j]
        if a != b and ((a, b) not in best or similarity > best[a, b].similarity):
            best[a, b] = DuplicatePair(a, b, similarity, text, other)
    return tuple(sorted(best.values(), key=lambda pair: -pair.similarity))


def merge_near_duplicates(traces: Sequence[Trace], threshold: float = THRESHOLD
                          ) -> tuple[str, ...]:
    """(N,) problem ids in which near duplicates share one: that of the group first in ``traces``.

    Chains merge: if A is like B and B like C, all three become one problem.
    """
    pairs = [(p.first, p.second) for p in near_duplicates(traces, threshold)]
    return joined_ids([t.problem_id for t in traces], pairs)


def _similar(texts: Sequence[str], threshold: float) -> list[tuple[int, int, float]]:
    """(i, j, similarity) of all pairs i < j above ``threshold``."""
    sets: Any = CountVectorizer(analyzer=_shingles, binary=True, dtype=np.int32).fit_transform(
        texts)
    sizes: NDArray[np.int64] = np.diff(sets.indptr).astype(np.int64)
    found: list[tuple[int, int, float]] = []
    for start in range(0, len(texts), _BLOCK):
        shared = (sets[start:start + _BLOCK] @ sets.T).tocoo()
        i, j = shared.row + start, shared.col
        similarity = shared.data / (sizes[i] + sizes[j] - shared.data)
        keep = (i < j) & (similarity > threshold)
        found += zip(i[keep].tolist(), j[keep].tolist(), similarity[keep].tolist(), strict=True)
    return found


def _shingles(text: str) -> list[str]:
    """The 5-grams of a text; a shorter text is its own only one."""
    return [text[k:k + SHINGLE] for k in range(max(1, len(text) - SHINGLE + 1))]
