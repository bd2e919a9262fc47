"""Traces cut into shards: the same cut whoever makes it and however many workers there are.

Rows of different batches agree to rounding only, so what is computed together must not depend on
who computes it. A shard is computed as one; the cut follows from the traces and the size alone.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

from validator.errors import ParameterError, TraceError
from validator.trace_json import trace_from_json, trace_to_json
from validator.types import Trace

__all__ = [
    "SHARD_TRACES", "Part", "TraceShard", "cut_shards", "decode_shard", "encode_shard_traces",
]

SHARD_TRACES = 64
"""Traces of a shard: what a worker that dies has to compute again at most."""


@dataclass(frozen=True, slots=True)
class TraceShard:
    """Consecutive traces that are computed as one."""

    index: int
    """Place among all shards, from 0."""
    traces: tuple[Trace, ...]
    repeated: frozenset[str]
    """Ids of those whose text an earlier shard has: their rows are computed there."""
    digest: str
    """SHA-256 of all that decides the rows: 64 hexadecimal digits."""


@dataclass(frozen=True, slots=True)
class Part:
    """The share of one of ``count`` tasks: every ``count``-th shard, from ``index`` on.

    Raises:
        ParameterError: an index outside 0..count-1.
    """

    index: int
    count: int

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise ParameterError(f"expected a shard i/n with i from 0 to n-1, got {self.index}/"
                                 f"{self.count}; for 4 tasks give 0/4, 1/4, 2/4 and 3/4")

    @classmethod
    def parse(cls, text: str) -> Part:
        """Part of ``i/n``, e.g. ``3/16``. Raises ParameterError for anything else."""
        found = re.fullmatch(r"(\d+)/(\d+)", text.strip())
        if found is None:
            raise ParameterError(f"expected i/n, e.g. 3/16, got {text!r}")
        return cls(int(found[1]), int(found[2]))

    def has(self, shard: TraceShard) -> bool:
        """Whether the shard is this task's."""
        return shard.index % self.count == self.index


def cut_shards(traces: Iterable[Trace], size: int = SHARD_TRACES) -> Iterator[TraceShard]:
    """Shards of at least ``size`` traces but the last, in order.

    Neighbouring traces of one problem stay together, up to ``4 * size``, because they share their
    prompt. Of the traces seen so far, only a hash of each text is kept.

    Args:
        traces: ids distinct.
        size: traces of a shard.

    Raises:
        ParameterError: a size below 1.
        TraceError: an id that occurs twice.
    """
    if size < 1:
        raise ParameterError(f"a shard needs at least 1 trace, got {size}")
    ids: set[int] = set()
    texts: dict[int, int] = {}
    waiting: list[Trace] = []
    index = 0
    for _, group in groupby(traces, key=lambda trace: trace.problem_id):
        for trace in group:
            _require_new(trace, ids)
            waiting.append(trace)
            if len(waiting) >= 4 * size:
                yield _shard(index, waiting, texts)
                index, waiting = index + 1, []
        if len(waiting) >= size:
            yield _shard(index, waiting, texts)
            index, waiting = index + 1, []
    if waiting:
        yield _shard(index, waiting, texts)


def encode_shard_traces(shard: TraceShard) -> bytes:
    """A shard as JSON, for a worker that cannot see the trace file."""
    return json.dumps({"index": shard.index, "digest": shard.digest,
                       "repeated": sorted(shard.repeated),
                       "traces": [trace_to_json(t) for t in shard.traces]}).encode()


def decode_shard(content: bytes) -> TraceShard:
    """The shard again. Raises TraceError if it is not the one that was written."""
    try:
        found = json.loads(content)
        traces = tuple(trace_from_json(t) for t in found["traces"])
        shard = TraceShard(found["index"], traces, frozenset(found["repeated"]), found["digest"])
    except (ValueError, KeyError, TypeError) as error:
        raise TraceError(f"a shard's file is damaged ({error!r}); run again") from error
    if _digest(shard.traces, shard.repeated) != shard.digest:
        raise TraceError("a shard's file does not have the SHA-256 it names; run again")
    return shard


def _shard(index: int, traces: list[Trace], texts: dict[int, int]) -> TraceShard:
    repeated = frozenset(t.id for t in traces if texts.setdefault(_text(t), index) != index)
    return TraceShard(index, tuple(traces), repeated, _digest(traces, repeated))


def _digest(traces: Iterable[Trace], repeated: frozenset[str]) -> str:
    parts = [[t.id, t.prompt, t.completion, t.steps, t.id in repeated] for t in traces]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _text(trace: Trace) -> int:
    return _short(json.dumps([trace.prompt, trace.completion, trace.steps]))


def _short(text: str) -> int:
    """64 bits of a hash: of 10 million texts two collide with a chance of 3e-6."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8])


def _require_new(trace: Trace, ids: set[int]) -> None:
    before = len(ids)
    ids.add(_short(trace.id))
    if len(ids) == before:
        raise TraceError(f"the trace id {trace.id!r} occurs twice; give every trace its own",
                         trace_id=trace.id)
