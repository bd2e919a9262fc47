"""What an explanation says: plain values and arrays, no model and no page in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from validator.types import Provenance, Trace

__all__ = [
    "BaselineView", "Contribution", "Contributions", "Deviations", "Explanation", "LayerGraph",
    "Neighbour", "NullBand", "StepView", "TokenView", "Verdict",
]

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class TokenView:
    """One token of the graph."""

    text: str
    """Its characters; empty where it shares a character with the token before it."""
    surprisal: float | None
    """-log p in nats; None in the prompt."""


@dataclass(frozen=True, slots=True, eq=False)
class LayerGraph:
    """The head-mean attention graph of T tokens at one layer, decomposed."""

    layer: int
    eigenvalues: Array
    """(T,) of the normalized Laplacian, ascending, in [0, 2]."""
    fiedler: Array
    """(T,) its second eigenvector, of norm 1; the entry of largest size is positive."""
    clusters: NDArray[np.int64]
    """(T,) spectral cluster of each token, numbered by first appearance from 0."""
    embedding: Array
    """(T, 2) where the tokens are drawn."""
    edges: NDArray[np.int64]
    """(E, 2) the strongest edges, strongest first."""
    weights: Array
    """(E,) their weights in W = (A + A^T) / 2."""
    degrees: Array
    """(T,) row sums of W."""

    @property
    def n_clusters(self) -> int:
        """Number of clusters."""
        return int(self.clusters.max()) + 1


@dataclass(frozen=True, slots=True, eq=False)
class NullBand:
    """Spectra of content-free graphs of the same tokens: what length alone would give."""

    kind: str
    eigenvalues: Array
    """(draws, T) ascending."""


@dataclass(frozen=True, slots=True, eq=False)
class Deviations:
    """The trace against the band of valid traces, descriptor by descriptor and layer by layer."""

    rows: tuple[str, ...]
    layers: tuple[int, ...]
    value: NDArray[np.float32]
    """(R, L)."""
    center: Array
    """(R, L) median of the valid traces."""
    scale: Array
    """(R, L) robust standard deviation of the valid traces; NaN where they do not vary."""
    z: Array
    """(R, L) (value - center) / scale."""
    beyond: float
    """Share of the defined cells with |z| > 3."""
    beyond_valid: float
    """Median of that share over the valid reference traces, which made the band."""
    beyond_invalid: float | None
    """The same over the invalid ones; None where there are none."""

    def largest(self, k: int) -> list[tuple[int, int]]:
        """(row, layer index) of the k cells with the largest |z|."""
        size = np.where(np.isnan(self.z), -1.0, np.abs(self.z))
        order = np.argsort(-size, axis=None, kind="stable")[:k]
        found = zip(*np.unravel_index(order, size.shape), strict=True)
        return [(int(r), int(c)) for r, c in found if size[r, c] >= 0]


@dataclass(frozen=True, slots=True)
class Contribution:
    """What one feature adds to the log-odds."""

    name: str
    value: float | None
    """The feature; None where it is undefined for the trace."""
    contribution: float


@dataclass(frozen=True, slots=True)
class Contributions:
    """Exact Shapley values: ``bias`` + all contributions = ``margin``."""

    top: tuple[Contribution, ...]
    """By descending |contribution|."""
    rest: float
    """Sum over the other features."""
    rest_count: int
    """How many of the others contribute something."""
    bias: float
    margin: float
    """The classifier's log-odds before calibration."""
    of: str
    """What was explained: the trace, or its step least likely to be valid."""


@dataclass(frozen=True, slots=True)
class StepView:
    """One step of the trace."""

    text: str
    tokens: int
    mean_logprob: float | None
    """None where the step has no token of its own."""
    p_valid: float | None
    """By a classifier of steps; None without one."""
    label: int | None


@dataclass(frozen=True, slots=True)
class BaselineView:
    """A quantity that needs no spectrum, and where the trace stands in it."""

    name: str
    value: float
    percentile: float
    """Share of the reference traces with a lower value, ties half, in [0, 100]."""
    valid_median: float
    invalid_median: float | None
    auroc: float | None
    """How well it alone ranks the reference traces, in the direction that serves it better;
    None without both labels."""


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A reference trace near the one explained."""

    trace: Trace
    distance: float
    """Root mean square difference over the grid's columns, in their standard deviations."""
    same_problem: bool


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the classifier says."""

    classifier: str
    p_valid: float | None = None
    interval: tuple[float, float] | None = None
    contributions: Contributions | None = None
    no_contributions: str = ""
    """Why there are none."""
    step_chances: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Explanation:
    """One trace, explained."""

    trace: Trace
    span: str
    """Which tokens the graphs have: ``completion`` or ``whole``."""
    tokens: tuple[TokenView, ...]
    prompt_tokens: int
    """How many of the tokens belong to the prompt."""
    lengths: tuple[int, int]
    """Tokens of the prompt and of the completion."""
    graphs: tuple[LayerGraph, ...]
    null: NullBand
    deviations: Deviations
    quantiles: Mapping[float, tuple[Array, Array]]
    """Level q -> eigenvalue quantiles of the valid reference traces' graphs of the same span,
    (L,) at the 5th percentile and at the 95th; empty where the features do not hold them."""
    baselines: tuple[BaselineView, ...]
    neighbours: Mapping[int, tuple[Neighbour, ...]]
    """Label -> nearest first."""
    nearest_usual: tuple[float, float]
    """The distance to the nearest other trace within the reference: median and 95th percentile."""
    steps: tuple[StepView, ...]
    verdict: Verdict
    reference: str
    reference_counts: tuple[int, int]
    """Valid and invalid reference traces."""
    provenance: Provenance
    notes: tuple[str, ...] = ()
    """Sentences to be read before the numbers."""
    seed: int = 0

    def to_json(self) -> dict[str, Any]:
        """JSON values: what the page shows as numbers; per layer what describes its graph."""
        d, v = self.deviations, self.verdict
        return {
            "id": self.trace.id, "problem_id": self.trace.problem_id, "label": self.trace.label,
            "p_valid": v.p_valid, "interval": None if v.interval is None else list(v.interval),
            "classifier": v.classifier, "notes": list(self.notes), "span": self.span,
            "tokens": [t.text for t in self.tokens], "prompt_tokens": self.prompt_tokens,
            "reference": {"name": self.reference, "valid": self.reference_counts[0],
                          "invalid": self.reference_counts[1]},
            "baselines": [_plain(b) for b in self.baselines],
            "deviations": {
                "beyond": d.beyond, "beyond_valid": d.beyond_valid,
                "beyond_invalid": d.beyond_invalid,
                "largest": [_cell(d, r, c) for r, c in d.largest(20)]},
            "contributions": None if v.contributions is None else {
                **_plain(v.contributions), "top": [_plain(c) for c in v.contributions.top]},
            "steps": [_plain(s) for s in self.steps],
            "neighbours": {("valid" if label else "invalid"): [
                {"id": n.trace.id, "distance": n.distance, "same_problem": n.same_problem}
                for n in found] for label, found in self.neighbours.items()},
            "layers": [{
                "layer": g.layer, "fiedler_value": float(g.eigenvalues[1]),
                "clusters": g.clusters.tolist(), "fiedler": np.round(g.fiedler, 5).tolist(),
            } for g in self.graphs],
        }


def _plain(value: Any) -> dict[str, Any]:
    return {name: getattr(value, name) for name in value.__dataclass_fields__}


def _cell(d: Deviations, row: int, column: int) -> dict[str, Any]:
    return {"descriptor": d.rows[row], "layer": d.layers[column],
            "value": float(d.value[row, column]), "median": float(d.center[row, column]),
            "scale": float(d.scale[row, column]), "z": float(d.z[row, column])}
