"""Validity as a reward of TRL's GRPO trainer: read by a frozen model, never by the policy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from validator.errors import ParameterError, ScoreError, TraceError
from validator.features.encoding import encode_trace, max_positions
from validator.scoring import Validator
from validator.types import FeatureMatrix, Trace

__all__ = ["LengthTrend", "ValidityReward"]

Array = NDArray[np.float64]
Text = str | Sequence[Mapping[str, Any]]
"""A text, or the messages of a chat."""
RELATIVE = "ensemble"


@dataclass(frozen=True, slots=True)
class LengthTrend:
    """What a score is expected to be at a length: a straight line in the log of the length."""

    intercept: float
    slope: float

    @classmethod
    def fit(cls, scores: ArrayLike, lengths: ArrayLike) -> LengthTrend:
        """The least-squares line of scores (N,) on log lengths (N,), tokens >= 1.

        Raises ScoreError for fewer than three, values that are not finite, or one length only.
        """
        s, x = np.asarray(scores, np.float64), np.log(np.asarray(lengths, np.float64))
        if s.shape != x.shape or s.ndim != 1 or s.size < 3:
            raise ScoreError(f"a trend needs three scores or more and a length of each, got shapes "
                             f"{s.shape} and {x.shape}")
        if not (np.isfinite(s).all() and np.isfinite(x).all()) or np.ptp(x) == 0:
            raise ScoreError("a trend needs finite scores at different lengths of one token or "
                             "more; give other reference traces")
        slope = float(((x - x.mean()) @ s) / ((x - x.mean()) @ (x - x.mean())))
        return cls(float(s.mean() - slope * x.mean()), slope)

    def expected(self, lengths: ArrayLike) -> Array:
        """(N,) expected score at each length; the line goes on beyond those it was fitted to."""
        return self.intercept + self.slope * np.log(np.asarray(lengths, dtype=np.float64))


class ValidityReward:
    """A reward function ``(prompts, completions, **columns) -> list[float | None]``.

    The texts are read by the artifact's own model, which is loaded on the first call, is never
    trained and is not the policy: a policy that is its own judge can change what it is judged by.

    A prompt or completion is a text, or a chat. Chats are put through the reader's chat template;
    the completion is then what its messages add. What cannot be scored (an empty completion, one
    longer than the reader's context, an undefined score) gets None, which TRL leaves out;
    :attr:`reasons` says why, and TRL's ``log_metric`` gets ``<name>/unscored``, the share of None.

    Args:
        source: folder of an artifact, or a :class:`validator.Validator`.
        score: ``learned`` (P(valid), in (0, 1)) or the name of a label-free score, whose scale is
            its own. ``ensemble``, a rank among the traces scored together, is refused.
        length_reference: traces typical of the policy, unlabelled: a straight line of the score on
            their log lengths is fitted, and the reward is the score less what the line expects at
            the completion's length. It removes the reward's straight trend with length over such
            traces, not every way to gain by length.
        name: what TRL logs it as.
        options: of :meth:`validator.Validator.load`, e.g. ``model``, ``device``; for a folder only.

    Attributes:
        reasons: position in the last call -> why it has no reward.
        trend: the fitted :class:`LengthTrend`; None before the first call, and without reference.
    """

    def __init__(
        self, source: str | Path | Validator, *, score: str = "learned",
        length_reference: Sequence[Trace] | None = None, name: str = "validity_reward",
        **options: Any,
    ) -> None:
        self.source = source
        self.score = score
        self.length_reference = length_reference
        self.options = options
        self.__name__ = name
        self.reasons: dict[int, str] = {}
        self.trend: LengthTrend | None = None
        self._reader: Validator | None = None

    def __call__(
        self, prompts: Sequence[Text], completions: Sequence[Text], **columns: Any
    ) -> list[float | None]:
        """A reward for each completion, None where there is none.

        Raises:
            ParameterError: not one prompt for each completion, a chat for a reader without a chat
                template, or a score the reader does not have.
            FeatureMismatchError: the model is not the artifact's.
        """
        if len(prompts) != len(completions):
            raise ParameterError(f"expected a prompt for each completion, got {len(prompts)} "
                                 f"prompts and {len(completions)} completions")
        reader = self._ready()
        self.reasons = {}
        traces: dict[int, Trace] = {}
        for i, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
            try:
                traces[i] = self._trace(i, prompt, completion)
            except TraceError as error:
                self.reasons[i] = str(error)
        rewards: list[float | None] = [None] * len(prompts)
        if traces:
            features = reader.extractor.transform(list(traces.values()))
            for i, value in zip(traces, self._rewards(features), strict=True):
                if np.isfinite(value):
                    rewards[i] = float(value)
                else:
                    self.reasons[i] = features.nan_reasons.get(str(i), "the score is undefined")
        self._report(columns.get("log_metric"), len(prompts))
        return rewards

    def _ready(self) -> Validator:
        """The reader, loaded, frozen, with the trend fitted."""
        if self._reader is not None:
            return self._reader
        given = isinstance(self.source, Validator)
        if given and self.options:
            raise ParameterError("options are for the folder of an artifact; a Validator has its "
                                 f"own already, got {', '.join(self.options)}")
        reader = self.source if isinstance(self.source, Validator) else Validator.load(
            self.source, **self.options)
        if reader.of_steps:
            raise ParameterError("a classifier of steps gives no reward to whole completions; "
                                 "train one on traces")
        reader.prepare()
        if not given:
            reader.extractor.model_.requires_grad_(False)
        if self.length_reference is not None:
            features = reader.extractor.transform(list(self.length_reference))
            values = self._scores(reader, features)
            self.trend = LengthTrend.fit(values, features.lengths[:, 1])
        self._reader = reader
        return reader

    def _rewards(self, features: FeatureMatrix) -> Array:
        assert self._reader is not None
        values = self._scores(self._reader, features)
        return values if self.trend is None else values - self.trend.expected(
            features.lengths[:, 1])

    def _scores(self, reader: Validator, features: FeatureMatrix) -> Array:
        found = reader.score_features(features)
        if self.score == "learned":
            if reader.classifier is None:
                raise ParameterError("score='learned' needs a classifier; give an artifact, or "
                                     "name a label-free score")
            return np.array([s.learned for s in found], dtype=np.float64)
        known = [n for n in found[0].unsupervised if n != RELATIVE]
        if self.score not in known:
            raise ParameterError(f"no score {self.score!r} to reward; there are: learned, "
                                 f"{', '.join(known)}")
        return np.array([s.unsupervised[self.score] for s in found], dtype=np.float64)

    def _trace(self, i: int, prompt: Text, completion: Text) -> Trace:
        """The texts as a trace that can be read; raises TraceError where it cannot."""
        assert self._reader is not None
        tokenizer = self._reader.extractor.tokenizer_
        asked = prompt if isinstance(prompt, str) else _rendered(tokenizer, prompt)
        told = completion if isinstance(completion, str) else _added(
            tokenizer, prompt, asked, completion)
        trace = Trace(str(i), str(i), asked, told)
        encode_trace(trace, tokenizer, max_positions(self._reader.extractor.model_.config))
        return trace

    def _report(self, log_metric: Callable[[str, float], None] | None, count: int) -> None:
        if log_metric is not None and count:
            log_metric(f"{self.__name__}/unscored", len(self.reasons) / count)


def _rendered(tokenizer: Any, messages: Sequence[Mapping[str, Any]], *, whole: bool = False) -> str:
    """A chat as the template writes it; unless it is whole, ready for an answer to begin."""
    if not getattr(tokenizer, "chat_template", None):
        raise ParameterError("the prompts are chats and the reader's tokenizer has no chat "
                             "template; give prompts as texts, or another reader")
    going_on = bool(messages) and messages[-1].get("role") == "assistant"
    return str(tokenizer.apply_chat_template(
        [dict(m) for m in messages], tokenize=False,
        add_generation_prompt=not whole and not going_on,
        continue_final_message=not whole and going_on))


def _added(
    tokenizer: Any, prompt: Text, asked: str, completion: Sequence[Mapping[str, Any]]
) -> str:
    """What the messages of a completion add to the prompt."""
    if len(completion) == 1 and isinstance(completion[0].get("content"), str):
        return str(completion[0]["content"])
    if isinstance(prompt, str):
        raise TraceError("the completion is a chat of several messages after a prompt that is a "
                         "text: what is between them is not known")
    if any(not isinstance(m.get("content"), str) for m in completion):
        raise TraceError("a message of the completion has no text")
    text = _rendered(tokenizer, [*prompt, *completion], whole=True)
    if not text.startswith(asked):
        raise TraceError("the chat template writes the prompt otherwise once an answer follows")
    return text[len(asked):]
