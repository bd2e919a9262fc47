"""scikit-learn's own checks of an estimator, all of them, for each kind."""

from typing import Any

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from validator.classifier import ValidityClassifier

ESTIMATORS = [ValidityClassifier(kind) for kind in ("logistic", "xgboost", "mlp")]


@parametrize_with_checks(ESTIMATORS)
def test_scikit_learn_contract(estimator: ValidityClassifier, check: Any) -> None:
    check(estimator)


@pytest.mark.parametrize("kind", ["logistic", "xgboost", "mlp"])
def test_the_contract_covers_weights_and_missing_values(kind: str) -> None:
    tags = ValidityClassifier(kind).__sklearn_tags__()
    assert tags.input_tags.allow_nan
    assert not tags.classifier_tags.multi_class
