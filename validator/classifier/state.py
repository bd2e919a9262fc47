"""A fitted classifier as JSON values and back, without losing a bit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from validator.classifier.boosting import BoostedHead, thread_count
from validator.classifier.calibration import Calibrator, IsotonicCalibrator, SigmoidCalibrator
from validator.classifier.design import Design
from validator.classifier.estimator import ValidityClassifier
from validator.classifier.logistic import LinearHead
from validator.classifier.model import Head
from validator.classifier.network import NetworkHead
from validator.errors import ArtifactError

__all__ = ["decode_classifier", "encode_classifier", "encode_parameters"]


def encode_parameters(classifier: ValidityClassifier) -> dict[str, Any]:
    """Constructor arguments as JSON values. Raises ArtifactError for one that has no JSON form."""
    return {name: _parameter(name, value) for name, value in classifier.get_params().items()}


def _parameter(name: str, value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Mapping):  # JSON keys are strings, labels may be integers
        return {"pairs": [[_parameter(name, item) for item in pair] for pair in value.items()]}
    if isinstance(value, list | tuple):
        return [_parameter(name, item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ArtifactError(f"parameter {name} = {value!r} cannot be written as JSON; "
                        "fit with a plain value, e.g. random_state=0")


def _decode_parameter(value: Any) -> Any:
    if isinstance(value, dict):
        return dict(value["pairs"])
    return tuple(value) if isinstance(value, list) else value


def encode_classifier(classifier: ValidityClassifier) -> dict[str, Any]:
    """Everything :func:`decode_classifier` needs to predict the same bits."""
    names = getattr(classifier, "feature_names_in_", None)
    state = {
        "parameters": encode_parameters(classifier),
        "classes": classifier.classes_.tolist(),
        "n_features_in": classifier.n_features_in_,
        "feature_names_in": None if names is None else names.tolist(),
        "n_iter": classifier.n_iter_,
        "n_groups": classifier.n_groups_,
        "design": _encode_design(classifier.design_),
        "head": _encode_head(classifier.head_),
    }
    # named only where there is one: a classifier without is written as it always was
    if classifier.columns_ is not None:
        state["columns"] = classifier.columns_.tolist()
    if classifier.calibrator_ is not None:
        state["calibrator"] = _encode_calibrator(classifier.calibrator_)
    return state


def decode_classifier(state: Mapping[str, Any]) -> ValidityClassifier:
    """A fitted classifier from :func:`encode_classifier`'s value, whose hash has been checked."""
    parameters = {name: _decode_parameter(v) for name, v in state["parameters"].items()}
    classifier = ValidityClassifier(**parameters)
    classifier.classes_ = np.array(state["classes"])
    classifier.n_features_in_ = state["n_features_in"]
    if state["feature_names_in"] is not None:
        classifier.feature_names_in_ = np.array(state["feature_names_in"], dtype=object)
    classifier.n_iter_, classifier.n_groups_ = state["n_iter"], state["n_groups"]
    columns = state.get("columns")
    classifier.columns_ = None if columns is None else np.array(columns, dtype=np.int64)
    classifier.design_ = _decode_design(state["design"])
    classifier.head_ = _decode_head(state["head"], thread_count(classifier.n_jobs))
    classifier.calibrator_ = _decode_calibrator(state.get("calibrator"))
    return classifier


def _encode_design(design: Design | None) -> dict[str, Any] | None:
    return None if design is None else {
        "median": _encode(design.median),
        "gaps": design.gaps.tolist(),
        "center": _encode(design.center),
        "scale": _encode(design.scale),
        "components": None if design.components is None else _encode(design.components),
    }


def _decode_design(state: Mapping[str, Any] | None) -> Design | None:
    return None if state is None else Design(
        median=_decode(state["median"]),
        gaps=np.array(state["gaps"], dtype=np.int64),
        center=_decode(state["center"]),
        scale=_decode(state["scale"]),
        components=None if state["components"] is None else _decode(state["components"]),
    )


def _encode_calibrator(calibrator: Calibrator) -> dict[str, Any]:
    if isinstance(calibrator, SigmoidCalibrator):
        return {"intercept": calibrator.intercept, "slope": calibrator.slope}
    return {"margins": _encode(calibrator.margins),
            "probabilities": _encode(calibrator.probabilities)}


def _decode_calibrator(state: Mapping[str, Any] | None) -> Calibrator | None:
    if state is None:
        return None
    if "slope" in state:
        return SigmoidCalibrator(state["intercept"], state["slope"])
    return IsotonicCalibrator(_decode(state["margins"]), _decode(state["probabilities"]))


def _encode_head(head: Head) -> dict[str, Any]:
    if isinstance(head, LinearHead):
        return {"coef": _encode(head.coef), "intercept": head.intercept}
    if isinstance(head, NetworkHead):
        return {"weights": [_encode(W) for W in head.weights],
                "biases": [_encode(bias) for bias in head.biases]}
    return {"booster": head.to_json()}


def _decode_head(state: Mapping[str, Any], threads: int) -> Head:
    if "coef" in state:
        return LinearHead(_decode(state["coef"]), state["intercept"])
    if "weights" in state:
        return NetworkHead(tuple(map(_decode, state["weights"])),
                           tuple(map(_decode, state["biases"])))
    return BoostedHead.from_json(state["booster"], threads)


def _encode(array: NDArray[np.float64]) -> dict[str, Any]:
    return {"shape": list(array.shape), "data": array.ravel().tolist()}


def _decode(state: Mapping[str, Any]) -> NDArray[np.float64]:
    return np.array(state["data"], dtype=np.float64).reshape(state["shape"])
