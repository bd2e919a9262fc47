"""A feature set: which descriptors of which graphs and spans, read from ``configs/features/``."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from validator.errors import FeatureMismatchError

__all__ = [
    "GRAPH_DESCRIPTORS", "HEAD_DESCRIPTORS", "NULLS", "SIGNALS", "SPANS", "TOKEN_SIGNALS",
    "FeatureSet", "GraphFeatures", "HeadFeatures", "StateFeatures",
]

SPANS = ("whole", "prompt", "completion", "completion_from_prompt", "step", "last")
"""``last``: the completion's last tokens; ``step``: mean, minimum and maximum over its steps."""
TOKEN_SIGNALS = ("surprisal", "token_entropy")
"""Signals of the model's own predictions; defined on the tokens of the completion."""
SIGNALS = ("hidden", "value_norm", *TOKEN_SIGNALS)
EIGENVALUE_DESCRIPTORS = (
    "fiedler_value", "spectral_gap", "eigenvalue_quantile", "eigenvalue_entropy")
SIGNAL_DESCRIPTORS = ("hfer", "signal_entropy", "roughness", "smoothness", "dirichlet_energy")
SINGULAR_DESCRIPTORS = ("singular_value_quantile", "singular_value_entropy")
GRAPH_DESCRIPTORS = (*EIGENVALUE_DESCRIPTORS, *SIGNAL_DESCRIPTORS, *SINGULAR_DESCRIPTORS)
HEAD_DESCRIPTORS = (
    "directed_eigenvalue", "attention_eigenvalue", "attention_entropy", "renyi_entropy",
    "log_self_attention", "lookback_ratio",
)
PREPROCESS = re.compile(r"drop_sink|clip0\.\d+|row_normalised|no_self_loops")
"""In the order they are applied in: the order they are written in."""
NULLS = ("uniform", "recency", "permuted")
QUANTILES = (0.25, 0.5, 0.75)


@dataclass(frozen=True, slots=True)
class GraphFeatures:
    """Descriptors of symmetric graphs, for which a Laplacian is decomposed."""

    spans: tuple[str, ...] = ("completion",)
    heads: str = "mean"
    """``mean``: the graph of the attention averaged over heads; ``each``: one graph per head."""
    laplacian: str = "normalized"
    preprocess: tuple[str, ...] = ()
    """What is done to the span's attention, in this order: ``drop_sink`` (the sequence's first
    token is left out), ``clip<x>`` (weights below x become 0), ``row_normalised`` (rows that have
    any weight sum to 1), ``no_self_loops`` (the diagonal becomes 0)."""
    descriptors: tuple[str, ...] = EIGENVALUE_DESCRIPTORS
    eigenvalue_quantiles: tuple[float, ...] = QUANTILES
    spectral_gaps: tuple[int, ...] = (2,)
    hfer_cutoffs: tuple[float, ...] = (0.5,)
    signals: tuple[str, ...] = ()
    """Graph signals; token signals are left out of spans that reach outside the completion."""
    nulls: tuple[str, ...] = ()
    """Content-free graphs against which ``__z_<null>`` columns are formed."""
    null_draws: int = 8
    deltas: bool = False
    """Add, for each layer but the first, the difference to the layer before."""

    def __post_init__(self) -> None:
        _known(self.spans, SPANS, "span")
        _known((self.heads,), ("mean", "each"), "kind of heads")
        _known((self.laplacian,), ("normalized", "combinatorial"), "Laplacian")
        _known(self.descriptors, GRAPH_DESCRIPTORS, "descriptor")
        _known(self.signals, SIGNALS, "signal")
        _known(self.nulls, NULLS, "null")
        for step in self.preprocess:
            if not PREPROCESS.fullmatch(step):
                raise FeatureMismatchError(
                    f"unknown preprocessing {step!r}; known: drop_sink, clip<x> (e.g. clip0.01), "
                    "row_normalised, no_self_loops")
        _shares(self.eigenvalue_quantiles, self.hfer_cutoffs)
        _enough_draws(self.nulls, self.null_draws)
        if self.nulls and {"step", "completion_from_prompt"} & set(self.spans):
            raise FeatureMismatchError(
                "nulls are for the spans whole, prompt, completion and last only")

    @property
    def options(self) -> tuple[str, ...]:
        """What column names say of the graph."""
        kind = () if self.laplacian == "normalized" else (self.laplacian,)
        return (*kind, *self.preprocess)


@dataclass(frozen=True, slots=True)
class HeadFeatures:
    """Descriptors of each head's attention, for which no eigensolver is needed."""

    spans: tuple[str, ...] = ("whole", "completion")
    descriptors: tuple[str, ...] = (
        "directed_eigenvalue", "attention_entropy", "log_self_attention")
    quantiles: tuple[float, ...] = QUANTILES
    top: int = 0
    """The k largest directed and attention eigenvalues besides their quantiles."""
    attended: tuple[str, ...] = ()
    """Token signals averaged by each head's attention over the completion."""
    nulls: tuple[str, ...] = ()
    """``uniform`` or ``recency``: random heads against which ``__z_<null>`` columns are formed."""
    null_draws: int = 16
    deltas: bool = False

    def __post_init__(self) -> None:
        _known(self.spans, tuple(s for s in SPANS if s != "completion_from_prompt"), "span")
        _known(self.descriptors, HEAD_DESCRIPTORS, "descriptor")
        _known(self.attended, TOKEN_SIGNALS, "token signal")
        _known(self.nulls, ("uniform", "recency"), "null of heads")
        _shares(self.quantiles)
        _enough_draws(self.nulls, self.null_draws)


@dataclass(frozen=True, slots=True)
class StateFeatures:
    """The hidden states that enter each layer, pooled: what the probe baseline is fitted to.

    They are no spectra, and neither the learned score nor any other reads them.
    """

    spans: tuple[str, ...] = ("completion",)
    pools: tuple[str, ...] = ("mean",)
    """``mean`` over the span's tokens, ``last`` token."""

    def __post_init__(self) -> None:
        _known(self.spans, ("whole", "prompt", "completion", "last"), "span of hidden states")
        _known(self.pools, ("mean", "last"), "pool")


@dataclass(frozen=True, slots=True)
class FeatureSet:
    """Which columns are computed; the fields are the keys of its YAML file.

    ``version`` is raised whenever the meaning of a column changes.
    """

    name: str
    version: int
    heads: HeadFeatures | None = None
    graphs: tuple[GraphFeatures, ...] = ()
    states: StateFeatures | None = None
    last_tokens: int = 32
    """Tokens of the span ``last``; all of a shorter completion."""

    def __post_init__(self) -> None:
        if self.heads is None and not self.graphs and self.states is None:
            raise FeatureMismatchError(
                f"feature set {self.name!r} has neither heads nor graphs nor states")
        if self.last_tokens < 3:
            raise FeatureMismatchError("last_tokens must be 3 or more")

    @property
    def spans(self) -> tuple[str, ...]:
        """Every span some column is about."""
        found = [*(self.heads.spans if self.heads else ()),
                 *(s for g in self.graphs for s in g.spans),
                 *(self.states.spans if self.states else ())]
        return tuple(s for s in SPANS if s in found)

    @property
    def signals(self) -> tuple[str, ...]:
        """Every graph signal some column needs."""
        found = {s for g in self.graphs for s in g.signals}
        return tuple(s for s in SIGNALS if s in found)

    def to_dict(self) -> dict[str, Any]:
        """The configuration as plain data, for hashing and for reports."""
        return dataclasses.asdict(self)


def _known(given: Iterable[str], allowed: tuple[str, ...], what: str) -> None:
    unknown = [g for g in given if g not in allowed]
    if unknown:
        raise FeatureMismatchError(f"unknown {what} {unknown[0]!r}; known: {', '.join(allowed)}")


def _enough_draws(nulls: tuple[str, ...], draws: int) -> None:
    if nulls and draws < 2:
        raise FeatureMismatchError("null_draws must be 2 or more: a z-score needs a spread")


def _shares(*groups: tuple[float, ...]) -> None:
    if any(not 0 <= q <= 1 for group in groups for q in group):
        raise FeatureMismatchError("quantiles and cutoffs must lie in [0, 1]")
