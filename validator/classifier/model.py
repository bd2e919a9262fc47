"""From raw features to a margin: chosen columns, a design where the kind needs one, a head."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from validator.classifier.boosting import BoostedHead
from validator.classifier.design import Design, fit_design
from validator.classifier.logistic import LinearHead
from validator.classifier.network import NetworkHead
from validator.classifier.selection import select_columns
from validator.classifier.targets import TrainingRows

__all__ = ["Head", "Inputs", "fit_inputs"]

Array = NDArray[np.float64]
Head = LinearHead | NetworkHead | BoostedHead


@dataclass(frozen=True, slots=True, eq=False)
class Inputs:
    """What a head reads of the features."""

    columns: NDArray[np.int64] | None
    """(k,) ascending indices of the selected features; None for all."""
    design: Design | None
    """Fitted to the selected features; None where they are read raw."""

    def select(self, X: Array) -> Array:
        """(N, F) features -> (N, k)."""
        return X if self.columns is None else X.take(self.columns, axis=1)

    def transform(self, X: Array) -> Array:
        """(N, F) features -> (N, D), what the head reads."""
        X = self.select(X)
        return X if self.design is None else self.design.transform(X)


def fit_inputs(data: TrainingRows, *, n_features: int | None, n_components: int | None, raw: bool
               ) -> Inputs:
    """Select columns, then fit the design unless features are read ``raw``.

    Raises ParameterError for a number of columns or components out of range.
    """
    columns = None
    if n_features is not None:
        columns = select_columns(data.X, data.y, data.weights, n_features)
    X = Inputs(columns, None).select(data.X)
    return Inputs(columns, None if raw else fit_design(X, data.weights, n_components))
