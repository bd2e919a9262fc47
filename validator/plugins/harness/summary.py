"""Scores and labels of the documents of one task -> metrics, each with a clustered standard error.

A document's column, as it stands in the logged samples, has one entry for each of its responses::

    {"valid": [1, 0], "answer": ["18", null], "tokens": [41, 3],
     "score": {"validity": [0.81, null], "hfer": [-0.2, -0.4]}, "unscored": {"1": "empty response"}}

A response without a score is ranked below all others and counts in every ranking; calibration is
judged on the scored ones alone. A document that the classifier was trained on has ``"seen": true``,
and the learned score is judged on the others. What is undefined on the data at hand is None.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from validator.errors import LabelError
from validator.metrics import (
    PerProblem,
    Resampler,
    Statistic,
    aurc,
    auroc_statistic,
    best_of_n,
    brier,
    ece,
    length_matched_statistic,
    majority_vote,
    mean_statistic,
    oracle,
    risk_at_coverage,
    row_statistic,
    weighted_vote,
    within_problem_statistic,
)
from validator.training.answers import equivalence_classes

__all__ = [
    "LEARNED", "LOWER_IS_BETTER", "Metric", "chosen", "metric_names", "problem_of", "summarise",
]

LEARNED = "validity"
"""The learned score, P(valid); the others are label-free."""
MATCHED = (LEARNED, "mean_logprob")
"""Scores whose AUROC at equal length is reported beside the pooled one."""
COVERAGES = (50, 80)
LOWER_IS_BETTER = ("ece", "brier", "aurc")
"""What the names of metrics begin with for which less is better."""
N_RESAMPLES = 1000
MAX_UNDEFINED = 0.05
"""Above this share of undefined resamples there is no standard error."""

Column = Mapping[str, Any]


class Metric(NamedTuple):
    """An estimate and its bootstrap standard error over documents; None where undefined."""

    value: float | None
    stderr: float | None


def problem_of(document: Mapping[str, Any]) -> str:
    """A document's identity, whatever its place in a run: a hash of its content."""
    text = json.dumps(document, sort_keys=True, default=str, ensure_ascii=False)
    return f"doc-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def metric_names(scores: Sequence[str], repeats: int) -> tuple[str, ...]:
    """Names of what :func:`summarise` returns, in its order; one response each without repeats."""
    found = [f"auroc_{s}" for s in scores]
    found += [f"auroc_matched_{s}" for s in scores if s in MATCHED]
    if repeats > 1:
        found += [f"auroc_within_{s}" for s in scores]
    if LEARNED in scores:
        found += [f"{m}_{LEARNED}" for m in (
            "ece", "brier", "aurc", *(f"accuracy_at_{c}" for c in COVERAGES))]
        if repeats > 1:
            found += [f"best_of_n_{LEARNED}", f"weighted_vote_{LEARNED}"]
    return tuple(found)


def summarise(columns: Sequence[Column], scores: Sequence[str], repeats: int, *,
              n_resamples: int = N_RESAMPLES, seed: int = 0) -> dict[str, Metric]:
    """Every metric that needs all documents of a task at once.

    Args:
        columns: one of each document.
        scores: names of the scores that are judged.
        repeats: responses of each document.
        n_resamples: resamples of documents behind a standard error.
        seed: of the resamples.
    """
    rows = _Rows(columns, n_resamples, seed)
    fresh = [c for c in columns if not c.get("seen")]
    unseen = rows if len(fresh) == len(columns) else _Rows(fresh, n_resamples, seed)
    return {name: (unseen if name.endswith(f"_{LEARNED}") else rows).metric(name)
            for name in metric_names(scores, repeats)}


def chosen(column: Column, scores: Sequence[str]) -> dict[str, float]:
    """What choosing one of a document's responses is worth: accuracies in [0, 1], ties averaged.

    ``pass_at_1`` the mean over responses, ``majority_vote``, ``weighted_vote_validity`` (by
    P(valid), where there is one), ``oracle``, and ``best_of_n_<score>``.
    """
    y = np.asarray(column["valid"], dtype=np.int64)
    groups = np.zeros(y.size, dtype=np.int64)
    ballots = [None if c is None else str(c) for c in equivalence_classes(column["answer"])]
    found = {"pass_at_1": float(y.mean()),
             "majority_vote": float(majority_vote(y, ballots, groups).values[0])}
    if LEARNED in scores:
        weights = np.nan_to_num(_numbers(column["score"][LEARNED]), nan=0.0)
        found[f"weighted_vote_{LEARNED}"] = float(
            weighted_vote(y, ballots, weights, groups).values[0])
    found["oracle"] = float(oracle(y, groups).values[0])
    for name in scores:
        ranked = _ranked(_numbers(column["score"][name]))
        found[f"best_of_n_{name}"] = float(best_of_n(y, ranked, groups).values[0])
    return found


class _Rows:
    """Responses of all documents, one row each, and the resamples of documents."""

    def __init__(self, columns: Sequence[Column], n_resamples: int, seed: int) -> None:
        self.columns = columns
        self.y = np.array([v for c in columns for v in c["valid"]], dtype=np.int64)
        self.tokens = np.array([n for c in columns for n in c["tokens"]], dtype=np.float64)
        self.documents = np.repeat(np.arange(len(columns)), [len(c["valid"]) for c in columns])
        self.resampler = (
            Resampler(self.documents, n_resamples, seed) if len(columns) > 1 else None)
        self._makers: dict[str, Callable[[str, Resampler], Statistic]] = {
            "auroc_matched": lambda s, r: length_matched_statistic(
                self.y, self.score(s), self.tokens, r),
            "auroc_within": lambda s, r: within_problem_statistic(self.y, self.score(s), r),
            "auroc": lambda s, r: auroc_statistic(self.y, self.score(s), r),
            "ece": lambda s, r: self._of_scored(s, r, ece),
            "brier": lambda s, r: self._of_scored(s, r, brier),
            "aurc": lambda s, r: self._of_rows(r, lambda y, x: aurc(y, x), self.score(s)),
            **{f"accuracy_at_{c}": self._accuracy_at(c / 100) for c in COVERAGES},
            "best_of_n": lambda s, r: self._of_documents(f"best_of_n_{s}", s, r),
            "weighted_vote": lambda s, r: self._of_documents(f"weighted_vote_{s}", s, r),
        }

    def score(self, name: str) -> NDArray[np.float64]:
        return _ranked(self._given(name))

    def metric(self, name: str) -> Metric:
        maker, score = next(
            (m, name.removeprefix(f"{m}_")) for m in self._makers if name.startswith(f"{m}_"))
        if self.resampler is None:
            return Metric(None, None)
        try:
            statistic = self._makers[maker](score, self.resampler)
            ones = np.ones((1, self.resampler.problems.size), dtype=np.int64)
            value = float(statistic(ones)[0])
            draws = statistic(self.resampler.counts)
        except LabelError:
            return Metric(None, None)
        if math.isnan(value):
            return Metric(None, None)
        kept = draws[~np.isnan(draws)]
        known = kept.size >= max(2.0, (1 - MAX_UNDEFINED) * draws.size)
        return Metric(value, float(kept.std(ddof=1)) if known else None)

    def _of_documents(self, what: str, score: str, resampler: Resampler) -> Statistic:
        values = np.array([chosen(c, [score])[what] for c in self.columns])
        return mean_statistic(PerProblem(resampler.problems, values), resampler)

    def _given(self, name: str) -> NDArray[np.float64]:
        return np.concatenate([_numbers(c["score"][name]) for c in self.columns])

    def _accuracy_at(self, coverage: float) -> Callable[[str, Resampler], Statistic]:
        return lambda s, r: self._of_rows(
            r, lambda y, x: 1 - risk_at_coverage(y, x, coverage), self.score(s))

    def _of_rows(self, resampler: Resampler,
                 metric: Callable[[NDArray[np.int64], NDArray[np.float64]], float],
                 scores: NDArray[np.float64]) -> Statistic:
        return row_statistic(lambda rows: metric(self.y[rows], scores[rows]), resampler)

    def _of_scored(self, name: str, resampler: Resampler,
                   metric: Callable[[NDArray[np.int64], NDArray[np.float64]], float]) -> Statistic:
        given = self._given(name)

        def value(rows: NDArray[np.int64]) -> float:
            rows = rows[~np.isnan(given[rows])]
            if not rows.size:
                raise LabelError("no response among these has a score")
            return metric(self.y[rows], given[rows])

        return row_statistic(value, resampler)


def _numbers(values: Sequence[float | None]) -> NDArray[np.float64]:
    return np.array([math.nan if v is None else v for v in values], dtype=np.float64)


def _ranked(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scores with those that are missing below all others."""
    return np.where(np.isnan(scores), -np.inf, scores)
