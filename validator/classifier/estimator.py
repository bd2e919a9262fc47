"""ValidityClassifier: one scikit-learn estimator over three kinds of model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from validator.classifier.boosting import BoostedHead, fit_boosted
from validator.classifier.design import Design, fit_design
from validator.classifier.logistic import LinearHead, fit_linear
from validator.classifier.network import NetworkHead, fit_network
from validator.errors import LabelError, ParameterError
from validator.metrics.inputs import as_groups

__all__ = ["DEFAULTS", "KINDS", "ValidityClassifier"]

Array = NDArray[np.float64]

KINDS = ("logistic", "xgboost", "mlp")

DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "logistic": {"max_iter": 100},
    "xgboost": {"n_estimators": 200, "max_depth": 3, "learning_rate": 0.1, "subsample": 1.0,
                "colsample_bytree": 0.2},
    "mlp": {"hidden_layer_sizes": (16,), "max_iter": 1000},
}
"""What None stands for, by kind; ``C`` and ``alpha`` depend on the number of columns."""

LOGIT_VARIANCE = 10.0
"""Prior variance of a logit under the default ``C``; the same penalty is the default ``alpha``."""


class ValidityClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """P(valid) from features: logistic regression, boosted trees or a small network.

    Features may be NaN ("undefined on this span"). Trees take NaN as it is. The other kinds, and
    any kind with ``n_components``, put the training median in its place and add a 0 / 1 column for
    each feature that had gaps in training, then standardise; a NaN at prediction in a feature
    without gaps in training is the median alone. The classes are binary; the positive class is the
    larger label, ``classes_[1]``: 1, valid.

    A hyperparameter left None takes the kind's value in brackets; those of other kinds are ignored.

    Parameters
    ----------
    kind : "logistic", "xgboost" or "mlp"
    C : float > 0, logistic: inverse strength of the L2 penalty on standardised columns
        [10 / number of columns, i.e. a prior logit variance of 10 however many columns there are].
    max_iter : int, logistic [100] and mlp [1000].
    n_estimators, max_depth, learning_rate, subsample, colsample_bytree : xgboost
        [200, 3, 0.1, 1.0, 0.2].
    hidden_layer_sizes : tuple of int, mlp [(16,)].
    alpha : float >= 0, mlp: strength of the L2 penalty beside the summed loss
        [number of columns / 10, the penalty of the logistic default].
    n_components : int, principal components kept of the standardised columns [all columns].
    class_weight : None, "balanced" (classes weigh the same in the loss) or a dict label -> weight.
    n_jobs : int, threads of xgboost [1], -1 for all; the other kinds follow the BLAS library.
    random_state : int, RandomState or None. An int is needed to save the classifier.

    Attributes
    ----------
    classes_ (2,), n_features_in_, feature_names_in_ where the columns were named, n_iter_ (Newton
    or L-BFGS steps, or trees), n_groups_ (problems seen, or rows if none were given), design_ (None
    where features are used raw) and head_: plain arrays or a Booster, all that prediction reads.
    """

    def __init__(
        self,
        kind: str = "logistic",
        *,
        C: float | None = None,
        max_iter: int | None = None,
        n_estimators: int | None = None,
        max_depth: int | None = None,
        learning_rate: float | None = None,
        subsample: float | None = None,
        colsample_bytree: float | None = None,
        hidden_layer_sizes: tuple[int, ...] | None = None,
        alpha: float | None = None,
        n_components: int | None = None,
        class_weight: str | Mapping[Any, float] | None = None,
        n_jobs: int | None = None,
        random_state: int | np.random.RandomState | None = 0,
    ) -> None:
        self.kind = kind
        self.C = C
        self.max_iter = max_iter
        self.n_estimators = n_estimators
        self.max_depth = max_depth
        self.learning_rate = learning_rate
        self.subsample = subsample
        self.colsample_bytree = colsample_bytree
        self.hidden_layer_sizes = hidden_layer_sizes
        self.alpha = alpha
        self.n_components = n_components
        self.class_weight = class_weight
        self.n_jobs = n_jobs
        self.random_state = random_state

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        tags.input_tags.allow_nan = True
        return tags

    def fit(self, X: ArrayLike, y: ArrayLike, groups: Sequence[Any] | NDArray[Any] | None = None,
            sample_weight: ArrayLike | None = None) -> ValidityClassifier:
        """Fit to (N, F) features, NaN allowed, and (N,) labels of two classes.

        ``groups`` (N,) are problem ids: they are counted, and are what a step that splits inside
        the training set must split by. ``sample_weight`` (N,) not negative; k is k copies of a row.
        Raises LabelError for labels that are not of two classes, ParameterError for a
        hyperparameter out of range, ValueError for inputs scikit-learn's contract refuses.
        """
        if self.kind not in KINDS:
            raise ParameterError(f"kind must be one of {', '.join(KINDS)}, got {self.kind!r}")
        checked, y = validate_data(self, X, y, dtype=np.float64, ensure_all_finite="allow-nan")
        rows: Array = np.asarray(checked)
        weights = _sample_weights(sample_weight, rows)
        keep = weights > 0
        groups = np.arange(keep.size) if groups is None else groups
        self.n_groups_ = int(np.unique(as_groups(groups, keep.size)[1][keep]).size)
        self.classes_, target = _binary(np.asarray(y)[keep])
        rows, weights = rows[keep], weights[keep]
        raw = self.kind == "xgboost" and self.n_components is None
        self.design_: Design | None = None if raw else fit_design(rows, weights, self.n_components)
        Z = rows if self.design_ is None else self.design_.transform(rows)
        loss_weights = weights * _class_weights(self.class_weight, self.classes_, target, weights)
        self.head_, self.n_iter_ = self._fit_head(Z, target, loss_weights)
        return self

    def decision_function(self, X: ArrayLike) -> Array:
        """(N, F) features -> (N,) log-odds of the positive class."""
        check_is_fitted(self)
        rows: Array = np.asarray(validate_data(self, X, reset=False, dtype=np.float64,
                                               ensure_all_finite="allow-nan"))
        return self.head_.margin(rows if self.design_ is None else self.design_.transform(rows))

    def predict_proba(self, X: ArrayLike) -> Array:
        """(N, F) features -> (N, 2) probabilities in the order of ``classes_``, rows sum to 1."""
        margin = self.decision_function(X)
        return np.exp(-np.logaddexp(0, np.stack([margin, -margin], axis=1)))

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """(N, F) features -> (N,) the likelier class; even odds give the negative one."""
        positive = self.decision_function(X) > 0
        return self.classes_[positive.astype(np.intp)]

    def _fit_head(self, Z: Array, y: Array, weights: Array
                  ) -> tuple[LinearHead | BoostedHead | NetworkHead, int]:
        chosen = {name: default if getattr(self, name) is None else getattr(self, name)
                  for name, default in DEFAULTS[self.kind].items()}
        columns = Z.shape[1] if self.design_ is None else self.design_.center.size
        if self.kind == "logistic":
            C = LOGIT_VARIANCE / columns if self.C is None else self.C
            _require(C > 0, f"C must be positive, got {C}")
            return fit_linear(Z, y, weights, C, **chosen)
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        if self.kind == "mlp":
            alpha = columns / LOGIT_VARIANCE if self.alpha is None else self.alpha
            _require(alpha >= 0, f"alpha must not be negative, got {alpha}")
            return fit_network(Z, y, weights, alpha=alpha, seed=seed, **chosen)
        threads = thread_count(self.n_jobs)
        return fit_boosted(Z, y, weights, seed=seed, threads=threads, **chosen)


def thread_count(n_jobs: int | None) -> int:
    """XGBoost's ``nthread`` for ``n_jobs``: None is 1, -1 is 0, which means all."""
    _require(n_jobs is None or n_jobs == -1 or n_jobs > 0,
             f"n_jobs must be None, -1 or positive, got {n_jobs}")
    return 1 if n_jobs is None else max(n_jobs, 0)


def _sample_weights(sample_weight: ArrayLike | None, X: Array) -> Array:
    weights: Array = _check_sample_weight(sample_weight, X, dtype=np.float64)
    _require(bool((weights >= 0).all()) and bool((weights > 0).any()),
             "sample_weight must not be negative, and not be zero for every row")
    return weights


def _binary(y: NDArray[Any]) -> tuple[NDArray[Any], Array]:
    """(N,) labels -> (the two classes ascending, 0.0 / 1.0 for each row)."""
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


def _class_weights(class_weight: str | Mapping[Any, float] | None, classes: NDArray[Any],
                   target: Array, weights: Array) -> Array:
    """(N,) the factor of each row's class in the loss."""
    if class_weight is None:
        return np.ones(target.size)
    share = np.array([weights[target == 0].sum(), weights[target == 1].sum()])
    if isinstance(class_weight, str):
        _require(class_weight == "balanced",
                 f"class_weight must be None, 'balanced' or a dict, got {class_weight!r}")
        factors: Array = share.sum() / (2 * share)
    else:
        factors = np.array([class_weight.get(label, 1.0) for label in classes.tolist()], float)
    _require(bool((factors > 0).all()), f"class weights must be positive, got {class_weight!r}")
    return factors[target.astype(np.intp)]


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ParameterError(message)
