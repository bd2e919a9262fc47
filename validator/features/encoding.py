"""Trace -> token ids, and the prefixes that several traces share."""

from __future__ import annotations

import dataclasses
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from validator.errors import ContextLengthError, TraceError
from validator.types import Trace

__all__ = [
    "EMPTY", "EncodedTrace", "common_prefix", "encode_readable", "encode_trace", "first_tokens",
    "max_positions",
]


EMPTY = "empty response"


@dataclass(frozen=True, slots=True)
class EncodedTrace:
    """Token ids of a trace; the first ``prompt_length`` are the prompt, special tokens included."""

    trace: Trace
    ids: tuple[int, ...]
    prompt_length: int
    steps: tuple[tuple[int, int], ...] | None = None
    """Token ranges of the trace's steps in the whole sequence; None where it has none."""

    @property
    def completion_length(self) -> int:
        """Tokens of the completion, at least 1."""
        return len(self.ids) - self.prompt_length


def encode_trace(trace: Trace, tokenizer: Any, limit: int | None) -> EncodedTrace:
    """Tokenise prompt and completion apart, so that the border between them is a token border.

    Args:
        trace: the trace.
        tokenizer: a transformers tokenizer; it adds its special tokens to the prompt alone, and
            none where the prompt already begins with its first token written out.
        limit: the most tokens the model has positions for, or None.

    Raises:
        TraceError: the prompt or the completion has no token.
        ContextLengthError: more than ``limit`` tokens.
    """
    bos: str = getattr(tokenizer, "bos_token", None) or ""
    written = bos != "" and trace.prompt.startswith(bos)
    prompt = tokenizer(trace.prompt, add_special_tokens=not written)["input_ids"]
    wanted = trace.steps is not None
    if wanted and not getattr(tokenizer, "is_fast", False):
        raise TraceError(
            f"trace {trace.id!r} has steps, and {type(tokenizer).__name__} does not tell which "
            "characters its tokens stand for; use a fast tokenizer, or traces without steps",
            trace_id=trace.id)
    coded = tokenizer(trace.completion, add_special_tokens=False, return_offsets_mapping=wanted)
    completion = coded["input_ids"]
    for name, part in (("prompt", prompt), ("completion", completion)):
        if not part:
            raise TraceError(
                f"trace {trace.id!r}: the {name} has no tokens; give a trace with a non-empty "
                f"{name}", trace_id=trace.id)
    total = len(prompt) + len(completion)
    if limit is not None and total > limit:
        raise ContextLengthError(
            f"trace {trace.id!r} has {total} tokens, the model has positions for {limit}; "
            "shorten it or use a model with a longer context", trace_id=trace.id)
    steps = None
    if trace.steps is not None:
        steps = tuple(_token_range(s, coded["offset_mapping"], len(prompt)) for s in trace.steps)
    return EncodedTrace(trace, (*prompt, *completion), len(prompt), steps)


def first_tokens(trace: Trace, tokenizer: Any, count: int) -> Trace:
    """The trace with the text of the first so many tokens of its completion."""
    ids = tokenizer(trace.completion, add_special_tokens=False)["input_ids"]
    if count >= len(ids):
        return trace
    return dataclasses.replace(trace, completion=tokenizer.decode(ids[:count]))


def encode_readable(
    traces: Iterable[Trace], tokenizer: Any, limit: int | None
) -> tuple[list[EncodedTrace], dict[str, str]]:
    """The traces that can be read, and by id why each of the others cannot.

    As :func:`encode_trace`, for those who have to go on where one trace is empty or too long.
    """
    readable: list[EncodedTrace] = []
    reasons: dict[str, str] = {}
    for trace in traces:
        if not trace.completion:
            reasons[trace.id] = EMPTY
            continue
        try:
            readable.append(encode_trace(trace, tokenizer, limit))
        except TraceError as error:
            reasons[trace.id] = str(error)
    return readable, reasons


def _token_range(
    step: tuple[int, int], offsets: Sequence[tuple[int, int]], before: int
) -> tuple[int, int]:
    """The tokens whose last character lies in the step; (i, i) where there are none."""
    last = [max(start, end - 1) for start, end in offsets]
    first = bisect_left(last, step[0])
    return before + first, before + max(first, bisect_left(last, step[1]))


def max_positions(config: Any) -> int | None:
    """The model's context length in tokens, or None where its configuration states none."""
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    for name in ("max_position_embeddings", "n_positions", "max_seq_len"):
        value = getattr(text, name, None)
        if isinstance(value, int) and value > 0:
            return value
    return None


def common_prefix(sequences: Sequence[Sequence[int]]) -> int:
    """Number of leading tokens that all sequences share; 0 for no sequences."""
    if not sequences:
        return 0
    low, high = min(map(tuple, sequences)), max(map(tuple, sequences))
    for i, (a, b) in enumerate(zip(low, high, strict=False)):
        if a != b:
            return i
    return min(len(low), len(high))
