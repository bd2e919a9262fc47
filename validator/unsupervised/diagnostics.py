"""One diagnostic at a stated layer with a stated direction, as a score."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from validator.columns import Column
from validator.errors import FeatureMismatchError, ParameterError
from validator.types import FeatureMatrix

__all__ = ["DiagnosticScore"]


@dataclass(frozen=True, slots=True)
class DiagnosticScore:
    """``direction`` times one descriptor of one layer, or its mean over the layers that were read.

    Nothing is fitted. Layers and heads are averaged as they are, so that those where a descriptor
    varies most count most.
    """

    descriptor: str
    """As column names begin, parameter included: ``fiedler_value``, ``hfer_c0.5``; or a baseline's
    name with ``layer=None``."""
    _: KW_ONLY
    direction: int
    """+1 where more of it means more valid, -1 where less does."""
    layer: int | str | None = "mean"
    """A layer's index in the model; ``"mean"`` over the layers that were read; None for one of
    :data:`validator.columns.BASELINES`."""
    span: str = "completion"
    signal: str = ""
    """The graph signal, where the descriptor has one: ``hidden``, ``surprisal``."""
    graph: str = "head_mean"
    """``head_mean``: of the attention averaged over heads; ``heads``: the mean over heads of each
    one's value."""
    options: tuple[str, ...] = ()
    """How the graph departs from the symmetric normalized one, e.g. ``("combinatorial",)``."""
    source: str = ""
    """Who says so: where the direction comes from."""

    def __post_init__(self) -> None:
        if self.direction not in (1, -1):
            raise ParameterError(f"direction must be +1 or -1, got {self.direction!r}")
        if isinstance(self.layer, str) and self.layer != "mean":
            raise ParameterError(f'layer must be an index, "mean" or None, got {self.layer!r}')
        if self.graph not in ("head_mean", "heads"):
            raise ParameterError(f"graph must be head_mean or heads, got {self.graph!r}")
        _ = self.recipe

    @property
    def recipe(self) -> Column:
        """The column it reads, at layer 0 and head 0 where there are several."""
        if self.layer is None:
            return Column.parse(f"{self.descriptor}__baseline")
        graph = "+".join(("head_mean" if self.graph == "head_mean" else "head0", *self.options))
        parts = [self.descriptor, "layer0", graph, self.span, self.signal]
        return Column.parse("__".join(p for p in parts if p))

    def columns(self, names: tuple[str, ...]) -> dict[int, tuple[int, ...]]:
        """Layer -> indices of the columns it reads in ``names``; a baseline has the layer -1.

        Raises FeatureMismatchError where they are not there, saying what is.
        """
        layers = _by_recipe(names).get(self.recipe, {})
        if not layers:
            sought = str(self.recipe).replace("__layer0__head0", "__layer<i>__head<j>")
            raise FeatureMismatchError(
                f"no column {sought.replace('__layer0__', '__layer<i>__')} among the {len(names)} "
                "given; extract a feature set that holds it")
        if isinstance(self.layer, int) and self.layer not in layers:
            raise FeatureMismatchError(
                f"{self.descriptor}: layer {self.layer} is not among the layers that were read, "
                f"{', '.join(map(str, sorted(layers)))}; read it, or choose one of them")
        return {self.layer: layers[self.layer]} if isinstance(self.layer, int) else dict(layers)

    def score(self, features: FeatureMatrix) -> NDArray[np.float64]:
        """(N,) higher is more valid; NaN where a column it reads is undefined for the trace.

        Raises FeatureMismatchError where the columns are not there.
        """
        layers = self.columns(features.names).values()
        means = [features.values[:, index].astype(np.float64).mean(axis=1) for index in layers]
        return np.asarray(self.direction * np.mean(means, axis=0))


@lru_cache(maxsize=4)
def _by_recipe(names: tuple[str, ...]) -> Mapping[Column, Mapping[int, tuple[int, ...]]]:
    """Recipe at layer and head 0 -> layer -> indices. Thousands of names, so parsed only once."""
    found: dict[Column, dict[int, tuple[int, ...]]] = {}
    for i, name in enumerate(names):
        column = Column.parse(name)
        layer = -1 if column.layer is None else column.layer
        recipe = dataclasses.replace(column, layer=None if column.layer is None else 0,
                                     head=None if column.head is None else 0)
        layers = found.setdefault(recipe, {})
        layers[layer] = (*layers.get(layer, ()), i)
    return found
