"""The traces one trace is held against, and the band that the valid ones of them span."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from validator.columns import BASELINES
from validator.errors import FeatureMismatchError, LabelError
from validator.explain.grid import feature_grid
from validator.families import read_by_artifact
from validator.types import FeatureMatrix, Provenance, Trace

__all__ = ["FEWEST_VALID", "Band", "Reference", "balanced", "robust_band"]

Array = NDArray[np.float64]

FEWEST_VALID = 5
"""Valid traces below which no band is drawn: a median deviation of four values is no scale."""
NORMAL = 1.482602218505602
"""1 / Phi^-1(3/4): the median deviation times this is the deviation of a normal variable."""


@dataclass(frozen=True, slots=True, eq=False)
class Band:
    """Centre and robust standard deviation of each cell over some traces."""

    center: Array
    """(R, L) medians; NaN where no trace has a value."""
    scale: Array
    """(R, L) 1.4826 x median absolute deviation (Rousseeuw and Croux 1993, section 1); NaN where it
    is 0: values that do not vary span no band."""

    def z(self, grid: NDArray[np.float32]) -> Array:
        """(..., R, L) values -> robust z, NaN where the value or the band is undefined."""
        return np.asarray((grid.astype(np.float64) - self.center) / self.scale)


def robust_band(grid: NDArray[np.float32]) -> Band:
    """The band of (N, R, L) values; NaN entries are left out of their cell."""
    center = _median(grid.astype(np.float64))
    scale = NORMAL * _median(np.abs(grid - center))
    flat = scale <= 1e-7 * np.abs(center)  # float32 rounding of a constant
    return Band(center, np.where(flat, np.nan, scale))


def _median(values: Array) -> Array:
    empty = np.isnan(values).all(axis=0)
    return np.where(empty, np.nan, np.nanmedian(np.where(empty, 0.0, values), axis=0))


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """N traces in the layer x descriptor grid, small enough to be kept in a file."""

    name: str
    """What the traces are, for people."""
    traces: tuple[Trace, ...]
    """(N,)."""
    rows: tuple[str, ...]
    """(R,) descriptors; :func:`validator.explain.grid.grid_cells` says how they are named."""
    layers: tuple[int, ...]
    """(L,) ascending."""
    grid: NDArray[np.float32]
    """(N, R, L) values; those of heads are averaged; NaN where undefined."""
    baselines: NDArray[np.float32]
    """(N, 5) values of :data:`validator.columns.BASELINES`."""
    provenance: Provenance

    @classmethod
    def of(cls, features: FeatureMatrix, name: str) -> Reference:
        """The reference that a feature matrix makes."""
        rows, layers, grid = feature_grid(features)
        own = features.select([f"{b}__baseline" for b in BASELINES])
        return cls(name, features.traces, rows, layers, grid, own,
                   read_by_artifact(features.provenance))

    def __len__(self) -> int:
        return len(self.traces)

    def where(self, label: int) -> NDArray[np.int64]:
        """Indices of the traces with this label."""
        return np.flatnonzero([t.label == label for t in self.traces])

    def without(self, trace: Trace) -> Reference:
        """The same without this trace, told by its text: it is not held against itself."""
        text = trace.prompt + trace.completion
        kept = [i for i, t in enumerate(self.traces) if t.prompt + t.completion != text]
        return Reference(self.name, tuple(self.traces[i] for i in kept), self.rows, self.layers,
                         self.grid[kept], self.baselines[kept], self.provenance)

    def valid_band(self) -> Band:
        """The band of the valid traces. Raises LabelError for fewer than 5 of them."""
        valid = self.where(1)
        if len(valid) < FEWEST_VALID:
            raise LabelError(
                f"the reference ({self.name}) has {len(valid)} traces that are labelled valid "
                f"besides the one explained; a band needs {FEWEST_VALID} or more. Give labelled "
                "traces of the same kind as reference.")
        return robust_band(self.grid[valid])

    def grid_of(self, features: FeatureMatrix) -> NDArray[np.float32]:
        """(N, R, L) of other features. Raises FeatureMismatchError unless they are alike."""
        self.provenance.require_equal(
            read_by_artifact(features.provenance), f"the reference ({self.name})")
        rows, layers, grid = feature_grid(features)
        if (rows, layers) != (self.rows, self.layers):
            raise FeatureMismatchError(
                f"the reference ({self.name}) has {len(self.rows)} descriptors at "
                f"{len(self.layers)} layers, the features have {len(rows)} at {len(layers)}; "
                "make the reference again with the same model and feature set")
        return grid


def balanced(traces: Sequence[Trace], size: int) -> list[Trace]:
    """Up to ``size`` labelled traces, half of them valid where there are enough, in file order.

    Problems are taken in turn, so that one with many answers does not fill the reference.
    """
    ranked = {label: _in_turn([t for t in traces if t.label == label]) for label in (1, 0)}
    valid = min(len(ranked[1]), max(size - size // 2, size - len(ranked[0])))
    chosen = {id(t) for t in (*ranked[1][:valid], *ranked[0][: size - valid])}
    return [t for t in traces if id(t) in chosen]


def _in_turn(traces: Sequence[Trace]) -> list[Trace]:
    """The first of every problem, then the second of every problem, and so on."""
    seen: dict[str, int] = {}
    turns = []
    for trace in traces:
        seen[trace.problem_id] = seen.get(trace.problem_id, -1) + 1
        turns.append(seen[trace.problem_id])
    return [traces[i] for i in np.argsort(turns, kind="stable")]
