"""The same sampling on many machines: a Ray worker draws whole chunks, each with its own seed.

So the answers are those that one process draws, whoever draws which chunk.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from validator.models.loading import identify_model, load_model, load_tokenizer
from validator.plugins.distributed import RayCluster, answered
from validator.training.decoding import Continuation, Sampler, Sampling, plan_chunks
from validator.training.problems import Problem, PromptFormat
from validator.training.sample_file import run_manifest
from validator.training.sampling import Origin, SamplingRun, draw_traces, require_checkable
from validator.types import Progress

__all__ = ["sample_with_ray"]

Chunk = tuple[int, ...]


def sample_with_ray(
    cluster: RayCluster, model: str | Path, problems: Sequence[Problem], prompt: PromptFormat,
    sampling: Sampling, output: Path, *, device: str = "cpu", command: str = "",
    progress: Progress | None = None,
) -> SamplingRun:
    """Sample N answers to each problem, into the file that ``sample_traces`` writes.

    The driver loads the tokenizer only; the file may be begun by one and finished by the other.

    Args:
        cluster: where the workers run.
        model: known name, hub id, or a folder that every worker reaches.
        problems: ids distinct.
        prompt: how they are asked.
        sampling: how answers are drawn.
        output: JSONL file to write.
        device: of the workers.
        command: recorded in the manifest.
        progress: called with (done, total) traces.

    Raises:
        ValidatorError: Ray is not there, or a worker failed.
        ParameterError, LabelError, TraceError, ContextLengthError: as ``sample_traces``.
    """
    import torch
    import transformers

    require_checkable(problems, prompt)
    name, revision = identify_model(model)
    prompts = tuple(prompt.prompt(p.question) for p in problems)
    manifest = run_manifest(
        {"model": name, "revision": revision}, problems, prompt, asdict(sampling), command,
        {"torch": torch.__version__, "transformers": transformers.__version__})
    tokenizer = load_tokenizer(model)
    lengths = [len(tokenizer(text)["input_ids"]) for text in prompts]
    draws = _RayDraws(cluster, plan_chunks(lengths, sampling.n, sampling.batch_size), {
        "model": model, "device": device, "prompts": prompts, "sampling": sampling,
        "stop": tuple(prompt.stop), "threads": cluster.cpus_per_worker})
    return draw_traces(draws, problems, prompt, sampling.n, output, manifest,
                       Origin(name, prompts, {}), progress=progress)


class SamplingActor:
    """A model that continues prompts, in a process of Ray's.

    Args:
        model: as :func:`sample_with_ray`'s.
        device: where it is put.
        prompts: all that are asked.
        sampling: how answers are drawn.
        stop: strings that end an answer.
        threads: CPU threads.
    """

    def __init__(
        self, model: str | Path, device: str, prompts: Sequence[str], sampling: Sampling,
        stop: Sequence[str], threads: int,
    ) -> None:
        import torch

        torch.set_num_threads(threads)
        loaded = load_model(model, device=device)
        self.sampler = Sampler(loaded.model, loaded.tokenizer, prompts, sampling, stop)

    def __call__(self, batch: Mapping[str, Sequence[Any]]) -> dict[str, list[str]]:
        """Draw one chunk."""
        return answered(batch, self._draw)

    def _draw(self, chunk: list[int]) -> list[Any]:
        drawn = self.sampler.draw(chunk)
        return [chunk, [[asdict(c) for c in samples] for samples in drawn],
                self.sampler.shares_prefix]


class _RayDraws:
    """Chunks and who draws them, as :class:`validator.training.sampling.Draws`."""

    def __init__(
        self, cluster: RayCluster, chunks: Sequence[Chunk], arguments: Mapping[str, Any]
    ) -> None:
        self.cluster, self.chunks, self.arguments = cluster, chunks, arguments
        self.shares_prefix = True

    def draw_many(
        self, todo: Sequence[Chunk]
    ) -> Iterator[tuple[Chunk, list[list[Continuation]]]]:
        """Continuations of each chunk, as they are ready."""
        for chunk, drawn, shares in self.cluster.map(
            SamplingActor, self.arguments, [list(chunk) for chunk in todo]
        ):
            self.shares_prefix &= bool(shares)
            yield tuple(chunk), [[Continuation(**c) for c in samples] for samples in drawn]

    def draw(self, chunk: Sequence[int]) -> list[list[Continuation]]:
        """Of one chunk."""
        return next(drawn for _, drawn in self.draw_many([tuple(chunk)]))
