"""What a fit learns from, checked: features, binary labels and weights of the rows that count."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import _check_sample_weight

from validator.errors import LabelError, ParameterError

__all__ = ["TrainingRows", "binary_target", "class_factors", "require", "sample_weights"]

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class TrainingRows:
    """N rows of positive weight."""

    X: Array
    """(N, F), NaN allowed."""
    y: Array
    """(N,) 0.0 / 1.0."""
    weights: Array
    """(N,) how many copies of itself a row stands for."""
    loss: Array
    """(N,) those copies times the weight of the row's class."""

    def take(self, rows: NDArray[np.int64]) -> TrainingRows:
        """The given rows, in the given order."""
        return TrainingRows(self.X[rows], self.y[rows], self.weights[rows], self.loss[rows])


def sample_weights(sample_weight: ArrayLike | None, X: Array) -> Array:
    """(N,) float weights, one each by default. Raises ParameterError for a negative one."""
    weights: Array = _check_sample_weight(sample_weight, X, dtype=np.float64)
    require(bool((weights >= 0).all()) and bool((weights > 0).any()),
            "sample_weight must not be negative, and not be zero for every row")
    return weights


def binary_target(y: NDArray[Any]) -> tuple[NDArray[Any], Array]:
    """(N,) labels -> (the two classes ascending, 0.0 / 1.0 for each row).

    Raises LabelError unless there are exactly two classes.
    """
    check_classification_targets(y)
    kind = type_of_target(y, input_name="y", raise_unknown=True)
    if kind != "binary":
        raise LabelError("Only binary classification is supported. The type of the target is "
                         f"{kind}; label traces 1 (valid) or 0 (invalid).")
    classes, target = np.unique(y, return_inverse=True)
    if classes.size < 2:
        raise LabelError(f"the training labels hold one class only, {classes[0]!r}; "
                         "a classifier needs valid and invalid traces")
    return classes, target.astype(np.float64)


def class_factors(class_weight: str | Mapping[Any, float] | None, classes: NDArray[Any],
                  target: Array, weights: Array) -> Array:
    """(N,) the factor of each row's class in the loss."""
    if class_weight is None:
        return np.ones(target.size)
    share = np.array([weights[target == 0].sum(), weights[target == 1].sum()])
    if isinstance(class_weight, str):
        require(class_weight == "balanced",
                f"class_weight must be None, 'balanced' or a dict, got {class_weight!r}")
        factors: Array = share.sum() / (2 * share)
    else:
        factors = np.array([class_weight.get(label, 1.0) for label in classes.tolist()], float)
    require(bool((factors > 0).all()), f"class weights must be positive, got {class_weight!r}")
    return factors[target.astype(np.intp)]


def require(condition: bool, message: str) -> None:
    """Raise ParameterError with ``message`` unless ``condition`` holds."""
    if not condition:
        raise ParameterError(message)
