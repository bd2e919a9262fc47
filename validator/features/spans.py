"""Named stretches of a trace's tokens."""

from __future__ import annotations

from collections.abc import Sequence

from validator.features.encoding import EncodedTrace

__all__ = ["FROM_PROMPT", "STEP", "Range", "span_name", "trace_spans"]

Range = tuple[int, int]
"""First token, and the one after the last, of the whole sequence."""

STEP = "step"
FROM_PROMPT = "completion_from_prompt"


def trace_spans(
    trace: EncodedTrace, names: Sequence[str], last_tokens: int
) -> dict[str, list[Range]]:
    """Token ranges of the named spans; one each, but for ``step``, which has one per step.

    ``completion_from_prompt`` is the whole sequence: its graph has the edges between a token of
    the completion and one of the prompt, and no other.

    Returns:
        name -> ranges; for ``step`` of a trace without steps an empty list.
    """
    prompt, total = trace.prompt_length, len(trace.ids)
    known: dict[str, list[Range]] = {
        "whole": [(0, total)],
        "prompt": [(0, prompt)],
        "completion": [(prompt, total)],
        FROM_PROMPT: [(0, total)],
        STEP: list(trace.steps or ()),
        "last": [(max(prompt, total - last_tokens), total)],
    }
    return {name: known[name] for name in names}


def span_name(name: str, last_tokens: int) -> str:
    """The span as column names have it: ``last`` states how many tokens."""
    return f"last{last_tokens}" if name == "last" else name
