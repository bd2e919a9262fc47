"""ValidityClassifier: one scikit-learn estimator over three kinds of model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from validator.classifier.boosting import Labelled, best_tree_count, fit_boosted, thread_count
from validator.classifier.calibration import METHODS, Calibrator, fit_calibrator
from validator.classifier.crossfit import Fold, inner_folds, out_of_fold
from validator.classifier.logistic import fit_linear
from validator.classifier.model import Head, Inputs, fit_inputs
from validator.classifier.network import fit_network
from validator.classifier.targets import (
    TrainingRows,
    binary_target,
    class_factors,
    require,
    sample_weights,
)
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

    Hyperparameters left None take the kind's value in brackets; other kinds' are ignored. What is
    chosen inside ``fit`` is chosen on inner folds that never cut a problem.

    Parameters
    ----------
    kind : "logistic", "xgboost" or "mlp"
    C : float > 0, logistic: inverse strength of the L2 penalty on standardised columns
        [10 / number of columns, i.e. a prior logit variance of 10 however many columns there are].
    max_iter : int, logistic [100] and mlp [1000].
    n_estimators, max_depth, learning_rate, subsample, colsample_bytree : xgboost
        [200, 3, 0.1, 1.0, 0.2].
    early_stopping_rounds : int >= 1, xgboost: grow trees on the inner folds until the mean held-out
        log loss has not fallen for so many trees, ``n_estimators`` at most; the number with the
        least loss is then grown on all rows [no inner folds, ``n_estimators`` trees].
    hidden_layer_sizes : tuple of int, mlp [(16,)].
    alpha : float >= 0, mlp: strength of the L2 penalty beside the summed loss
        [number of columns / 10, the penalty of the logistic default].
    n_features : int, features kept before all else: those whose |AUROC - 1/2| on the training rows
        is largest, a NaN left out of its column's AUROC [all features].
    n_components : int, principal components kept of the standardised columns [all columns].
    calibration : None, "sigmoid" (Platt 1999) or "isotonic" (Zadrozny and Elkan 2002): fitted to
        margins of the inner folds' held-out rows, under models fitted like the final one (with its
        number of trees); the final model is fitted to all rows. Where those margins do not rank
        valid above invalid, all traces get the same P(valid), with a CalibrationWarning.
    calibration_folds : int >= 2, inner folds of the calibration and of the early stopping.
    class_weight : None, "balanced" (classes weigh the same in the loss) or a dict label -> weight.
        Multiplies ``sample_weight``, for the calibrator too: P(valid) is then that of traces of
        which so large a share is valid.
    n_jobs : int, threads of xgboost [1], -1 for all; the other kinds follow the BLAS library.
    random_state : int, RandomState or None. An int is needed to save the classifier.

    Attributes
    ----------
    classes_ (2,), n_features_in_, feature_names_in_ where the columns were named, n_iter_ (Newton
    or L-BFGS steps, or trees), n_groups_ (problems seen, or rows if none were given), columns_
    (indices of the selected features, None for all), design_ (None where features are used raw),
    head_ and calibrator_ (None without calibration): plain arrays or a Booster, all that prediction
    reads.
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
        n_features: int | None = None,
        calibration: str | None = None,
        calibration_folds: int = 5,
        early_stopping_rounds: int | None = None,
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
        self.n_features = n_features
        self.calibration = calibration
        self.calibration_folds = calibration_folds
        self.early_stopping_rounds = early_stopping_rounds
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

        ``groups`` (N,) are problem ids, which the inner folds never cut; without them each row is
        a problem of its own, copies of it included. ``sample_weight`` (N,) not negative; k is k
        copies of a row, in the folds, the calibrator and the selection too.
        Raises LabelError for labels that are not of two classes or too few for the inner folds,
        ParameterError for a hyperparameter out of range, ValueError for inputs scikit-learn's
        contract refuses.
        """
        require(self.kind in KINDS, f"kind must be one of {', '.join(KINDS)}, got {self.kind!r}")
        require(self.calibration in (None, *METHODS),
                f"calibration must be None or one of {', '.join(METHODS)}, "
                f"got {self.calibration!r}")
        data, problems = self._training_rows(X, y, groups, sample_weight)
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        settings = {name: default if getattr(self, name) is None else getattr(self, name)
                    for name, default in DEFAULTS[self.kind].items()}
        patience = self.early_stopping_rounds if self.kind == "xgboost" else None
        folds: list[Fold] = []
        if patience is not None or self.calibration is not None:
            folds = inner_folds(data.X, data.y, problems, self.calibration_folds, seed)
        if patience is not None:
            trees = self._tree_count(data, folds, settings, seed, patience)
            settings["n_estimators"] = trees
        self.calibrator_ = self._fit_calibrator(data, folds, settings, seed)
        inputs, self.head_, self.n_iter_ = self._fit_model(data, settings, seed)
        self.columns_, self.design_ = inputs.columns, inputs.design
        return self

    def check_features(self, X: ArrayLike) -> Array:
        """(N, F) features -> (N, F) float64 after the checks every prediction makes."""
        check_is_fitted(self)
        return np.asarray(validate_data(self, X, reset=False, dtype=np.float64,
                                        ensure_all_finite="allow-nan"))

    def margin(self, X: ArrayLike) -> Array:
        """(N, F) features -> (N,) log-odds of the positive class before calibration."""
        rows = self.check_features(X)
        return self.head_.margin(Inputs(self.columns_, self.design_).transform(rows))

    def decision_function(self, X: ArrayLike) -> Array:
        """(N, F) features -> (N,) log-odds of the positive class, calibrated if that was asked."""
        margin = self.margin(X)
        return margin if self.calibrator_ is None else self.calibrator_.log_odds(margin)

    def predict_proba(self, X: ArrayLike) -> Array:
        """(N, F) features -> (N, 2) probabilities in the order of ``classes_``, rows sum to 1."""
        margin = self.decision_function(X)
        return np.exp(-np.logaddexp(0, np.stack([margin, -margin], axis=1)))

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """(N, F) features -> (N,) the likelier class; even odds give the negative one."""
        positive = self.decision_function(X) > 0
        return self.classes_[positive.astype(np.intp)]

    def _training_rows(self, X: ArrayLike, y: ArrayLike,
                       groups: Sequence[Any] | NDArray[Any] | None,
                       sample_weight: ArrayLike | None
                       ) -> tuple[TrainingRows, NDArray[np.int64] | None]:
        """The rows of positive weight, and their problems where these are known."""
        checked, y = validate_data(self, X, y, dtype=np.float64, ensure_all_finite="allow-nan")
        rows: Array = np.asarray(checked)
        weights = sample_weights(sample_weight, rows)
        keep = weights > 0
        problems = None if groups is None else as_groups(groups, keep.size)[1][keep]
        self.n_groups_ = int(keep.sum() if problems is None else np.unique(problems).size)
        self.classes_, target = binary_target(np.asarray(y)[keep])
        rows, weights = rows[keep], weights[keep]
        loss = weights * class_factors(self.class_weight, self.classes_, target, weights)
        return TrainingRows(rows, target, weights, loss), problems

    def _fit_model(self, data: TrainingRows, settings: Mapping[str, Any], seed: int
                   ) -> tuple[Inputs, Head, int]:
        inputs = self._fit_inputs(data)
        Z = inputs.transform(data.X)
        columns = Z.shape[1] if inputs.design is None else inputs.design.center.size
        if self.kind == "logistic":
            C = LOGIT_VARIANCE / columns if self.C is None else self.C
            require(C > 0, f"C must be positive, got {C}")
            return inputs, *fit_linear(Z, data.y, data.loss, C, **settings)
        if self.kind == "mlp":
            alpha = columns / LOGIT_VARIANCE if self.alpha is None else self.alpha
            require(alpha >= 0, f"alpha must not be negative, got {alpha}")
            return inputs, *fit_network(Z, data.y, data.loss, alpha=alpha, seed=seed, **settings)
        threads = thread_count(self.n_jobs)
        return inputs, *fit_boosted(Z, data.y, data.loss, seed=seed, threads=threads, **settings)

    def _fit_inputs(self, data: TrainingRows) -> Inputs:
        raw = self.kind == "xgboost" and self.n_components is None
        return fit_inputs(data, n_features=self.n_features, n_components=self.n_components, raw=raw)

    def _fit_calibrator(self, data: TrainingRows, folds: Sequence[Fold],
                        settings: Mapping[str, Any], seed: int) -> Calibrator | None:
        if self.calibration is None:
            return None

        def part(train: NDArray[np.int64], test: NDArray[np.int64]) -> Array:
            inputs, head, _ = self._fit_model(data.take(train), settings, seed)
            return head.margin(inputs.transform(data.X[test]))

        return fit_calibrator(self.calibration, out_of_fold(folds, part), data.y, data.loss)

    def _tree_count(self, data: TrainingRows, folds: Sequence[Fold], settings: Mapping[str, Any],
                    seed: int, patience: int) -> int:
        def parts() -> Iterator[tuple[Labelled, Labelled]]:
            for fold in folds:
                train, test = map(data.take, fold)
                inputs = self._fit_inputs(train)
                yield ((inputs.transform(train.X), train.y, train.loss),
                       (inputs.transform(test.X), test.y, test.loss))

        return best_tree_count(parts(), patience=patience, seed=seed,
                               threads=thread_count(self.n_jobs), **settings)
