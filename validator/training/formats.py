"""Public formats of labelled reasoning, one line in, one or two traces out.

Every format shows the question in the same way, ``PROMPT``. The line break that follows belongs to
the completion, because a prompt that ends in white space is cut into other tokens than the same
text in one piece.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from validator.errors import TraceError
from validator.groups import joined_ids
from validator.training.answers import parse_answer
from validator.types import Status, Trace

__all__ = ["PROMPT", "PUBLIC_FORMATS", "Where", "line_spans", "merge_problems", "step_spans"]

PROMPT = "Question: {question}\nAnswer:"
"""What stands before every completion; the completion starts with a line break."""

_REVERSED = re.compile(r"\s+If we know the answer (?:to|of) the above question is .*")
_QUANTITY = re.compile(r"[\dX](?:[\dX]|[.,:/](?=[\dX]))*")


@dataclass(frozen=True, slots=True)
class Where:
    """The place a record came from; some formats have no other identity."""

    stem: str
    """File name without its suffixes."""
    line: int
    """Counted from 1."""


def step_spans(completion: str, steps: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """The spans (start, end) in characters of ``steps``, found in order inside ``completion``.

    Raises TraceError for a step that is empty, or does not occur after the one before it.
    """
    spans: list[tuple[int, int]] = []
    cursor = 0
    for number, step in enumerate(steps, start=1):
        start = completion.find(step, cursor)
        if start < 0 or not step:
            raise TraceError(f"step {number} of {len(steps)} is empty, or not in the solution "
                             f"after the step before it: {step[:60]!r}")
        cursor = start + len(step)
        spans.append((start, cursor))
    return tuple(spans)


def line_spans(completion: str) -> tuple[tuple[int, int], ...]:
    """The span of every line that is not blank, without its line break."""
    return tuple(m.span() for m in re.finditer(r"[^\n]+", completion) if m[0].strip())


def merge_problems(traces: Sequence[Trace]) -> list[Trace]:
    """Give traces of equal problem id or equal prompt (white space aside) one problem id.

    Public files repeat a question under several ids, and an id under several wordings; a split by
    the ids as given would put both sides of such a pair in different parts. The id that comes first
    in the file stands for its group.
    """
    seen: dict[str, str] = {}
    pairs = [(seen.setdefault(" ".join(t.prompt.split()), t.problem_id), t.problem_id)
             for t in traces]
    joined = joined_ids([t.problem_id for t in traces], pairs)
    return [replace(t, problem_id=i) for t, i in zip(traces, joined, strict=True)]


def _gsm8k(record: Mapping[str, Any], where: Where) -> tuple[Trace, ...]:
    question, solution = _get(record, "question", str), _get(record, "answer", str)
    split = next((name for name in ("train", "test") if name in where.stem), where.stem)
    problem = f"gsm8k-{split}-{where.line - 1}"
    return (_lines_trace(f"{problem}-reference", problem, question, solution, 1, "reference"),)


def _gsm8k_solutions(record: Mapping[str, Any], where: Where) -> tuple[Trace, ...]:
    problem, source = _get(record, "problem_id", str), _get(record, "source_model", str)
    question, solution = _get(record, "question", str), _get(record, "solution", str)
    label = int(_get(record, "is_correct", bool))
    return (_lines_trace(f"{problem}-{source}", problem, question, solution, label, source),)


def _mr_gsm8k(record: Mapping[str, Any], where: Where) -> tuple[Trace, ...]:
    question, steps = _get(record, "question", str), _steps(record, "steps")
    solution, kind = _get(record, "solution", str), _get(record, "question_type", str)
    first_error = _get(record, "first_error_step_1based", int)
    answer = None if kind == "POT" else parse_answer(solution, "integer")
    return (Trace(
        id=f"mr-gsm8k-{_get(record, 'uuid', str)}",
        problem_id=f"mr-gsm8k-{_digest(_wording(question))}",
        prompt=PROMPT.format(question=question),
        completion="\n" + solution,
        label=0,
        steps=step_spans("\n" + solution, steps),
        step_labels=_until_error(len(steps), first_error - 1),
        answer=answer,
        status=_status(answer),
        meta={"question_type": kind, "answer_correct": _get(record, "answer_correct", str),
              "target": str(record.get("ground_truth_answer"))},
    ),)


def _bigbench_mistake(record: Mapping[str, Any], where: Where) -> tuple[Trace, ...]:
    name, steps = _get(record, "id", str), _steps(record, "steps")
    first_error = _get(record, "first_error_step", int, type(None))
    if _get(record, "is_valid", bool) != (first_error is None):
        raise TraceError("'is_valid' contradicts 'first_error_step'")
    completion = "\n" + _get(record, "solution", str)
    answer = _get(record, "answer", str, type(None))
    return (Trace(
        id=name,
        problem_id=name,
        prompt=PROMPT.format(question=_get(record, "question", str)),
        completion=completion,
        label=int(first_error is None),
        steps=step_spans(completion, steps),
        step_labels=_until_error(len(steps), first_error),
        source=_get(record, "source_model", str),
        answer=answer,
        status=_status(answer),
        meta={"task": _get(record, "task", str), "target": _get(record, "target", str),
              "is_correct": _get(record, "is_correct", bool)},
    ),)


def _prmbench(record: Mapping[str, Any], where: Where) -> tuple[Trace, ...]:
    valid, modified = _steps(record, "steps_valid"), _steps(record, "steps_corrupted")
    errors = _steps(record, "error_steps_1based", int)
    problem, kind = _get(record, "idx", str), _get(record, "class", str)
    # One pair of ids occurs twice in a class, so the text has to tell the pairs apart.
    name = f"{kind}-{problem}-{_digest(chr(10).join(modified))[:8]}"
    meta: dict[str, Any] = {"class": kind, "pair": name}
    base = Trace(
        id=f"{name}-original",
        problem_id=problem,
        prompt=PROMPT.format(question=_get(record, "question", str)),
        completion="\n" + "\n".join(valid),
        label=1,
        steps=step_spans("\n" + "\n".join(valid), valid),
        step_labels=(1,) * len(valid),
        source="original",
        meta=meta,
    )
    completion = "\n" + "\n".join(modified)
    return base, replace(
        base, id=f"{name}-modified", completion=completion, label=int(not errors),
        steps=step_spans(completion, modified), step_labels=_listed_errors(len(modified), errors),
        source="modified", meta={**meta, "error_steps": errors},
    )


def _lines_trace(
    name: str, problem: str, question: str, solution: str, label: int, source: str
) -> Trace:
    completion = "\n" + solution
    answer = parse_answer(solution, "integer")
    return Trace(
        id=name, problem_id=problem, prompt=PROMPT.format(question=question), completion=completion,
        label=label, steps=line_spans(completion), source=source, answer=answer,
        status=_status(answer),
    )


def _until_error(count: int, first: int | None) -> tuple[int | None, ...]:
    """1 before the first wrong step (counted from 0), 0 at it, None after it: nobody judged."""
    if first is None:
        return (1,) * count
    if not 0 <= first < count:
        raise TraceError(f"the first wrong step is number {first + 1}, but there are {count}")
    return (1,) * first + (0,) + (None,) * (count - first - 1)


def _listed_errors(count: int, errors: Sequence[int]) -> tuple[int, ...] | None:
    """0 for the listed steps (counted from 1), 1 for the others; None if one is not there."""
    if any(not 1 <= number <= count for number in errors):
        return None
    return tuple(int(number not in errors) for number in range(1, count + 1))


def _status(answer: str | None) -> Status:
    return "unparsed" if answer is None else "ok"


def _wording(question: str) -> str:
    """The question without its numbers: a reversed question then reads like its original."""
    return _QUANTITY.sub("#", " ".join(_REVERSED.sub("", question).split()))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _get(record: Mapping[str, Any], name: str, *types: type) -> Any:
    if name not in record:
        raise TraceError(f"missing key {name!r}; got {', '.join(sorted(record))}")
    value = record[name]
    if type(value) not in types:  # not isinstance: a bool is no step number
        expected = " or ".join("null" if t is type(None) else t.__name__ for t in types)
        raise TraceError(f"{name!r} must be {expected}, got {type(value).__name__}")
    return value


def _steps(record: Mapping[str, Any], name: str, kind: type = str) -> list[Any]:
    values: list[Any] = _get(record, name, list)
    if any(type(value) is not kind for value in values):
        raise TraceError(f"{name!r} must be a list of {kind.__name__}")
    return values


PUBLIC_FORMATS: Mapping[str, Callable[[Mapping[str, Any], Where], tuple[Trace, ...]]] = {
    "bigbench-mistake": _bigbench_mistake,
    "gsm8k": _gsm8k,
    "gsm8k-solutions": _gsm8k_solutions,
    "mr-gsm8k": _mr_gsm8k,
    "prmbench": _prmbench,
}
"""Format name -> reader of one decoded line."""
