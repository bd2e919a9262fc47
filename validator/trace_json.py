"""The JSON form of a trace: strict in both directions, so that a typing error cannot pass."""

from __future__ import annotations

import difflib
import json
import math
import reprlib
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from validator.errors import TraceError
from validator.types import Trace

__all__ = ["TRACE_KEYS", "strict_loads", "trace_from_json", "trace_to_json"]

TRACE_KEYS = tuple(field.name for field in fields(Trace))
"""The keys a JSON trace may have; the first four are required."""

_REQUIRED = TRACE_KEYS[:4]
_SHOWN = reprlib.Repr()
_SHOWN.maxstring = _SHOWN.maxother = 60


def trace_to_json(trace: Trace) -> dict[str, Any]:
    """The trace as a dictionary ready for ``json.dumps``; what equals its default is left out.

    ``label`` is always there, since a missing label and a forgotten one look alike.
    """
    record: dict[str, Any] = {name: getattr(trace, name) for name in _REQUIRED}
    record["label"] = trace.label
    if trace.steps is not None:
        record["steps"] = [list(span) for span in trace.steps]
    if trace.step_labels is not None:
        record["step_labels"] = list(trace.step_labels)
    if trace.source:
        record["source"] = trace.source
    if trace.answer is not None:
        record["answer"] = trace.answer
    if trace.status != "ok":
        record["status"] = trace.status
    if trace.meta:
        record["meta"] = dict(trace.meta)
    return record


def trace_from_json(record: Mapping[str, Any]) -> Trace:
    """The trace written as a decoded JSON object; the inverse of :func:`trace_to_json`.

    Raises TraceError for an unknown or missing key, a value of the wrong type, a label other than
    1, 0 and null, step spans that overlap or leave the completion, and an empty completion.
    """
    _require_keys(record)
    for name in ("id", "problem_id", "completion"):
        if not _text(record, name):
            raise TraceError(f"{name!r} must not be empty")
    answer = record.get("answer")
    return Trace(
        id=record["id"],
        problem_id=record["problem_id"],
        prompt=_text(record, "prompt"),
        completion=record["completion"],
        label=_label(record.get("label"), "label"),
        steps=_spans(record.get("steps")),
        step_labels=_step_labels(record.get("step_labels")),
        source=_text(record, "source") if "source" in record else "",
        answer=None if answer is None else _text(record, "answer"),
        status=record.get("status", "ok"),
        meta=_mapping(record.get("meta", {})),
    )


def strict_loads(text: str) -> Any:
    """``json.loads`` that also refuses what JSON does not define or UTF-8 cannot hold.

    Raises ValueError for NaN, infinities (also as overflow: 1e999), a key given twice in one
    object, and a lone surrogate.
    """
    value = json.loads(
        text, parse_constant=_refuse_constant, parse_float=_finite, object_pairs_hook=_unique_keys
    )
    if "\\u" in text:
        _require_encodable(value)
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON; write null for a number that is not known")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"the number {text[:40]} overflows")
    return number


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} is given twice")
    return result


def _require_encodable(value: Any) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"a lone surrogate ({error.object[error.start]!r}) is no text") from error


def _require_keys(record: Mapping[str, Any]) -> None:
    for key in record:
        if key not in TRACE_KEYS:
            close = difflib.get_close_matches(key, TRACE_KEYS, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(TRACE_KEYS)}"
            raise TraceError(f"unknown key {key!r}; {hint} Further facts go under 'meta'.")
    missing = [name for name in _REQUIRED if name not in record]
    if missing:
        raise TraceError(f"missing key {missing[0]!r}; required: {', '.join(_REQUIRED)}")


def _text(record: Mapping[str, Any], name: str) -> str:
    value = record[name]
    if not isinstance(value, str):
        raise TraceError(f"{name!r} must be a string, got {_SHOWN.repr(value)}")
    return value


def _label(value: Any, what: str) -> int | None:
    if value is None or (type(value) is int and value in (0, 1)):
        return value
    raise TraceError(f"{what} must be 1 (valid), 0 (invalid) or null, got {_SHOWN.repr(value)}")


def _spans(value: Any) -> tuple[tuple[int, int], ...] | None:
    if value is None:
        return None
    if not isinstance(value, list) or not all(_is_span(span) for span in value):
        raise TraceError(f"'steps' must be a list of [start, end], got {_SHOWN.repr(value)}")
    return tuple((start, end) for start, end in value)


def _is_span(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(type(v) is int for v in value)


def _step_labels(value: Any) -> tuple[int | None, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list):
        raise TraceError(f"'step_labels' must be a list, got {_SHOWN.repr(value)}")
    return tuple(_label(item, f"step_labels[{i}]") for i, item in enumerate(value))


def _mapping(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise TraceError(f"'meta' must be an object, got {_SHOWN.repr(value)}")
    return value
