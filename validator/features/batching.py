"""Which traces run together, and which tokens they share so that these are computed once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from validator.features.encoding import EncodedTrace, common_prefix

__all__ = ["Batch", "plan_batches"]

MIN_SHARED = 16
"""Fewer shared tokens than this are not worth a pass of their own."""
MAX_SHARED = 1024
"""Rows of a shared prefix are kept for all layers at once; past this they would weigh too much."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Traces for one forward pass."""

    members: tuple[int, ...]
    """Positions of the traces in the input."""
    prefixes: tuple[int, ...]
    """Ascending lengths of nested shared prefixes: of all traces, then of one problem's samples."""


def plan_batches(
    traces: Sequence[EncodedTrace], max_tokens: int, share: bool = True
) -> Iterator[Batch]:
    """Group traces by shared prompt and length.

    Traces with the same prompt come together after the tokens of the prompt but its last, whose
    prediction is the completion's first token. Batches follow each other so that a shared prefix
    is needed in one run of consecutive batches. Every trace is in exactly one batch.

    Args:
        traces: the traces, in input order.
        max_tokens: most tokens, padding included and shared prefixes not, in a batch of two or
            more.
        share: whether to share prefixes at all.
    """
    root = _shareable(common_prefix([t.ids for t in traces]), traces) if share else 0
    loose: list[int] = []
    by_prompt: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for i, trace in enumerate(traces):
        by_prompt[trace.ids[: trace.prompt_length]].append(i)
    for prompt, members in by_prompt.items():
        own = len(prompt) - 1
        if share and len(members) > 1 and own - root >= MIN_SHARED and own <= MAX_SHARED:
            chain = (root, own) if root else (own,)
            yield from _by_length(members, traces, max_tokens, chain)
        else:
            loose += members
    yield from _by_length(loose, traces, max_tokens, (root,) if root else ())


def _shareable(length: int, traces: Sequence[EncodedTrace]) -> int:
    if len(traces) < 2:
        return 0
    length = min(length, MAX_SHARED, min(t.prompt_length for t in traces) - 1)
    return length if length >= MIN_SHARED else 0


def _by_length(
    members: Sequence[int], traces: Sequence[EncodedTrace], max_tokens: int,
    prefixes: tuple[int, ...],
) -> Iterator[Batch]:
    before = prefixes[-1] if prefixes else 0
    batch: list[int] = []
    for i in sorted(members, key=lambda m: len(traces[m].ids)):
        if batch and (len(batch) + 1) * (len(traces[i].ids) - before) > max_tokens:
            yield Batch(tuple(batch), prefixes)
            batch = []
        batch.append(i)
    if batch:
        yield Batch(tuple(batch), prefixes)
