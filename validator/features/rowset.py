"""The rows of a feature matrix as they are found in a store or computed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from validator.columns import Column
from validator.errors import FeatureMismatchError, TraceError
from validator.features.plan import View
from validator.features.reading import TraceFeatures
from validator.features.store import FeatureStore, StoredRow, row_key
from validator.types import FeatureMatrix, Provenance, Trace

__all__ = ["RowSet", "row_trace", "view_key"]

SHARD_ROWS = 64
"""Rows of a shard: what a killed extraction loses at most, besides its last batch."""
MINIMUM_NODES = 3
"""On fewer tokens some descriptors are undefined."""


class RowSet:
    """One row per view, from the store where it has them.

    Args:
        views: of each trace.
        store: or None; new rows are put into it.
    """

    def __init__(self, views: Sequence[Sequence[View]], store: FeatureStore | None) -> None:
        self.views = views
        self.store = store
        self.keys = {id(v): view_key(v) for own in views for v in own}
        self.found: dict[str, StoredRow] = {}
        self.waiting: dict[str, StoredRow] = {}
        self._names: tuple[str, ...] | None = None
        if store is not None:
            self.found = store.get(list(self.keys.values()))
            self._names = store.names if self.found else None

    @property
    def names(self) -> tuple[str, ...]:
        """(F,) column names; known once there is a row."""
        assert self._names is not None
        return self._names

    def has(self, views: Iterable[View]) -> bool:
        """Whether the rows of all these views are known."""
        return all(self.keys[id(v)] in self.found for v in views)

    def add(self, views: Sequence[View], features: Sequence[TraceFeatures]) -> None:
        """Take the computed rows of a trace's views."""
        for view, row in zip(views, features, strict=True):
            if self._names is not None and row.names != self._names:
                raise FeatureMismatchError(
                    f"trace {view.trace.trace.id!r} has other columns than the traces before it "
                    f"({len(row.names)} against {len(self._names)})")
            self._names = row.names
            values = row.values.astype(np.float32)
            stored = StoredRow(values, _nan_reason(view, values, row.names),
                               (view.border, view.end - view.border))
            self.found[self.keys[id(view)]] = stored
            self.waiting[self.keys[id(view)]] = stored
        if len(self.waiting) >= SHARD_ROWS:
            self.flush()

    def flush(self) -> None:
        """Write what is not in the store yet."""
        if self.store is not None and self.waiting:
            self.store.put(self.waiting, self.names)
        self.waiting = {}

    def matrix(self, provenance: Provenance) -> FeatureMatrix:
        """All rows, in the order of the views."""
        views = [v for own in self.views for v in own]
        rows = [self.found[self.keys[id(v)]] for v in views]
        traces = tuple(_view_trace(v) for v in views)
        reasons = {t.id: r.reason for t, r in zip(traces, rows, strict=True) if r.reason}
        return FeatureMatrix(
            np.stack([r.values for r in rows]), self.names, traces,
            np.array([r.lengths for r in rows], dtype=np.int64), provenance, reasons)


def view_key(view: View) -> str:
    """Name of a view's row in a store."""
    return row_key(view.trace.ids[: view.end], view.border, view.cut.steps or ())


def row_trace(trace: Trace, k: int | None) -> Trace:
    """The trace; of its step k, a trace whose completion is the step."""
    if k is None or trace.steps is None:
        return trace
    start, end = trace.steps[k]
    return Trace(
        f"{trace.id}#step{k}", trace.problem_id, trace.prompt + trace.completion[:start],
        trace.completion[start:end], None if trace.step_labels is None else trace.step_labels[k],
        source=trace.source, meta={"trace": trace.id, "step": k})


def _view_trace(view: View) -> Trace:
    """The trace of a view's row; of a prefix with a name of its own, and the text still whole."""
    trace = view.trace.trace
    if view.step is not None or view.end == len(view.trace.ids):
        return row_trace(trace, view.step)
    return dataclasses.replace(trace, id=f"{trace.id}#token{view.end - view.border}")


def _nan_reason(view: View, values: NDArray[np.float32], names: Sequence[str]) -> str | None:
    """Why a row holds NaN: short spans, or descriptors undefined on a span that is long enough."""
    bad = np.flatnonzero(~np.isfinite(values))
    if not bad.size:
        return None
    if np.isinf(values).any():
        raise TraceError(
            f"trace {view.trace.trace.id!r}: {names[int(np.isinf(values).argmax())]!r} does not "
            "fit single precision",
            trace_id=view.trace.trace.id)
    columns = [Column.parse(names[int(i)]) for i in bad]
    return ";".join(dict.fromkeys(_reason(view, c) for c in columns))


def _reason(view: View, column: Column) -> str:
    span = column.span
    if span.startswith("step"):
        if not view.trace.steps:
            return "no_steps"
        longest = max(last - first for first, last in view.trace.steps)
        return f"steps_of_{longest}_tokens" if longest < MINIMUM_NODES else _undefined(column)
    size = view.border if span == "prompt" else view.end - view.border
    if span.startswith("whole") or span == "completion_from_prompt":
        size = view.end
    if column.descriptor.endswith("_top") and size < (column.parameter or 0):
        return f"{span}_of_{size}_tokens"
    return f"{span}_of_{size}_tokens" if size < MINIMUM_NODES else _undefined(column)


def _undefined(column: Column) -> str:
    what = f"{column.descriptor}_of_{column.signal}" if column.signal else column.descriptor
    return f"{what}_on_{column.span}{'_' + column.transform if column.transform else ''}_undefined"
