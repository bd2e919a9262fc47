"""Families of feature columns: which of them a score may read."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from validator.columns import Column
from validator.types import Provenance

__all__ = ["PROBE", "column_families", "learned_names", "read_by_artifact"]

PROBE = "+probe"
"""What a feature set's name ends in to have hidden states for the probe beside its columns."""


def column_families(names: Sequence[str]) -> dict[str, NDArray[np.int64]]:
    """Indices of the columns that are ``baselines``, graph ``spectra``, or ``learned`` from.

    ``spectra`` are descriptors of the attention graph, hidden states as signal included;
    ``learned`` adds the columns whose signal is a token's surprisal or entropy; ``probe`` are the
    hidden states themselves, empty unless the feature set was asked for them.
    """
    columns = [Column.parse(n) for n in names]
    graph = [not c.is_baseline and not c.is_state for c in columns]
    bare = [g and c.signal in ("", "hidden") for g, c in zip(graph, columns, strict=True)]
    return {
        "baselines": np.flatnonzero([c.is_baseline for c in columns]),
        "spectra": np.flatnonzero(bare),
        "learned": np.flatnonzero(graph),
        "probe": np.flatnonzero([c.is_state for c in columns]),
    }


def learned_names(names: Sequence[str]) -> tuple[str, ...]:
    """The columns the learned score reads: all but baselines and hidden states."""
    return tuple(names[i] for i in column_families(names)["learned"])


def read_by_artifact(provenance: Provenance) -> Provenance:
    """An artifact reads no hidden states, so features without them serve it as well."""
    return dataclasses.replace(provenance, feature_set=provenance.feature_set.removesuffix(PROBE))
