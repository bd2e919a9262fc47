"""N samples for less: those that look bad are stopped while they are written, and replaced.

The samples of a prompt are written together, a few tokens at a time. Between two rounds each is
scored; what falls below the threshold is dropped from the batch and from the cache, so that the
rounds after it cost less, and not only count less.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from validator.errors import ParameterError
from validator.features.encoding import encode_trace
from validator.plugins.monitor.early import to_stop
from validator.plugins.monitor.monitor import ValidityMonitor
from validator.plugins.monitor.prefixes import PREFIX_TOKENS
from validator.plugins.monitor.written import Written
from validator.training.decoding import Continuation, Drawing, Sampling
from validator.types import Trace

__all__ = ["EarlyStopped", "Sampled", "sample_with_early_stopping"]


@dataclass(frozen=True)
class Sampled:
    """One sample, to its end or to where it was stopped."""

    text: str
    tokens: int
    """Drawn, the one that ended it included."""
    score: float | None
    """The last running score; None for a sample too short to have one."""
    stopped: bool
    finished: bool
    """False where it was stopped, or the token limit cut it off."""


@dataclass(frozen=True)
class EarlyStopped:
    """What :func:`sample_with_early_stopping` did."""

    samples: tuple[Sampled, ...]
    """All that were begun, in the order they were begun."""
    tokens: int
    """Drawn, all of them."""

    @property
    def kept(self) -> tuple[Sampled, ...]:
        """Those that were not stopped."""
        return tuple(s for s in self.samples if not s.stopped)

    @property
    def best(self) -> Sampled:
        """The one with the highest score of those kept; of equal ones, the first."""
        return max(self.kept, key=lambda s: float("-inf") if s.score is None else s.score)


def sample_with_early_stopping(
    monitor: ValidityMonitor, prompt: str, sampling: Sampling, stop: Sequence[str] = (), *,
    below: float, checks: Sequence[int] = PREFIX_TOKENS, spare: int = 1, restarts: int = 0,
) -> EarlyStopped:
    """Sample N continuations of a prompt and stop those whose score falls below a threshold.

    Args:
        monitor: with an artifact or a label-free score; its model writes.
        prompt: what is continued.
        sampling: how tokens are drawn; ``batch_size`` has no meaning here.
        stop: strings that end a sample; not part of it.
        below: samples with a lower score are stopped.
        checks: numbers of tokens at which samples are scored and stopped, ascending.
        spare: fewest samples that are let to end, the best of them.
        restarts: most samples that are begun anew in the place of stopped ones.

    Raises:
        ParameterError: a monitor without a score, or numbers out of range.
        ContextLengthError: a prompt that leaves no room.
    """
    monitor.prepare()
    if monitor.scorer_ is None:
        raise ParameterError("the monitor has no score to stop by; give it an artifact or a score")
    if list(checks) != sorted(set(checks)) or not checks or checks[0] < 1:
        raise ParameterError(f"checks must ascend and be at least 1, got {list(checks)}")
    if spare < 1 or restarts < 0:
        raise ParameterError(
            f"spare must be at least 1 and restarts at least 0, got {spare} and {restarts}")
    encoded = encode_trace(Trace(prompt, prompt, prompt, "."), monitor.tokenizer_, None)
    ids = list(encoded.ids[: encoded.prompt_length])
    Drawing(monitor.model_, monitor.tokenizer_, sampling, stop).require_room(len(ids))
    run = _Run(monitor, ids, sampling, tuple(stop), below, tuple(checks), spare)
    samples = run.wave(sampling.n, 0)
    begun = 0
    while begun < restarts and (missing := sampling.n - sum(not s.stopped for s in samples)):
        count = min(missing, restarts - begun)
        begun += count
        samples += run.wave(count, begun)
    return EarlyStopped(tuple(samples), sum(s.tokens for s in samples))


@dataclass
class _Run:
    """The samples of one prompt."""

    monitor: ValidityMonitor
    ids: list[int]
    sampling: Sampling
    stop: tuple[str, ...]
    below: float
    checks: tuple[int, ...]
    spare: int
    cache: Any = field(init=False)
    """Keys and values of all tokens of the prompt but the last."""

    def __post_init__(self) -> None:
        model, self.cache = self.monitor.model_, None
        if len(self.ids) > 1:
            before = torch.tensor([self.ids[:-1]], device=model.device)
            with torch.inference_mode():
                self.cache = model(input_ids=before, use_cache=True).past_key_values

    def wave(self, count: int, number: int) -> list[Sampled]:
        """Begin so many samples and write them together."""
        wave = _Wave(self, count, number)
        before, self.monitor.due = self.monitor.due, self._due
        try:
            with self.monitor.attached():
                while wave.rows:
                    wave.round()
        finally:
            self.monitor.due = before
        return [wave.done[i] for i in range(count)]


    def _due(self, tokens: int, drawn: int) -> bool:
        """Whether a score is looked at: where samples are checked, and where one may have ended."""
        if tokens in self.checks or tokens == self.sampling.max_new_tokens - 1 or (
                drawn in self.monitor.ends_):
            return True
        text = self.monitor.tokenizer_.decode([drawn]) if self.stop else ""
        return any(s[-1] in text for s in self.stop)


class _Wave:
    """Samples that are written together; ``rows`` says which are still in the batch."""

    def __init__(self, run: _Run, count: int, number: int) -> None:
        model = run.monitor.model_
        self.run, self.number, self.rounds, self.drawn = run, number, 0, 0
        self.rows = list(range(count))
        self.done: dict[int, Sampled] = {}
        self.ids = torch.tensor([run.ids] * count, device=model.device)
        self.cache = copy.deepcopy(run.cache)
        if self.cache is not None:
            self.cache.batch_repeat_interleave(count)

    def round(self) -> None:
        """Write some tokens of each sample, then let go of those that ended or are stopped."""
        run, limit = self.run, self.run.sampling.max_new_tokens
        # One more than is checked: a token's row is there once the next has been drawn.
        wanted = limit if self.rounds >= len(run.checks) else run.checks[self.rounds] + 1
        count = min(wanted, limit) - self.drawn
        drawing = self._drawing(count)
        seed = drawing.seed([run.ids, [self.number, self.rounds]])
        new = drawing.draw(self.ids, self.cache, seed, [run.monitor])
        self.ids = torch.cat([self.ids, new], 1)
        self.rounds, self.drawn = self.rounds + 1, self.drawn + new.shape[1]
        written = [run.monitor.sequences_[i] for i in self.rows]
        ended = self._ended(written)
        if self.drawn >= limit:
            ended |= set(range(len(self.rows)))
        stopped = self._stopped(written, ended)
        for k in sorted(ended | stopped):
            self.done[self.rows[k]] = self._sampled(k, written[k], k in stopped)
        self._keep([k for k in range(len(self.rows)) if k not in ended | stopped])

    def _drawing(self, count: int) -> Drawing:
        monitor = self.run.monitor
        return Drawing(monitor.model_, monitor.tokenizer_, dataclasses.replace(
            self.run.sampling, max_new_tokens=count), self.run.stop)

    def _continuation(self, k: int) -> Continuation:
        return self._drawing(1).continuation(self.ids[k, len(self.run.ids) :])

    def _ended(self, written: Sequence[Written]) -> set[int]:
        return {k for k in range(len(written)) if self._continuation(k).finished}

    def _stopped(self, written: Sequence[Written], ended: set[int]) -> set[int]:
        scores = {k: s.score for k, s in enumerate(written) if k not in ended}
        known = {k: s for k, s in scores.items() if s is not None}
        stopped_before = sum(s.stopped for s in self.done.values())
        survivors = len(self.rows) + len(self.done) - stopped_before
        return set(to_stop(known, survivors, self.run.below, self.run.spare))

    def _sampled(self, k: int, written: Written, stopped: bool) -> Sampled:
        found = self._continuation(k)
        # While others went on, what ends the sample may have been fed and scored.
        score = written.score_of(found.tokens - 1)
        return Sampled(found.text, found.tokens, score, stopped, found.finished)

    def _keep(self, rows: list[int]) -> None:
        self.rows = [self.rows[k] for k in rows]
        if not rows:
            return
        self.ids = self.ids[rows]
        self.run.monitor.keep(rows)
        self.cache = self.run.monitor.cache
