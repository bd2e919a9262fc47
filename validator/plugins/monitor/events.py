"""What the monitor tells while a model writes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["Anomaly", "StepSeen", "TokenSeen"]


@dataclass(frozen=True, slots=True)
class TokenSeen:
    """One token, once its attention row is there: one decoding step after it was drawn."""

    sequence: int
    """Which of the sequences that are written together."""
    index: int
    """0 for the first token of the completion."""
    token: int
    text: str
    """What the token adds to the text; empty while a character is not finished."""
    surprisal: float
    """-log p(token) under the model's own logits, nats."""
    entropy: float
    """Of the distribution that the token was drawn from, before temperature, nats."""
    score: float | None
    """The running score of the tokens up to this one: P(valid so far) with an artifact, on the
    score's own scale without; None where none was formed."""

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {"event": "token", **asdict(self)}


@dataclass(frozen=True, slots=True)
class StepSeen:
    """One step: the text between two ends of lines."""

    sequence: int
    number: int
    """0 for the first step."""
    text: str
    last: int
    """Index of its last token."""
    score: float | None
    """Of the tokens up to its last."""

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {"event": "step", **asdict(self)}


@dataclass(frozen=True, slots=True)
class Anomaly:
    """The score of a sequence fell below the threshold; told once for each sequence."""

    sequence: int
    index: int
    score: float
    threshold: float
    baselines: Mapping[str, float]
    """Of the tokens so far, by name, beside which every score stands."""
    stopped: bool
    """Whether the sequence is stopped for it."""

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {"event": "anomaly", **asdict(self), "baselines": dict(self.baselines)}
