"""A feature set: which descriptors of which spans, read from ``configs/features/``."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any

from validator.configs.loading import names, read_yaml
from validator.errors import FeatureMismatchError

__all__ = ["SPANS", "TOKEN_SIGNALS", "FeatureSet", "load_feature_set"]

SPANS = ("whole", "completion")
TOKEN_SIGNALS = ("surprisal", "token_entropy")


@dataclass(frozen=True, slots=True)
class FeatureSet:
    """Which columns are computed; the fields are the keys of its YAML file.

    ``version`` is raised whenever the meaning of a column changes.
    """

    name: str
    version: int
    spectral_spans: tuple[str, ...] = SPANS
    """Spans whose head-mean graph gets symmetric normalized-Laplacian descriptors."""
    eigenvalue_quantiles: tuple[float, ...] = (0.25, 0.5, 0.75)
    spectral_gaps: tuple[int, ...] = (2,)
    hfer_cutoffs: tuple[float, ...] = (0.5,)
    hidden_signal: bool = True
    """Hidden states as a graph signal: HFER, signal entropy, smoothness."""
    token_signals: tuple[str, ...] = TOKEN_SIGNALS
    """Named token signals, on the completion's graph and attended to by each head."""
    head_spans: tuple[str, ...] = SPANS
    """Spans whose heads get directed-Laplacian, entropy and self-attention descriptors."""
    head_quantiles: tuple[float, ...] = (0.25, 0.5, 0.75)

    def __post_init__(self) -> None:
        _known(self.spectral_spans, SPANS, "span")
        _known(self.head_spans, SPANS, "span")
        _known(self.token_signals, TOKEN_SIGNALS, "token signal")
        shares = (*self.eigenvalue_quantiles, *self.hfer_cutoffs, *self.head_quantiles)
        if any(not 0 <= q <= 1 for q in shares):
            raise FeatureMismatchError("quantiles and cutoffs must lie in [0, 1]")


def load_feature_set(name: str) -> FeatureSet:
    """The named feature set. Raises FeatureMismatchError listing those that exist."""
    known = names("features")
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise FeatureMismatchError(
            f"unknown feature set {name!r}; known: {', '.join(known)}.{hint}")
    raw: dict[str, Any] = read_yaml(f"features/{name}.yaml")
    settings: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in raw.items()}
    return FeatureSet(**settings)


def _known(given: tuple[str, ...], allowed: tuple[str, ...], what: str) -> None:
    unknown = [g for g in given if g not in allowed]
    if unknown:
        raise FeatureMismatchError(f"unknown {what} {unknown[0]!r}; known: {', '.join(allowed)}")
