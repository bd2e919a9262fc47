"""spectral-validator: attention spectra of a language model, read as an audited validity score.

The names below are the public API. Those that need PyTorch are imported when first used, so that
``import validator`` and ``validator --help`` stay quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from validator.classifier import ValidityClassifier, load_artifact, save_artifact
    from validator.errors import ValidatorError
    from validator.features.extractor import SpectralFeatureExtractor
    from validator.features.table import read_features, write_features
    from validator.plugins.rerank.generate import generate_best_of_n
    from validator.plugins.rerank.stream import rerank
    from validator.scoring import Validator
    from validator.training.comparison import compare
    from validator.training.datasets import load_traces, write_traces
    from validator.training.evaluate import cross_validate
    from validator.types import FeatureMatrix, Trace, ValidityScore

__all__ = [
    "FeatureMatrix",
    "SpectralFeatureExtractor",
    "Trace",
    "Validator",
    "ValidatorError",
    "ValidityClassifier",
    "ValidityScore",
    "compare",
    "cross_validate",
    "generate_best_of_n",
    "load_artifact",
    "load_traces",
    "read_features",
    "rerank",
    "save_artifact",
    "write_features",
    "write_traces",
]

__version__ = "0.1.0.dev0"

_HOMES = {
    "FeatureMatrix": "types",
    "SpectralFeatureExtractor": "features.extractor",
    "Trace": "types",
    "Validator": "scoring",
    "ValidatorError": "errors",
    "ValidityClassifier": "classifier",
    "ValidityScore": "types",
    "compare": "training.comparison",
    "cross_validate": "training.evaluate",
    "generate_best_of_n": "plugins.rerank.generate",
    "load_artifact": "classifier",
    "load_traces": "training.datasets",
    "read_features": "features.table",
    "rerank": "plugins.rerank.stream",
    "save_artifact": "classifier",
    "write_features": "features.table",
    "write_traces": "training.datasets",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'validator' has no attribute {name!r}")
    return getattr(importlib.import_module(f"validator.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
