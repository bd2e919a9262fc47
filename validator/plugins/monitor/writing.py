"""One answer, written under the monitor's eyes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from validator.features.encoding import encode_trace
from validator.plugins.monitor.monitor import ValidityMonitor
from validator.training.decoding import Drawing, Sampling
from validator.types import Trace

__all__ = ["WatchedAnswer", "write_watched"]


@dataclass(frozen=True)
class WatchedAnswer:
    """What was written, and what was thought of it last."""

    text: str
    tokens: int
    """Drawn, the one that ended it included."""
    finished: bool
    """False where it was stopped, or the token limit cut it off."""
    stopped: bool
    """By the monitor."""
    score: float | None
    mean_logprob: float | None
    """Of the tokens that were scored, nats."""

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def write_watched(
    monitor: ValidityMonitor, prompt: str, *, max_new_tokens: int = 64, temperature: float = 0.6,
    top_p: float = 1.0, seed: int = 0, stop: Sequence[str] = (),
) -> WatchedAnswer:
    """Have the monitor's model continue a prompt; the monitor's callbacks tell as it goes.

    Args:
        monitor: its model writes.
        prompt: what is continued; nothing is inserted.
        max_new_tokens: most tokens.
        temperature: 0 is greedy.
        top_p: of nucleus sampling.
        seed: of the drawing.
        stop: strings that end the answer; not part of it.

    Raises:
        ParameterError: settings out of range.
        TraceError: a prompt without tokens.
        ContextLengthError: a prompt that leaves no room.
    """
    monitor.prepare()
    sampling = Sampling(1, temperature, top_p, max_new_tokens, seed)
    drawing = Drawing(monitor.model_, monitor.tokenizer_, sampling, stop)
    encoded = encode_trace(Trace("prompt", "prompt", prompt, "."), monitor.tokenizer_, None)
    ids = encoded.ids[: encoded.prompt_length]
    drawing.require_room(len(ids))
    shown = torch.tensor([list(ids)], device=monitor.model_.device)
    with monitor.attached():
        drawn = drawing.draw(shown, None, drawing.seed([ids]), [monitor])
        found = drawing.continuation(drawn[0])
        if not found.finished:
            monitor.finish()
        likely = monitor.mean_logprob()
    own = monitor.sequences_[0]
    return WatchedAnswer(
        found.text, found.tokens, found.finished, own.stopped, own.score, likely)
