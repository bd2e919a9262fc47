"""Every error a user can meet: what was expected, what was got, what to do.

All derive from :class:`ValidatorError`, so a program can catch the family and the command line can
turn it into exit code 1 without a traceback.
"""

from __future__ import annotations

__all__ = [
    "ArtifactError",
    "CalibrationWarning",
    "ContextLengthError",
    "DamagedShardError",
    "EndpointError",
    "FeatureMismatchError",
    "HarnessError",
    "LabelError",
    "MalformedTraceError",
    "ModelError",
    "ModelIntegrityError",
    "NoAttentionError",
    "ParameterError",
    "ScoreError",
    "StoreError",
    "StoreWarning",
    "TraceError",
    "UnknownModelError",
    "ValidatorError",
    "ValidatorWarning",
]


class ValidatorError(Exception):
    """Base class of every error this package raises on purpose."""


class ValidatorWarning(UserWarning):
    """Base class of every warning this package gives: the result stands, with what is said."""


class TraceError(ValidatorError):
    """A trace that cannot be read or scored; the message names it."""

    def __init__(self, message: str, *, trace_id: str | None = None) -> None:
        super().__init__(message)
        self.trace_id = trace_id


class MalformedTraceError(TraceError):
    """A line of a trace file that is not a trace: names the file, the line and the reason."""

    def __init__(self, path: str, line: int, reason: str) -> None:
        super().__init__(f"{path}, line {line}: {reason}")
        self.path, self.line, self.reason = path, line, reason


class ContextLengthError(TraceError):
    """A trace with more tokens than the model has positions for."""


class LabelError(ValidatorError, ValueError):
    """Labels that cannot train or judge a classifier: missing, or all of one class."""


class ScoreError(ValidatorError, ValueError):
    """Scores no statistic can be computed from: NaN, out of range, or not one for each label."""


class ParameterError(ValidatorError, ValueError):
    """An argument or hyperparameter outside the values it may take."""


class ModelError(ValidatorError):
    """A language model that cannot be used."""


class UnknownModelError(ModelError):
    """A name that is no known model, no local folder and no reachable hub id."""


class ModelIntegrityError(ModelError):
    """A model file whose checksum or behaviour is not the one that was recorded."""


class NoAttentionError(ModelError):
    """A model in which no attention weights were seen: it has none, or hides them."""


class FeatureMismatchError(ValidatorError):
    """Features that do not belong together: other columns, model, feature set or version."""


class ArtifactError(ValidatorError):
    """A saved classifier that is corrupted, incomplete, or not one of ours."""


class HarnessError(ValidatorError):
    """An lm-evaluation-harness task, installation or output that is not as it must be."""


class EndpointError(ValidatorError):
    """A completions server that is not reached, refuses, or answers what cannot be read."""


class StoreError(ValidatorError):
    """A store of features or trials that cannot be read, written or trusted."""


class DamagedShardError(StoreError):
    """A shard whose bytes are not those that were written: its rows have to be computed again."""


class StoreWarning(ValidatorWarning):
    """Rows of a feature store that are gone, or that were computed twice with different values."""


class CalibrationWarning(ValidatorWarning):
    """Margins that do not rank unseen traces, so that calibration gives all the same P(valid)."""
