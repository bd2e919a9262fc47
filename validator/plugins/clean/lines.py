"""A training file as lines: each is an example or the reason why it is none, and its bytes stay."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from validator.errors import ParameterError, TraceError
from validator.trace_json import strict_loads
from validator.training.datasets import FORMATS, replacing
from validator.training.formats import Where
from validator.types import Trace

__all__ = ["FORMATS_OF_EXAMPLES", "PAIRS", "Example", "read_examples", "write_lines"]

PAIRS = "pairs"
"""The format of fine-tuning files: an object with a prompt and a completion, other keys free."""

FORMATS_OF_EXAMPLES = (PAIRS, *FORMATS)


@dataclass(frozen=True, slots=True)
class Example:
    """One line that is not blank."""

    line: int
    """Counted from 1."""
    raw: bytes
    """As it stands in the file, line break included."""
    trace: Trace | None
    """Its ``id`` is ``line<n>``, for a training file may hold an id, or none, twice."""
    reason: str | None = None
    """Why there is no trace."""


def read_examples(
    path: Path, *, format: str = PAIRS, prompt_key: str = "prompt",
    completion_key: str = "completion", limit: int | None = None,
) -> list[Example]:
    """The lines of a ``.jsonl`` or ``.jsonl.gz`` file that are not blank, in order.

    Args:
        path: the file.
        format: :data:`PAIRS`, or one of :data:`validator.training.datasets.FORMATS`.
        prompt_key: where a pair has its prompt.
        completion_key: where a pair has its completion.
        limit: only the first of them.

    Raises:
        ParameterError: an unknown format, or a limit below 1.
        TraceError: the file cannot be read, or not one line is an example.
    """
    if format not in FORMATS_OF_EXAMPLES:
        raise ParameterError(f"unknown format {format!r}; known: {', '.join(FORMATS_OF_EXAMPLES)}")
    if limit is not None and limit < 1:
        raise ParameterError(f"limit must be at least 1 line, got {limit}")
    keys = (prompt_key, completion_key)
    examples: list[Example] = []
    for number, raw in enumerate(_lines(path), start=1):
        if raw.strip():
            examples.append(_example(path, number, raw, format, keys))
        if len(examples) == limit:
            break
    if all(e.trace is None for e in examples):
        first = f"line {examples[0].line}: {examples[0].reason}" if examples else "it is empty"
        raise TraceError(f"{path}: no training example among {len(examples)} lines ({first}); "
                         "say what they are with `format`, `prompt_key` and `completion_key`")
    return examples


def write_lines(path: Path, lines: Iterable[bytes]) -> int:
    """Write lines as they are (gzipped if the name ends in ``.gz``), all or none; returns how many.

    A line without a line break, the last of a file, gets one only if another follows it.
    Raises TraceError where the file cannot be written.
    """
    count, ended = 0, True
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            for line in lines:
                file.write(line if ended else b"\n" + line)
                ended = line.endswith(b"\n")
                count += 1
    except OSError as error:
        raise TraceError(f"{path}: cannot be written: {error}") from error
    return count


def _lines(path: Path) -> Sequence[bytes]:
    opener: Any = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as file:
            return list(file)
    except (OSError, EOFError, zlib.error) as error:
        raise TraceError(f"{path}: cannot be read: {error}") from error


def _example(
    path: Path, number: int, raw: bytes, format: str, keys: tuple[str, str]
) -> Example:
    try:
        trace = _trace(path, number, raw, format, keys)
    except (TraceError, ValueError, RecursionError) as error:
        return Example(number, raw, None, str(error) or type(error).__name__)
    return Example(number, raw, replace(trace, id=f"line{number}"))


def _trace(path: Path, number: int, raw: bytes, format: str, keys: tuple[str, str]) -> Trace:
    record = strict_loads(raw.decode())
    if not isinstance(record, dict):
        raise TraceError(f"expected a JSON object, got {type(record).__name__}")
    if format == PAIRS:
        return _pair(record, number, keys)
    stem = path.with_suffix("").stem if path.suffix == ".gz" else path.stem
    traces = FORMATS[format](record, Where(stem, number))
    if len(traces) != 1:
        raise TraceError(f"holds {len(traces)} traces; a line must be one example to be kept or "
                         "left out")
    return traces[0]


def _pair(record: Mapping[str, Any], number: int, keys: tuple[str, str]) -> Trace:
    for key in keys:
        if not isinstance(record.get(key), str):
            found = f"got {type(record[key]).__name__}" if key in record else (
                f"the keys are {', '.join(sorted(record)) or 'none'}")
            raise TraceError(f"expected a string under {key!r}; {found}")
    prompt, completion = record[keys[0]], record[keys[1]]
    if not completion:
        raise TraceError(f"{keys[1]!r} is empty")
    problem = hashlib.sha256(prompt.encode()).hexdigest()[:16]
    return Trace(f"line{number}", problem, prompt, completion)
