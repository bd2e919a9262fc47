"""scikit-learn's own checks of an estimator, all of them, for each kind and inner step."""

from typing import Any

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from validator.classifier import ValidityClassifier

INNER = [
    ValidityClassifier(calibration="sigmoid", calibration_folds=2),
    ValidityClassifier("xgboost", calibration="isotonic", calibration_folds=2, n_estimators=50),
    ValidityClassifier("xgboost", early_stopping_rounds=5, calibration_folds=2, n_estimators=50),
]
"""Those that split their training rows: by two, because some checks fit six rows."""

ESTIMATORS = [
    *(ValidityClassifier(kind) for kind in ("logistic", "xgboost", "mlp")),
    ValidityClassifier(n_features=1),  # one check fits a single column
    *INNER,
]


def expected_failures(estimator: ValidityClassifier) -> dict[str, str]:
    """By name of the check, the reason."""
    if repr(estimator) not in map(repr, INNER):
        return {}
    return {"check_sample_weight_equivalence_on_dense_data":
            "its rarer class is one row and copies of it, which no two inner folds can share; "
            "test_calibration.py and test_classifier_stopping.py test weights on data that splits"}


# the checks fit labels that have nothing to do with the features, which calibration says
@pytest.mark.filterwarnings("ignore::validator.errors.CalibrationWarning")
@parametrize_with_checks(ESTIMATORS, expected_failed_checks=expected_failures)
def test_scikit_learn_contract(estimator: ValidityClassifier, check: Any) -> None:
    check(estimator)


@pytest.mark.parametrize("kind", ["logistic", "xgboost", "mlp"])
def test_the_contract_covers_weights_and_missing_values(kind: str) -> None:
    tags = ValidityClassifier(kind).__sklearn_tags__()
    assert tags.input_tags.allow_nan
    assert not tags.classifier_tags.multi_class
