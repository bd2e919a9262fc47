"""A model's own answers to problems with known targets: sampled, checked, written as they come."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from validator import __version__
from validator.errors import LabelError, ParameterError, TraceError, ValidatorError
from validator.models.loading import LoadedModel
from validator.trace_json import trace_from_json, trace_to_json
from validator.training.answers import check, parse_answer
from validator.training.datasets import write_traces
from validator.training.decoding import Continuation, Sampler, Sampling
from validator.training.problems import Problem, PromptFormat
from validator.types import Progress, Status, Trace

__all__ = ["SamplingRun", "sample_traces"]


@dataclass(frozen=True)
class SamplingRun:
    """What :func:`sample_traces` did."""

    traces: tuple[Trace, ...]
    """By problem, then by sample."""
    tokens: int
    """Tokens drawn by this call; those of chunks found in the file are not in it."""
    resumed: int
    """Traces that were in the file already."""
    empty: int
    """Samples that ended at once: kept with a stand-in, see :func:`sample_traces`."""
    shares_prefix: bool


def sample_traces(
    loaded: LoadedModel,
    problems: Sequence[Problem],
    prompt: PromptFormat,
    sampling: Sampling,
    output: Path,
    *,
    command: str = "",
    progress: Progress | None = None,
) -> SamplingRun:
    """Sample N answers to each problem and label them by checking the final answer.

    Traces are appended to ``<output>.partial`` chunk by chunk, so a run that is killed goes on
    where it stopped when called again with the same arguments, and ends with the same file as a
    run that was not. ``<output>.manifest.json`` records what made the file.

    An answer is valid if it equals the target. One without a parsable final answer is invalid and
    has status ``unparsed``; one cut off by the token limit has status ``truncated`` and keeps the
    answer it had got to, if any. An empty answer cannot be a trace: its completion is a single
    space, its status ``unparsed``.

    Args:
        loaded: the model.
        problems: ids distinct.
        prompt: how they are asked.
        sampling: how answers are drawn.
        output: JSONL file to write.
        command: recorded in the manifest.
        progress: called with (done, total) traces.

    Raises:
        ParameterError: ``output`` or its partial file was made with other settings, no problems, or
            an id used twice.
        LabelError: a target that the prompt's answer style cannot be compared with.
        TraceError: a damaged file or manifest.
        ContextLengthError: a prompt that leaves no room for an answer.
        ValidatorError: the file cannot be written.
    """
    _require_checkable(problems, prompt)
    manifest = _manifest(loaded, problems, prompt, sampling, command)
    prompts = [prompt.prompt(p.question) for p in problems]
    sampler = Sampler(loaded.model, loaded.tokenizer, prompts, sampling, prompt.stop)
    try:
        partial = _claim(output, manifest)
        done = _whole_chunks(_read(output, partial, problems, sampling.n), sampler.chunks)
        resumed, tokens = sum(map(len, done.values())), 0
        _rewrite(partial, done)
        for chunk in sampler.chunks:
            if chunk[0] in done:
                continue
            drawn = sampler.draw(chunk)
            tokens += sum(c.tokens for samples in drawn for c in samples)
            fresh = _label(chunk, drawn, problems, prompts, prompt, loaded.name)
            _append(partial, [t for traces in fresh.values() for t in traces])
            done |= fresh
            if progress is not None:
                progress(sum(map(len, done.values())), len(problems) * sampling.n)
        traces = tuple(t for i in range(len(problems)) for t in done[i])
        write_traces(output, traces)
        partial.unlink()
    except OSError as error:
        raise ValidatorError(f"cannot write {output}: {error}") from error
    empty = sum(t.completion == EMPTY for t in traces)
    return SamplingRun(traces, tokens, resumed, empty, sampler.shares_prefix)


EMPTY = " "


def _require_checkable(problems: Sequence[Problem], prompt: PromptFormat) -> None:
    """Fail before hours of sampling, not after."""
    ids = [p.id for p in problems]
    if not ids or len(set(ids)) < len(ids):
        raise ParameterError(
            f"expected problems of distinct ids, got {len(ids)} problems, {len(set(ids))} ids")
    for problem in problems:
        try:
            check(problem.target, problem.target, prompt.answer_style)
        except LabelError as error:
            raise LabelError(f"problem {problem.id!r}: {error}") from error


def _label(
    chunk: Sequence[int], drawn: Sequence[Sequence[Continuation]], problems: Sequence[Problem],
    prompts: Sequence[str], style: PromptFormat, source: str,
) -> dict[int, list[Trace]]:
    return {
        i: [_trace(problems[i], prompts[i], k, c, style, source) for k, c in enumerate(samples)]
        for i, samples in zip(chunk, drawn, strict=True)
    }


def _trace(problem: Problem, prompt: str, k: int, drawn: Continuation, style: PromptFormat,
           source: str) -> Trace:
    answer = parse_answer(drawn.text, style.answer_style)
    status: Status = "ok" if answer is not None else "unparsed"
    return Trace(
        id=f"{problem.id}#{k}", problem_id=problem.id, prompt=prompt,
        completion=drawn.text or EMPTY,
        label=int(answer is not None and check(answer, problem.target, style.answer_style)),
        source=source, answer=answer, status=status if drawn.finished else "truncated",
        meta={"target": problem.target, **problem.meta})


def _manifest(loaded: LoadedModel, problems: Sequence[Problem], prompt: PromptFormat,
              sampling: Sampling, command: str) -> dict[str, Any]:
    import torch
    import transformers

    asked = json.dumps([[p.id, prompt.prompt(p.question), p.target] for p in problems])
    return {
        "model": loaded.name, "revision": loaded.revision, "problems": len(problems),
        "prompts_sha256": hashlib.sha256(asked.encode()).hexdigest(),
        "prompt_format": asdict(prompt), "sampling": asdict(sampling), "command": command,
        "versions": {"spectral-validator": __version__, "torch": torch.__version__,
                     "transformers": transformers.__version__},
    }


def _claim(output: Path, manifest: Mapping[str, Any]) -> Path:
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
    differ = [k for k in wanted if k not in ("command", "versions") and found.get(k) != wanted[k]]
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


def _read(
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


def _whole_chunks(
    found: dict[int, list[Trace]], chunks: Sequence[Sequence[int]]
) -> dict[int, list[Trace]]:
    """A chunk has one seed, so it is drawn again whole where any of it is missing."""
    return {i: found[i] for chunk in chunks if all(i in found for i in chunk) for i in chunk}


def _rewrite(partial: Path, done: Mapping[int, Sequence[Trace]]) -> None:
    """Leave whole chunks only, so that what is appended begins on a line of its own."""
    fresh = partial.with_name(partial.name + ".tmp")
    fresh.unlink(missing_ok=True)
    _append(fresh, [t for traces in done.values() for t in traces])
    fresh.replace(partial)


def _append(path: Path, traces: Sequence[Trace]) -> None:
    text = "".join(json.dumps(trace_to_json(t), ensure_ascii=False) + "\n" for t in traces)
    with path.open("a", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
