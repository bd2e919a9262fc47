"""A tiny model in a folder, traces, jobs over them, and workers that break."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # as a program, where PYTHONSAFEPATH is set

from tiny_models import byte_tokenizer, tiny_model

from validator.features.shard_ledger import ShardRow
from validator.features.shard_run import Collector
from validator.features.shard_worker import ExtractionJob, ShardWorker
from validator.features.shards import TraceShard, cut_shards
from validator.types import Trace

SIZE = 6
POISON = "POISON"


def save_tiny(folder: Path, **overrides: Any) -> Path:
    """The tiny llama and its tokenizer as a folder that any process can load."""
    tiny_model(**overrides).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def make_traces(problems: int = 8, samples: int = 3) -> list[Trace]:
    """Prompts long enough to be shared; completions of 10 to 40 tokens."""
    return [Trace(f"p{p}#{k}", f"p{p}", f"Question {p}: add {p} and 2.\nA:",
                  f" {p} + {k} = {p + k}" + "." * (p % 9 + 3 * k), (p + k) % 2)
            for p in range(problems) for k in range(samples)]


def poisoned(traces: Sequence[Trace], where: int) -> list[Trace]:
    """The same traces with one more, at a position."""
    bad = Trace("bad", traces[where].problem_id, traces[where].prompt, f" {POISON}", 1)
    return [*traces[:where], bad, *traces[where:]]


def job_of(root: Any, model: Path, **options: Any) -> ExtractionJob:
    return ExtractionJob.of(root if isinstance(root, str) else str(root), str(model),
                            feature_set="fast", num_threads=1, **options)


def shards_of(traces: Sequence[Trace], size: int = SIZE) -> list[TraceShard]:
    return list(cut_shards(traces, size))


def collected(job: ExtractionJob, traces: Sequence[Trace], size: int = SIZE) -> dict[str, Any]:
    """trace id -> bits of its row, lengths and reason, of the shards that are done."""
    found = {}
    for matrix in Collector(job)(shards_of(traces, size)):
        for i, trace in enumerate(matrix.traces):
            assert trace.id not in found
            found[trace.id] = (matrix.values[i].tobytes(), tuple(matrix.lengths[i]),
                               matrix.nan_reasons.get(trace.id))
    return found


class RaisingWorker(ShardWorker):
    """Cannot read the poisonous trace, nor say which one it is."""

    def _attempt(self, shard: TraceShard, unit: str, todo: Sequence[int]) -> list[ShardRow]:
        with self.ledger.attempt(shard.digest, unit):
            if any(POISON in shard.traces[i].completion for i in todo):
                self.poison()
        return super()._attempt(shard, unit, todo)

    def poison(self) -> None:
        raise RuntimeError("the device is lost")


class DyingWorker(RaisingWorker):
    """Its process dies of it."""

    def poison(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)
