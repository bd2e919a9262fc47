"""Candidates in: traces whose problems stand together, or one line per prompt; read as they come.

Two forms of a line. A trace, as ``validator sample`` writes it: the candidates of a problem are
consecutive lines of one ``problem_id``. Or ``{"prompt": ..., "candidates": [...]}`` with the
optional keys ``id``, ``labels`` and ``answers``, lists as long as the candidates: what a generator
of many answers to a prompt most easily writes.
"""

from __future__ import annotations

import gzip
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from validator.errors import MalformedTraceError, TraceError
from validator.trace_json import strict_loads, trace_from_json
from validator.types import Trace

__all__ = ["prompt_candidates", "read_candidates"]

KEYS = frozenset({"id", "prompt", "candidates", "labels", "answers"})


def read_candidates(path: str | Path) -> Iterator[Trace]:
    """The candidates of a JSON Lines file (``.gz`` too), or of standard input for ``-``.

    One line is held at a time. An empty candidate is kept: it has no score and ranks last.

    Raises:
        MalformedTraceError: a line that is neither form, naming it.
        TraceError: the file cannot be read or holds nothing.
    """
    name = "standard input" if str(path) == "-" else str(path)
    number = 0
    for number, line in enumerate(_lines(path, name), start=1):
        if not line.strip():
            continue
        try:
            record = strict_loads(line.decode())
            if not isinstance(record, dict):
                raise TraceError(f"expected a JSON object, got {type(record).__name__}")
            found = _traces(record, number)
        except (TraceError, ValueError, RecursionError) as error:
            raise MalformedTraceError(name, number, str(error) or type(error).__name__) from error
        yield from found
    if not number:
        raise TraceError(f"{name}: no candidates; expected one JSON object a line")


def prompt_candidates(
    prompt: str, candidates: Iterable[str], problem_id: str = "prompt", *,
    labels: Iterable[int | None] | None = None, answers: Iterable[str | None] | None = None,
) -> list[Trace]:
    """The texts as traces ``<problem_id>#0``, ``#1``, ... of one problem.

    Raises TraceError for no candidates, or labels or answers that are not one for each.
    """
    texts = list(candidates)
    if not texts:
        raise TraceError(f"{problem_id!r} has no candidates; give at least one text")
    given = {"labels": labels, "answers": answers}
    parts: dict[str, list[Any]] = {}
    for name, values in given.items():
        parts[name] = [None] * len(texts) if values is None else list(values)
        if len(parts[name]) != len(texts):
            raise TraceError(f"{problem_id!r}: expected {len(texts)} {name}, one for each "
                             f"candidate, got {len(parts[name])}")
    return [
        Trace(f"{problem_id}#{k}", problem_id, prompt, text, label, answer=answer)
        for k, (text, label, answer) in enumerate(
            zip(texts, parts["labels"], parts["answers"], strict=True))
    ]


def _traces(record: Mapping[str, Any], number: int) -> list[Trace]:
    if "candidates" not in record:
        if record.get("completion") == "":
            return [_empty(record)]
        return [trace_from_json(record)]
    unknown = sorted(set(record) - KEYS)
    if unknown:
        raise TraceError(f"unknown keys {', '.join(unknown)}; a line with 'candidates' may have "
                         f"{', '.join(sorted(KEYS))}")
    prompt, texts = record.get("prompt"), record["candidates"]
    if not isinstance(prompt, str):
        raise TraceError(f"'prompt' must be a text, got {type(prompt).__name__}")
    if not isinstance(texts, list) or not all(isinstance(t, str) for t in texts):
        raise TraceError("'candidates' must be a list of texts")
    return prompt_candidates(
        prompt, texts, str(record.get("id", f"line-{number}")),
        labels=record.get("labels"), answers=record.get("answers"))


def _empty(record: Mapping[str, Any]) -> Trace:
    """A trace with nothing in it, which a trace file refuses and a reranker has to rank."""
    filled = trace_from_json({**record, "completion": " "})
    return Trace(filled.id, filled.problem_id, filled.prompt, "", filled.label,
                 source=filled.source, answer=filled.answer, status=filled.status,
                 meta=filled.meta)


def _lines(path: str | Path, name: str) -> Iterator[bytes]:
    if str(path) == "-":
        yield from sys.stdin.buffer
        return
    opener: Callable[..., Any] = gzip.open if str(path).endswith(".gz") else open
    try:
        with opener(path, "rb") as file:
            yield from file
    except (OSError, EOFError) as error:
        raise TraceError(f"{name}: cannot be read: {error}") from error
