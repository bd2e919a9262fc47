"""Labelled traces in and out: JSON Lines, and the public formats of ``formats.py``.

Every line is read or accounted for: malformed lines go to a quarantine file with their line number
and reason, and end in an error unless the caller asked to skip them.
"""

from __future__ import annotations

import difflib
import gzip
import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any

from validator import whole_file
from validator.errors import MalformedTraceError, ParameterError, TraceError
from validator.trace_json import strict_loads, trace_from_json, trace_to_json
from validator.training.formats import PUBLIC_FORMATS, Where, merge_problems
from validator.types import Trace

__all__ = [
    "FORMATS",
    "ReadResult",
    "load_traces",
    "read_traces",
    "trace_from_json",
    "trace_to_json",
    "write_traces",
]

_Reader = Callable[[Mapping[str, Any], Where], Sequence[Trace]]
_SHOWN = 3


def _own_form(record: Mapping[str, Any], where: Where) -> tuple[Trace, ...]:
    return (trace_from_json(record),)


FORMATS: Mapping[str, _Reader] = {"jsonl": _own_form, **PUBLIC_FORMATS}
"""Every value the ``format`` argument takes -> reader of one decoded line."""


@dataclass(frozen=True, slots=True)
class ReadResult:
    """What a file held: the traces, the lines that are none, and where those lines were put."""

    traces: tuple[Trace, ...]
    bad: tuple[MalformedTraceError, ...] = ()
    """One error per malformed line, in file order."""
    quarantine: Path | None = None
    """The file the malformed lines were written to; None if there are none."""


@dataclass(frozen=True, slots=True)
class _BadLine:
    error: MalformedTraceError
    text: str


def load_traces(
    path: str | os.PathLike[str],
    *,
    format: str = "jsonl",
    skip_bad: bool = False,
    limit: int | None = None,
    quarantine: str | os.PathLike[str] | None = None,
) -> list[Trace]:
    """The traces of a file, as :func:`read_traces` reads them.

    Parameters
    ----------
    path
        A ``.jsonl`` or ``.jsonl.gz`` file.
    format
        ``"jsonl"`` (the project's own form) or the name of a public format.
    skip_bad
        Go on with the good lines instead of raising at the end.
    limit
        Read only the first ``limit`` lines that are not blank, whichever problems they belong to.
    quarantine
        Where to write malformed lines; default ``<stem>.quarantine.jsonl`` beside the file.

    Raises
    ------
    TraceError
        The file cannot be read, holds no trace, or has malformed lines and ``skip_bad`` is False.
    ParameterError
        ``format`` is not a known one, or ``limit`` is less than 1.
    """
    result = read_traces(
        path, format=format, skip_bad=skip_bad, limit=limit, quarantine=quarantine
    )
    return list(result.traces)


def read_traces(
    path: str | os.PathLike[str],
    *,
    format: str = "jsonl",
    skip_bad: bool = False,
    limit: int | None = None,
    quarantine: str | os.PathLike[str] | None = None,
) -> ReadResult:
    """Read a file of traces and account for every line; arguments as in :func:`load_traces`.

    Whole lines are kept or quarantined: where a format holds two traces in a line, both go.
    Blank lines hold nothing and are passed over.
    """
    source = Path(path)
    if limit is not None and limit < 1:
        raise ParameterError(f"limit must be at least 1 line, got {limit}")
    traces, bad = _read_lines(source, _reader(format), limit)
    target = None
    if bad:
        target = Path(quarantine) if quarantine is not None else _quarantine_path(source)
        _write_quarantine(source, bad, target)
    if bad and not skip_bad:
        raise TraceError(f"{_summary(source, bad, target)} Mend them, or pass skip_bad=True.")
    if not traces:
        raise TraceError(
            f"{_summary(source, bad, target)} None of its lines is a trace." if bad
            else f"{source}: no traces; expected one JSON object a line"
        )
    if format in PUBLIC_FORMATS:
        traces = merge_problems(traces)
    return ReadResult(tuple(traces), tuple(line.error for line in bad), target)


def write_traces(path: str | os.PathLike[str], traces: Iterable[Trace]) -> Path:
    """Write traces as JSON Lines (gzipped if the name ends in ``.gz``); all of them or none.

    The file appears under its name only when it is complete. Raises TraceError, naming the trace,
    for what :func:`read_traces` would refuse: a second trace of the same id, an empty completion,
    a ``meta`` that is not JSON. ``meta`` tuples come back as lists.
    """
    target = Path(path)
    try:
        with replacing(target) as file:
            _write_lines(file, traces, target)
    except OSError as error:
        raise TraceError(f"{target}: cannot be written: {error}") from error
    return target


def _reader(name: str) -> _Reader:
    if name in FORMATS:
        return FORMATS[name]
    close = difflib.get_close_matches(name, FORMATS, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(FORMATS)}"
    raise ParameterError(f"unknown format {name!r}; {hint}")


def _read_lines(
    path: Path, reader: _Reader, limit: int | None
) -> tuple[list[Trace], list[_BadLine]]:
    traces: list[Trace] = []
    bad: list[_BadLine] = []
    lines: dict[str, int] = {}
    for number, raw in islice(_numbered_lines(path), limit):
        where = Where(stem=_stem(path), line=number)
        try:
            found = _parse(raw, reader, where, lines)
        except (TraceError, ValueError, RecursionError) as error:
            reason = str(error) or type(error).__name__
            text = raw.decode(errors="backslashreplace").rstrip("\r\n")
            bad.append(_BadLine(MalformedTraceError(str(path), number, reason), text))
        else:
            lines.update((trace.id, number) for trace in found)
            traces.extend(found)
    return traces, bad


def _parse(raw: bytes, reader: _Reader, where: Where, seen: Mapping[str, int]) -> Sequence[Trace]:
    record = strict_loads(raw.decode())
    if not isinstance(record, dict):
        raise TraceError(f"expected a JSON object, got {type(record).__name__}")
    traces = reader(record, where)
    for trace in traces:
        if trace.id in seen:
            raise TraceError(f"the id {trace.id!r} is already that of line {seen[trace.id]}")
    return traces


def _numbered_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    opener: Callable[..., Any] = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as file:
            for number, raw in enumerate(file, start=1):
                if raw.strip():
                    yield number, raw
    except (OSError, EOFError, zlib.error) as error:
        raise TraceError(f"{path}: cannot be read: {error}") from error


def _stem(path: Path) -> str:
    return path.with_suffix("").stem if path.suffix == ".gz" else path.stem


def _quarantine_path(path: Path) -> Path:
    return path.with_name(f"{_stem(path)}.quarantine.jsonl")


def _write_quarantine(path: Path, bad: Sequence[_BadLine], target: Path) -> None:
    if target.resolve() == path.resolve():
        raise TraceError(f"{target}: the quarantine file would replace the file that is read")
    try:
        with replacing(target) as file:
            for line in bad:
                record = {"file": path.name, "line": line.error.line, "reason": line.error.reason,
                          "text": line.text}
                file.write((json.dumps(record) + "\n").encode())
    except OSError as error:
        raise TraceError(
            f"{_summary(path, bad, None)} They could not be written to {target} ({error}); "
            "name a file that can be written: quarantine=..."
        ) from error


def _summary(path: Path, bad: Sequence[_BadLine], target: Path | None) -> str:
    first = "; ".join(f"line {b.error.line}: {b.error.reason}" for b in bad[:_SHOWN])
    more = f"; and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
    kept = f" All of them are in {target}." if target else ""
    return f"{path}: {len(bad)} malformed line(s) ({first}{more}).{kept}"


def _write_lines(
    file: IO[bytes] | gzip.GzipFile, traces: Iterable[Trace], target: Path
) -> None:
    seen: set[str] = set()
    for trace in traces:
        if trace.id in seen:
            raise TraceError(f"trace id {trace.id!r} occurs twice", trace_id=trace.id)
        seen.add(trace.id)
        file.write(_line(trace).encode())
    if not seen:
        raise TraceError(f"{target}: no traces to write")


def _line(trace: Trace) -> str:
    record = trace_to_json(trace)
    try:
        # Reading it back now is what promises that the file can be read later.
        text = json.dumps(record, ensure_ascii=False, allow_nan=False)
        trace_from_json(strict_loads(text))
        text.encode()
    except (TypeError, ValueError, TraceError) as error:
        raise TraceError(f"trace {trace.id!r} cannot be written as JSON: {error}",
                         trace_id=trace.id) from error
    return text + "\n"


@contextmanager
def replacing(target: Path) -> Iterator[IO[bytes] | gzip.GzipFile]:
    """A binary file that takes the name ``target`` when the block ends without an error."""
    with whole_file.replacing(target) as partial, partial.open("wb") as plain:
        if target.suffix == ".gz":
            # No name and no time in the header: equal traces make equal files.
            with gzip.GzipFile(filename="", mode="wb", fileobj=plain, mtime=0) as packed:
                yield packed
        else:
            yield plain
