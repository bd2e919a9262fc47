"""One sequence that is being written: its tokens, its text, its scores so far."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from validator.plugins.monitor.events import StepSeen

__all__ = ["Written"]

UNFINISHED = "\ufffd"
"""What a tokenizer writes for the bytes of a character that is not whole yet."""


@dataclass
class Written:
    """Filled by the monitor; ``number`` is its place among those that were begun together."""

    number: int
    tokens: list[int] = field(default_factory=list)
    """Those whose attention row has been read."""
    scores: dict[int, float] = field(default_factory=dict)
    """Number of tokens -> the score of so many tokens."""
    text: str = ""
    ended: bool = False
    """It drew a token that ends it."""
    stopped: bool = False
    """The monitor stopped it."""
    told: bool = False
    """Its anomaly has been told."""
    steps: int = 0
    step_start: int = 0
    """Where the step that is being written begins in the text."""

    @property
    def live(self) -> bool:
        """Whether it goes on."""
        return not (self.ended or self.stopped)

    @property
    def score(self) -> float | None:
        """The last one."""
        return next(reversed(self.scores.values()), None)

    def score_of(self, count: int) -> float | None:
        """The last score of no more than so many tokens."""
        known = [k for k in self.scores if k <= count]
        return self.scores[max(known)] if known else None

    def add_text(self, decode: Callable[[list[int]], str]) -> str:
        """What the last token adds to the text."""
        whole = decode(self.tokens)
        if whole.endswith(UNFINISHED) or not whole.startswith(self.text):
            return ""
        piece, self.text = whole[len(self.text) :], whole
        return piece

    def finished_step(self, end: str) -> StepSeen | None:
        """The step that the last token ended, if it did; its text without the end."""
        place = self.text.find(end, self.step_start)
        if place < 0:
            return None
        text = self.text[self.step_start : place]
        self.step_start = place + len(end)
        if not text.strip():
            return None
        self.steps += 1
        return StepSeen(self.number, self.steps - 1, text, len(self.tokens) - 1, self.score)
