"""The file of samples while it grows: its manifest, what is in it already, what is appended."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from validator import __version__
from validator.errors import ParameterError, TraceError
from validator.trace_json import trace_from_json, trace_to_json
from validator.training.problems import Problem, PromptFormat
from validator.types import Trace

__all__ = ["append", "claim", "read_samples", "rewrite", "run_manifest"]


def run_manifest(
    generator: Mapping[str, Any], problems: Sequence[Problem], prompt: PromptFormat,
    sampling: Mapping[str, Any], command: str, versions: Mapping[str, str],
) -> dict[str, Any]:
    """What makes a file of samples; all but ``command``, ``versions`` and ``endpoint`` binds it.

    Args:
        generator: what identifies who draws, e.g. model and revision.
        problems: what is asked.
        prompt: how it is asked.
        sampling: how answers are drawn.
        command: as typed.
        versions: of the packages that draw.
    """
    asked = json.dumps([[p.id, prompt.prompt(p.question), p.target] for p in problems])
    return {
        **generator, "problems": len(problems),
        "prompts_sha256": hashlib.sha256(asked.encode()).hexdigest(),
        "prompt_format": asdict(prompt), "sampling": dict(sampling), "command": command,
        "versions": {"spectral-validator": __version__, **versions},
    }


_UNBOUND = ("command", "versions", "endpoint")
"""May differ between the calls that fill one file: a server's address is not its model."""


def claim(output: Path, manifest: Mapping[str, Any]) -> Path:
    """The partial file, once the manifest is written or the one there asks for the same samples."""
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_name(output.name + ".partial")
    path = output.with_name(output.name + ".manifest.json")
    begun = output.exists() or partial.exists()
    if begun and not path.exists():
        raise ParameterError(
            f"{output} exists and was not made by this command; give another output")
    if not begun:
        fresh = path.with_name(path.name + ".tmp")
        fresh.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
        fresh.replace(path)
        return partial
    found, wanted = _read_manifest(path), json.loads(json.dumps(manifest))
    differ = [k for k in wanted if k not in _UNBOUND and found.get(k) != wanted[k]]
    if differ:
        raise ParameterError(
            f"{output} was begun with other settings ({', '.join(differ)}); give another output, "
            f"or remove {path.name} and the traces beside it")
    return partial


_REMOVE = "remove it and the traces beside it to sample again"


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise TraceError(f"{path} is damaged ({error}); {_REMOVE}") from error
    if not isinstance(found, dict):
        raise TraceError(f"{path} is damaged (no JSON object); {_REMOVE}")
    return found


def read_samples(
    output: Path, partial: Path, problems: Sequence[Problem], n: int
) -> dict[int, list[Trace]]:
    """Problems whose N traces are all there; a torn last line and what it cut are not."""
    path = output if output.exists() else partial
    if not path.exists():
        return {}
    where = {p.id: i for i, p in enumerate(problems)}
    found: dict[int, dict[str, Trace]] = {}
    for line in path.read_bytes().split(b"\n")[:-1]:  # what follows the last line break is torn
        try:
            trace = trace_from_json(json.loads(line))
        except (ValueError, TraceError) as error:
            raise TraceError(f"{path} is damaged: {error}; remove it to sample again") from error
        if trace.problem_id not in where:
            raise TraceError(f"{path} is damaged: problem {trace.problem_id!r} was not asked; "
                             "remove it to sample again", trace_id=trace.id)
        found.setdefault(where[trace.problem_id], {})[trace.id] = trace
    wanted = {i: [f"{problems[i].id}#{k}" for k in range(n)] for i in found}
    return {i: [found[i][name] for name in wanted[i]] for i in found
            if found[i].keys() == set(wanted[i])}


def rewrite(partial: Path, done: Mapping[int, Sequence[Trace]]) -> None:
    """Leave whole chunks only, so that what is appended begins on a line of its own."""
    fresh = partial.with_name(partial.name + ".tmp")
    fresh.unlink(missing_ok=True)
    append(fresh, [t for traces in done.values() for t in traces])
    fresh.replace(partial)


def append(path: Path, traces: Sequence[Trace]) -> None:
    """On the disk once this returns."""
    text = "".join(json.dumps(trace_to_json(t), ensure_ascii=False) + "\n" for t in traces)
    with path.open("a", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
