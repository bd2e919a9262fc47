"""The steps of a feature matrix, sorted into their traces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from validator.errors import FeatureMismatchError, LabelError
from validator.metrics.localization import UNKNOWN, first_error
from validator.types import FeatureMatrix, Trace

__all__ = ["UNLABELLED", "StepTable"]

UNLABELLED = -1
"""In place of a step's label that is None."""


@dataclass(frozen=True, eq=False)
class StepTable:
    """N steps of M traces."""

    features: FeatureMatrix
    """One row per step."""
    labels: NDArray[np.int64]
    """(N,) 1 valid, 0 invalid, :data:`UNLABELLED`."""
    problem_ids: NDArray[np.str_]
    """(N,)"""
    trace: NDArray[np.int64]
    """(N,) index of the step's trace."""
    step: NDArray[np.int64]
    """(N,) index of the step in its trace, from 0."""
    trace_ids: tuple[str, ...]
    """(M,) in the order in which they first come up."""
    rows: tuple[NDArray[np.int64], ...]
    """(M,) the rows of each trace, by step."""
    first_errors: NDArray[np.int64]
    """(M,) as :func:`first_error`; UNKNOWN too where a step of the trace has no row."""

    @classmethod
    def of(cls, features: FeatureMatrix) -> StepTable:
        """The table of a matrix whose rows are steps.

        Raises:
            FeatureMismatchError: no rows, a row that is no step, or a step that has two rows.
        """
        if not features.traces:
            raise FeatureMismatchError("the feature file has no rows; extract traces with steps")
        where = [_place(t) for t in features.traces]
        ids = tuple(dict.fromkeys(trace for trace, _ in where))
        index = {name: m for m, name in enumerate(ids)}
        trace = np.array([index[name] for name, _ in where], dtype=np.int64)
        step = np.array([k for _, k in where], dtype=np.int64)
        labels = np.array([UNLABELLED if t.label is None else t.label for t in features.traces],
                          dtype=np.int64)
        order = np.lexsort((step, trace))
        twice = np.flatnonzero((np.diff(trace[order]) == 0) & (np.diff(step[order]) == 0))
        if twice.size:
            raise FeatureMismatchError(
                f"step {features.traces[order[twice[0]]].id!r} has two rows; give each once")
        rows = tuple(np.split(order, np.flatnonzero(np.diff(trace[order])) + 1))
        errors = np.array([_first_error(labels[r], step[r]) for r in rows], dtype=np.int64)
        return cls(features, labels, features.problem_ids, trace, step, ids, rows, errors)

    @property
    def labelled(self) -> NDArray[np.int64]:
        """The rows with a label. Raises LabelError if there is none."""
        rows = np.flatnonzero(self.labels != UNLABELLED)
        if not rows.size:
            raise LabelError(f"none of {self.labels.size} steps is labelled, so nothing can be "
                             "fitted or judged; extract traces with `step_labels`")
        return rows

    def rows_of_problems(self, problem_ids: NDArray[np.str_]) -> NDArray[np.int64]:
        """The rows of these problems, labelled or not."""
        return np.flatnonzero(np.isin(self.problem_ids, problem_ids))

    @property
    def judged(self) -> NDArray[np.int64]:
        """The traces whose first error is known, or known not to be there."""
        return np.flatnonzero(self.first_errors != UNKNOWN)

    @property
    def sizes(self) -> NDArray[np.int64]:
        """(M,) steps of each trace."""
        return np.array([self.step[r[-1]] + 1 for r in self.rows], dtype=np.int64)

    @property
    def trace_lengths(self) -> NDArray[np.int64]:
        """(M,) tokens from the start of a trace's first step to the end of its last."""
        ends = self.features.lengths.sum(axis=1)
        return np.array([ends[r[-1]] - self.features.lengths[r[0], 0] for r in self.rows],
                        dtype=np.int64)

    def positions(self) -> NDArray[np.float64]:
        """(N, 3) the step's index, its share of the way through the trace, the trace's steps.

        The share is 0 for the first step, 1 for the last, and 0 for an only one.
        """
        size = self.sizes[self.trace]
        return np.column_stack([self.step, self.step / np.maximum(size - 1, 1), size])


def _place(trace: Trace) -> tuple[str, int]:
    name, step = trace.meta.get("trace"), trace.meta.get("step")
    if not isinstance(name, str) or type(step) is not int or step < 0:
        raise FeatureMismatchError(
            f"row {trace.id!r} is not a step of a trace; extract the traces with `validator "
            "extract --steps` (SpectralFeatureExtractor.transform_steps)")
    return name, step


def _first_error(labels: NDArray[np.int64], steps: NDArray[np.int64]) -> int:
    if not np.array_equal(steps, np.arange(steps.size)):
        return UNKNOWN
    known: Sequence[int | None] = [None if y == UNLABELLED else int(y) for y in labels]
    return first_error(known)
