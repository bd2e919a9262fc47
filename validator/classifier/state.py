"""A fitted classifier as JSON values and back, without losing a bit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from validator.classifier.boosting import BoostedHead
from validator.classifier.design import Design
from validator.classifier.estimator import ValidityClassifier, thread_count
from validator.classifier.logistic import LinearHead
from validator.classifier.network import NetworkHead
from validator.errors import ArtifactError

__all__ = ["decode_classifier", "encode_classifier", "encode_parameters"]

Head = LinearHead | NetworkHead | BoostedHead


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
    design = classifier.design_
    return {
        "parameters": encode_parameters(classifier),
        "classes": classifier.classes_.tolist(),
        "n_features_in": classifier.n_features_in_,
        "feature_names_in": None if names is None else names.tolist(),
        "n_iter": classifier.n_iter_,
        "n_groups": classifier.n_groups_,
        "design": None if design is None else {
            "median": _encode(design.median),
            "gaps": design.gaps.tolist(),
            "center": _encode(design.center),
            "scale": _encode(design.scale),
            "components": None if design.components is None else _encode(design.components),
        },
        "head": _encode_head(classifier.head_),
    }


def decode_classifier(state: Mapping[str, Any]) -> ValidityClassifier:
    """A fitted classifier from :func:`encode_classifier`'s value, whose hash has been checked."""
    parameters = {name: _decode_parameter(v) for name, v in state["parameters"].items()}
    classifier = ValidityClassifier(**parameters)
    classifier.classes_ = np.array(state["classes"])
    classifier.n_features_in_ = state["n_features_in"]
    if state["feature_names_in"] is not None:
        classifier.feature_names_in_ = np.array(state["feature_names_in"], dtype=object)
    classifier.n_iter_, classifier.n_groups_ = state["n_iter"], state["n_groups"]
    design = state["design"]
    classifier.design_ = None if design is None else Design(
        median=_decode(design["median"]),
        gaps=np.array(design["gaps"], dtype=np.int64),
        center=_decode(design["center"]),
        scale=_decode(design["scale"]),
        components=None if design["components"] is None else _decode(design["components"]),
    )
    classifier.head_ = _decode_head(state["head"], thread_count(classifier.n_jobs))
    return classifier


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
