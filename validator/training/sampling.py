"""A model's own answers to problems with known targets: sampled, checked, written as they come."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from validator.errors import LabelError, ParameterError, ValidatorError
from validator.models.loading import LoadedModel
from validator.training.answers import check, parse_answer
from validator.training.datasets import write_traces
from validator.training.decoding import Continuation, Sampler, Sampling
from validator.training.problems import Problem, PromptFormat
from validator.training.sample_file import append, claim, read_samples, rewrite, run_manifest
from validator.types import Progress, Status, Trace

__all__ = [
    "Draws", "Origin", "SamplingRun", "draw_traces", "require_checkable", "sample_traces",
]


class Draws(Protocol):
    """What continues a fixed list of prompts: a model in this process, or a server."""

    @property
    def chunks(self) -> Sequence[tuple[int, ...]]:
        """Positions of the prompts that are drawn together; every prompt is in exactly one."""

    @property
    def shares_prefix(self) -> bool:
        """False where what the prompts share had to be read again for every sample."""

    def draw(self, chunk: Sequence[int]) -> list[list[Continuation]]:
        """N continuations of each prompt of a chunk, in its order."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where continuations come from, as their traces say it."""

    source: str
    """Who wrote them."""
    prompts: tuple[str, ...]
    """By problem: the text that whoever scores the trace is shown before the completion."""
    meta: Mapping[str, Any]
    """Put into every trace's ``meta``."""


@dataclass(frozen=True)
class SamplingRun:
    """What :func:`draw_traces` did."""

    traces: tuple[Trace, ...]
    """By problem, then by sample."""
    tokens: int
    """Tokens drawn by this call; those of chunks found in the file are not in it."""
    resumed: int
    """Traces that were in the file already."""
    empty: int
    """Samples that ended at once: kept with a stand-in, see :func:`draw_traces`."""
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
    """Sample N answers of a loaded model to each problem; see :func:`draw_traces`.

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
    import torch
    import transformers

    require_checkable(problems, prompt)
    prompts = tuple(prompt.prompt(p.question) for p in problems)
    manifest = run_manifest(
        {"model": loaded.name, "revision": loaded.revision}, problems, prompt, asdict(sampling),
        command, {"torch": torch.__version__, "transformers": transformers.__version__})
    sampler = Sampler(loaded.model, loaded.tokenizer, prompts, sampling, prompt.stop)
    return draw_traces(sampler, problems, prompt, sampling.n, output, manifest,
                       Origin(loaded.name, prompts, {}), progress=progress)


def draw_traces(
    draws: Draws, problems: Sequence[Problem], prompt: PromptFormat, n: int, output: Path,
    manifest: Mapping[str, Any], origin: Origin, *, workers: int = 1,
    progress: Progress | None = None,
) -> SamplingRun:
    """Draw N answers to each problem and label them by checking the final answer.

    Traces are appended to ``<output>.partial`` chunk by chunk, so a run that is killed goes on
    where it stopped when called again with the same arguments, and ends with the same file as a
    run that was not. ``<output>.manifest.json`` records what made the file.

    An answer is valid if it equals the target. One without a parsable final answer is invalid and
    has status ``unparsed``; one cut off by the token limit has status ``truncated`` and keeps the
    answer it had got to, if any. An empty answer cannot be a trace: its completion is a single
    space, its status ``unparsed``.

    Args:
        draws: N continuations of each problem's prompt, in the problems' order.
        problems: ids distinct.
        prompt: how they are asked.
        n: samples of each problem.
        output: JSONL file to write.
        manifest: of :func:`validator.training.sample_file.run_manifest`.
        origin: what the traces say of where they come from.
        workers: threads that draw chunks at the same time; ``draws.draw`` must bear it. Of no
            meaning where ``draws`` has a ``draw_many``: an iterator over (chunk, continuations) in
            any order, for a list of chunks.
        progress: called with (done, total) traces.

    Raises:
        ParameterError, LabelError, TraceError, ValidatorError: as :func:`sample_traces`. Whatever
            ``draws.draw`` raises, once the chunks under way beside it are written.
    """
    require_checkable(problems, prompt)
    try:
        partial = claim(output, manifest)
        done = _whole_chunks(read_samples(output, partial, problems, n), draws.chunks)
        resumed, tokens = sum(map(len, done.values())), 0
        rewrite(partial, done)
        todo = [chunk for chunk in draws.chunks if chunk[0] not in done]
        with closing(_drawn(draws, todo, workers)) as fresh_chunks:
            for chunk, drawn in fresh_chunks:
                tokens += sum(c.tokens for samples in drawn for c in samples)
                fresh = _label(chunk, drawn, problems, prompt, origin)
                append(partial, [t for traces in fresh.values() for t in traces])
                done |= fresh
                if progress is not None:
                    progress(sum(map(len, done.values())), len(problems) * n)
        traces = tuple(t for i in range(len(problems)) for t in done[i])
        write_traces(output, traces)
        partial.unlink()
    except OSError as error:
        raise ValidatorError(f"cannot write {output}: {error}") from error
    empty = sum(t.completion == EMPTY for t in traces)
    return SamplingRun(traces, tokens, resumed, empty, draws.shares_prefix)


_Drawn = tuple[tuple[int, ...], list[list[Continuation]]]


def _drawn(
    draws: Draws, todo: Sequence[tuple[int, ...]], workers: int
) -> Generator[_Drawn]:
    """Chunks as they are ready; after an error no new one is begun, and it is raised last."""
    if (draw_many := getattr(draws, "draw_many", None)) is not None:
        yield from draw_many(todo)
        return
    if workers == 1:
        for chunk in todo:
            yield chunk, draws.draw(chunk)
        return
    rest, running = iter(todo), dict[Future[list[list[Continuation]]], tuple[int, ...]]()
    failed: BaseException | None = None
    with ThreadPoolExecutor(workers) as pool:
        while True:
            while failed is None and len(running) < workers and (chunk := next(rest, ())):
                running[pool.submit(draws.draw, chunk)] = chunk
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                chunk, error = running.pop(future), future.exception()
                if error is None:
                    yield chunk, future.result()
                failed = failed or error
    if failed is not None:
        raise failed


EMPTY = " "


def require_checkable(problems: Sequence[Problem], prompt: PromptFormat) -> None:
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
    style: PromptFormat, origin: Origin,
) -> dict[int, list[Trace]]:
    return {
        i: [_trace(problems[i], origin.prompts[i], k, c, style, origin)
            for k, c in enumerate(samples)]
        for i, samples in zip(chunk, drawn, strict=True)
    }


def _trace(problem: Problem, prompt: str, k: int, drawn: Continuation, style: PromptFormat,
           origin: Origin) -> Trace:
    answer = parse_answer(drawn.text, style.answer_style)
    status: Status = "ok" if answer is not None else "unparsed"
    return Trace(
        id=f"{problem.id}#{k}", problem_id=problem.id, prompt=prompt,
        completion=drawn.text or EMPTY,
        label=int(answer is not None and check(answer, problem.target, style.answer_style)),
        source=origin.source, answer=answer, status=status if drawn.finished else "truncated",
        meta={"target": problem.target, **origin.meta, **problem.meta})


def _whole_chunks(
    found: dict[int, list[Trace]], chunks: Sequence[Sequence[int]]
) -> dict[int, list[Trace]]:
    """A chunk has one seed, so it is drawn again whole where any of it is missing."""
    return {i: found[i] for chunk in chunks if all(i in found for i in chunk) for i in chunk}
