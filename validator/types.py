"""The frozen types that travel from room to room; NumPy is their only dependency."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from validator.errors import FeatureMismatchError, LabelError, TraceError

if TYPE_CHECKING:
    import torch

__all__ = [
    "AttentionRows",
    "FeatureMatrix",
    "LayerAttention",
    "Progress",
    "Provenance",
    "Spectrum",
    "Status",
    "Trace",
    "ValidityScore",
]

Progress = Callable[[int, int], None]
"""Called with (done, total) as long work advances."""

Status = Literal["ok", "unparsed", "truncated"]
"""How an answer ended: parsed; ended but without an answer; cut off at the token limit."""


@dataclass(frozen=True, slots=True)
class Trace:
    """One piece of reasoning: what the model was shown, what it wrote, and whether it holds.

    The text scored is exactly ``prompt + completion``; nothing is inserted between them.
    """

    id: str
    problem_id: str
    prompt: str
    completion: str
    label: int | None = None
    """1 valid, 0 invalid, None unknown."""
    steps: tuple[tuple[int, int], ...] | None = None
    """Character spans (start, end) of the steps inside ``completion``, ascending, disjoint."""
    step_labels: tuple[int | None, ...] | None = None
    """One of 1 / 0 / None for each step, or None where no step is labelled."""
    source: str = ""
    """Who wrote the completion, e.g. a model's name."""
    answer: str | None = None
    """The final answer as parsed from the completion; None where there is none."""
    status: Status = "ok"
    meta: Mapping[str, Any] = field(default_factory=dict)
    """Further JSON-serialisable facts, e.g. the target answer."""

    def __post_init__(self) -> None:
        if self.label not in (0, 1, None):
            raise TraceError(f"trace {self.id!r}: label must be 1, 0 or null, got {self.label!r}")
        if self.status not in ("ok", "unparsed", "truncated"):
            raise TraceError(f"trace {self.id!r}: unknown status {self.status!r}")
        if self.steps is not None:
            _check_steps(self)
        if self.step_labels is not None and (
            self.steps is None or len(self.step_labels) != len(self.steps)
        ):
            raise TraceError(f"trace {self.id!r}: step_labels must have one entry per step")


def _check_steps(trace: Trace) -> None:
    previous = 0
    for start, end in trace.steps or ():
        if not previous <= start < end <= len(trace.completion):
            raise TraceError(
                f"trace {trace.id!r}: step span ({start}, {end}) is empty, overlaps the one before "
                f"or leaves the completion (0, {len(trace.completion)})",
                trace_id=trace.id,
            )
        previous = end


@dataclass(frozen=True, slots=True)
class AttentionRows:
    """The attention of one layer for a block of consecutive query tokens.

    A whole sequence is the block with ``start == 0``; the rows after a shared prefix are the block
    with ``start == len(prefix)``.
    """

    weights: torch.Tensor
    """(B, H, R, T) float32, or float64 of a float64 model; row r is query token ``start + r``;
    entries in [0, 1]; T = start + R. Rows sum to 1, less the share of an attention sink."""
    start: int
    entropy: torch.Tensor | None = None
    """(B, H, R) Shannon entropy of each row in nats, where it came with the weights."""


@dataclass(frozen=True, slots=True)
class LayerAttention:
    """The attention of one layer for the R tokens that follow ``start`` earlier ones."""

    layer: int
    """Index of the layer among all layers of the model, those without attention included."""
    start: int
    hidden: torch.Tensor
    """(B, R, D) the layer's input hidden states, in the model's dtype."""
    value_norm: torch.Tensor | None
    """(B, R) float32, sqrt(sum ||v||^2) over the value vectors of all key-value heads of each
    token; None where the architecture does not show its values."""
    blocks: Iterator[AttentionRows]
    """Blocks of rows in ascending order that cover the R rows; they can be read once, and a block's
    weights may be written over when the next is asked for."""


@dataclass(frozen=True, slots=True)
class Spectrum:
    """Eigenvalues of a graph's Laplacian and, per named signal, its energy in each mode."""

    layer: int
    eigenvalues: torch.Tensor
    """(G, T) ascending."""
    mode_energy: Mapping[str, torch.Tensor]
    """signal name -> (G, T), e_m = ||(U^T X)_m||^2, non-negative."""


@dataclass(frozen=True, slots=True)
class Provenance:
    """What must be equal for two feature matrices, or features and a classifier, to be mixed."""

    model: str
    revision: str
    """SHA-256 of the weights, or the commit of the hub repository."""
    feature_set: str
    feature_version: int
    dtype: str = "float32"
    solver: str = "exact"
    layers: str = "all"
    """Those that were read, as ``0,7,15``, or ``all``."""
    heads: str = "all"

    def require_equal(self, other: Provenance, what: str) -> None:
        """Raise FeatureMismatchError naming every field in which ``other`` differs."""
        pairs = ((f.name, getattr(self, f.name), getattr(other, f.name)) for f in FIELDS)
        bad = [f"{name}: expected {mine!r}, got {theirs!r}" for name, mine, theirs in pairs
               if mine != theirs]
        if bad:
            raise FeatureMismatchError(f"{what}: {'; '.join(bad)}. Extract the features again "
                                       "with the model and feature set that are expected.")


FIELDS = dataclasses.fields(Provenance)


@dataclass(frozen=True, slots=True)
class FeatureMatrix:
    """Features of N traces beside the traces themselves."""

    values: NDArray[np.float32]
    """(N, F) float32; NaN only where :attr:`nan_reasons` names the trace."""
    names: tuple[str, ...]
    """(F,) column names; each parses back with :class:`validator.columns.Column`."""
    traces: tuple[Trace, ...]
    lengths: NDArray[np.int64]
    """(N, 2) tokens of the prompt and of the completion."""
    provenance: Provenance
    nan_reasons: Mapping[str, str] = field(default_factory=dict)
    """trace id -> reason code, for each trace whose row holds a NaN."""

    def __post_init__(self) -> None:
        n, f = len(self.traces), len(self.names)
        if self.values.shape != (n, f) or self.lengths.shape != (n, 2):
            raise FeatureMismatchError(
                f"expected values ({n}, {f}) and lengths ({n}, 2) for {n} traces and {f} names, "
                f"got {self.values.shape} and {self.lengths.shape}"
            )

    @property
    def shape(self) -> tuple[int, int]:
        """(N, F)."""
        return len(self.traces), len(self.names)

    def __len__(self) -> int:
        return len(self.traces)

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        return iter(self.values)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """The values, so that whatever takes an array takes a feature matrix."""
        return np.array(self.values, dtype=dtype, copy=copy)

    @property
    def trace_ids(self) -> tuple[str, ...]:
        """(N,) the traces' ids."""
        return tuple(t.id for t in self.traces)

    @property
    def problem_ids(self) -> NDArray[np.str_]:
        """(N,) the groups that no split may cut."""
        return np.array([t.problem_id for t in self.traces], dtype=np.str_)

    @property
    def labels(self) -> NDArray[np.int64]:
        """(N,) 1 valid, 0 invalid. Raises LabelError if any trace has no label."""
        missing = [t.id for t in self.traces if t.label is None]
        if missing:
            raise LabelError(f"{len(missing)} of {len(self.traces)} traces have no label, first: "
                             f"{missing[0]!r}. Label them, or keep those that are: `.take(...)`.")
        return np.array([t.label for t in self.traces], dtype=np.int64)

    def take(self, rows: Sequence[int] | NDArray[np.int64]) -> FeatureMatrix:
        """The same matrix for the given rows, in the given order."""
        index = np.asarray(rows, dtype=np.int64)
        traces = tuple(self.traces[i] for i in index)
        kept = {t.id for t in traces}
        return dataclasses.replace(
            self, values=self.values[index], traces=traces, lengths=self.lengths[index],
            nan_reasons={k: v for k, v in self.nan_reasons.items() if k in kept},
        )

    def select(self, names: Sequence[str]) -> NDArray[np.float32]:
        """(N, len(names)) the named columns, in the given order."""
        where = {name: i for i, name in enumerate(self.names)}
        missing = [n for n in names if n not in where]
        if missing:
            raise FeatureMismatchError(f"{len(missing)} columns are missing, first: {missing[0]!r}")
        return self.values[:, [where[n] for n in names]]


@dataclass(frozen=True, slots=True)
class ValidityScore:
    """What is said of one trace."""

    trace_id: str
    unsupervised: Mapping[str, float]
    """Scores that need no label, by name; higher means more valid, each on a scale of its own."""
    learned: float | None = None
    """P(valid) in (0, 1); None without a classifier for this model and feature set."""
    interval: tuple[float, float] | None = None
    """Venn-Abers bounds (p0, p1) of P(valid): two calibrated answers, one if the trace is invalid
    and one if it is valid; far apart where little like it was seen. None without calibration."""
    steps: tuple[float, ...] | None = None
    """P(valid) of each step, where the classifier was trained on steps."""
    nan_reason: str | None = None
    """Why some feature of the trace is undefined, e.g. a completion of two tokens."""
    margin: float | None = None
    """The classifier's own log-odds, which calibration turns into P(valid): it ranks as ``learned``
    does, and tells apart traces that get the same P(valid)."""
