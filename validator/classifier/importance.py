"""Which features moved a score, and by how much: exact Shapley values of the margin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from validator.classifier.boosting import BoostedHead
from validator.classifier.design import Design
from validator.classifier.estimator import ValidityClassifier
from validator.classifier.logistic import LinearHead
from validator.classifier.model import Inputs
from validator.errors import FeatureMismatchError, ParameterError

__all__ = ["FeatureImportance", "shap_values", "top_features"]

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class FeatureImportance:
    """What one feature does to the scores of a set of traces."""

    name: str
    mean_abs: float
    """Mean |contribution| in log-odds."""
    direction: float
    """Correlation of the feature's value with its contribution, in [-1, 1], over the traces in
    which it is defined; positive: more of it speaks for valid. 0 where either does not vary."""


def shap_values(classifier: ValidityClassifier, X: ArrayLike) -> tuple[Array, float]:
    """Contributions (N, F) of each feature to the log-odds of (N, F) features, and the bias.

    A row's contributions and the bias add up to ``classifier.margin(X)``, the log-odds before
    calibration: to rounding for ``logistic``, to float32 rounding for ``xgboost``. A feature that
    was not selected contributes 0.

    - ``xgboost``: path-dependent TreeSHAP (Lundberg et al. 2020).
    - ``logistic``: coefficient x (column - its training mean), the Shapley values of independent
      features (Lundberg and Lee 2017, Corollary 1), taken through principal components and
      standardisation back to the feature; the gap indicator's share belongs to its feature. The
      bias is the log-odds of a trace in which every column has its training mean.

    Raises ParameterError for ``mlp``, whose Shapley values have no closed form, and for trees on
    principal components, which share each component among all features.
    """
    rows = classifier.check_features(X)
    inputs, head = Inputs(classifier.columns_, classifier.design_), classifier.head_
    selected = inputs.select(rows)
    if isinstance(head, BoostedHead) and inputs.design is None:
        values, bias = head.contributions(selected)
    elif isinstance(head, LinearHead) and inputs.design is not None:
        values, bias = _linear(head, inputs.design, selected), head.intercept
    else:
        raise ParameterError(
            f"expected kind 'logistic', or 'xgboost' without n_components, got {classifier.kind!r} "
            f"with n_components={classifier.n_components}, which has no exact contributions of "
            "features; fit one of those kinds to explain scores")
    if inputs.columns is None:
        return values, bias
    contributions = np.zeros(rows.shape)
    contributions[:, inputs.columns] = values
    return contributions, bias


def _linear(head: LinearHead, design: Design, X: Array) -> Array:
    coef = head.coef if design.components is None else head.coef @ design.components
    columns = design.standardise(X) * coef
    values = columns[:, :X.shape[1]]
    values[:, design.gaps] += columns[:, X.shape[1]:]
    return values


def top_features(classifier: ValidityClassifier, X: ArrayLike, names: Sequence[str], k: int = 10
                 ) -> list[FeatureImportance]:
    """The ``k`` features, or all if they are fewer, that moved the scores of (N, F) features most.

    By descending mean |contribution|, ties by column order. ``names`` (F,).
    Raises FeatureMismatchError for another number of names, ParameterError for ``k`` < 1 and
    where :func:`shap_values` does.
    """
    if k < 1:
        raise ParameterError(f"k must be at least 1, got {k}")
    values, _ = shap_values(classifier, X)
    if len(names) != values.shape[1]:
        raise FeatureMismatchError(f"expected {values.shape[1]} feature names, one for each "
                                   f"column, got {len(names)}")
    size = np.abs(values).mean(axis=0)
    rows = classifier.check_features(X)
    return [FeatureImportance(names[i], float(size[i]), _direction(rows[:, i], values[:, i]))
            for i in np.argsort(-size, kind="stable")[:k]]


def _direction(feature: Array, contribution: Array) -> float:
    """Correlation over the rows where ``feature`` (N,) is defined; 0 where one is constant."""
    defined = ~np.isnan(feature)
    pair = np.stack([feature[defined], contribution[defined]])
    if pair.shape[1] == 0 or (np.ptp(pair, axis=1) == 0).any():
        return 0.0
    # in units of the spread, so that no square overflows or vanishes
    u, v = (pair - pair.mean(axis=1, keepdims=True)) / np.ptp(pair, axis=1, keepdims=True)
    return float(np.clip(u @ v / np.sqrt((u @ u) * (v @ v)), -1.0, 1.0))
