"""Boosted trees from pieces of features that need not fit in memory together.

XGBoost's external memory: each piece is binned as it comes, the bins (a byte for each value) lie in
a folder, and are read back page by page for every level of a tree. Where the pieces are those of a
matrix, the bins and so the trees are those of :class:`ValidityClassifier` on the matrix, up to the
rounding of sums: quantiles are exact while a column's sketch holds its values, and close beyond.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import xgboost
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.utils import check_random_state

from validator.classifier.boosting import (
    MAX_BIN,
    BoostedHead,
    booster_parameters,
    thread_count,
)
from validator.classifier.estimator import DEFAULTS, ValidityClassifier
from validator.classifier.targets import binary_target, class_factors, require
from validator.metrics.inputs import as_groups

__all__ = ["fit_pieces"]

Pieces = Callable[[], Iterable[NDArray[np.float32]]]
"""Gives (n, F) pieces of the rows in order, NaN allowed, each time it is called."""

ELSEWHERE = ("n_features", "n_components", "calibration", "early_stopping_rounds")
"""What has to see all rows at once."""


def fit_pieces(classifier: ValidityClassifier, pieces: Pieces, y: NDArray[Any],
               groups: NDArray[Any], *, cache: Path | None = None) -> ValidityClassifier:
    """A fitted copy of an unfitted classifier of kind ``xgboost``; saved and used as any other.

    Args:
        classifier: without what has to see all rows at once: a selection of columns, components,
            a calibration, early stopping.
        pieces: of N rows; called several times.
        y: (N,) labels of two classes.
        groups: (N,) problem ids.
        cache: folder with space for N x F bytes, which are removed in the end [the system's].

    Raises:
        LabelError: labels that are not of two classes.
        ParameterError: another kind, what has to see all rows at once, or pieces of other rows than
            there are labels.
    """
    require(classifier.kind == "xgboost",
            f"only trees are fitted piece by piece, got kind {classifier.kind!r}; give 'xgboost'")
    given = [name for name in ELSEWHERE if getattr(classifier, name) is not None]
    require(not given, f"{', '.join(given)}: not possible piece by piece; leave it out")
    fitted: ValidityClassifier = clone(classifier)
    fitted.classes_, target = binary_target(np.asarray(y))
    fitted.n_groups_ = int(np.unique(as_groups(groups, target.size)[1]).size)
    weights = class_factors(fitted.class_weight, fitted.classes_, target, np.ones(target.size))
    settings = {name: default if getattr(fitted, name) is None else getattr(fitted, name)
                for name, default in DEFAULTS["xgboost"].items()}
    fitted.n_iter_ = settings.pop("n_estimators")
    seed = int(check_random_state(fitted.random_state).randint(2**31 - 1))
    threads = thread_count(fitted.n_jobs)
    parameters = booster_parameters(target, weights, seed, threads) | settings
    with TemporaryDirectory(dir=cache) as folder:
        source = _Source(f"{folder}/bins", pieces, target, weights)
        data = xgboost.ExtMemQuantileDMatrix(source, max_bin=MAX_BIN, nthread=threads)
        require(int(data.num_row()) == target.size,
                f"the pieces have {data.num_row()} rows, and there are {target.size} labels")
        booster = xgboost.train(parameters, data, num_boost_round=fitted.n_iter_)
        fitted.n_features_in_ = int(data.num_col())
        del data, source  # closes its files before the folder goes
    fitted.head_ = BoostedHead(booster, threads)
    fitted.columns_ = fitted.design_ = fitted.calibrator_ = None
    return fitted


class _Source(xgboost.DataIter):  # type: ignore[misc]
    """Hands pieces with their labels and weights to XGBoost."""

    def __init__(self, cache: str, pieces: Pieces, target: NDArray[np.float64],
                 weights: NDArray[np.float64]) -> None:
        self._pieces, self._target, self._weights = pieces, target, weights
        self._rest: Iterator[NDArray[np.float32]] = iter(())
        self._row = 0
        super().__init__(cache_prefix=cache)

    def reset(self) -> None:
        """Begin with the first piece."""
        self._rest, self._row = iter(self._pieces()), 0

    def next(self, input_data: Any) -> bool:
        """Hand over the next piece; False where there is none."""
        piece = next(self._rest, None)
        if piece is None:
            return False
        rows = slice(self._row, self._row + len(piece))
        input_data(data=piece, label=self._target[rows], weight=self._weights[rows])
        self._row = rows.stop
        return True
