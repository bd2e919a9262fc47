"""From traces to a feature file by way of shards: compute those that are not done, then collect.

Neither step holds more than a shard's traces and rows, besides 16 bytes of hashes for each trace
and the keys of the rows in the store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from validator.errors import StoreError
from validator.features.rowset import row_trace
from validator.features.shard_ledger import FailedTrace, ShardRecord, ShardRow
from validator.features.shard_worker import ExtractionJob, ShardOutcome, ShardWorker
from validator.features.shards import TraceShard
from validator.features.store import FeatureStore
from validator.features.store_place import store_place
from validator.features.store_recipe import read_recipe
from validator.features.table_file import FeatureFile
from validator.types import FeatureMatrix, Progress, Provenance

__all__ = [
    "Backend", "Collector", "Extracted", "ShardTotals", "extract_shards", "run_shards", "serially",
]

REPEATED = "its text is that of an earlier trace, which could not be read"


class Backend(Protocol):
    """Whatever gets shards computed, in any order."""

    def __call__(
        self, job: ExtractionJob, shards: Iterable[TraceShard]
    ) -> Iterator[ShardOutcome]:
        """One outcome for each shard, as they are done."""


def serially(job: ExtractionJob, shards: Iterable[TraceShard]) -> Iterator[ShardOutcome]:
    """The backend of one process: a worker, shard by shard."""
    worker = ShardWorker(job)
    for shard in shards:
        yield worker(shard)


@dataclass(slots=True)
class ShardTotals:
    """What :func:`run_shards` has seen."""

    shards: int = 0
    traces: int = 0
    done_before: int = 0
    """Shards that had a record."""
    forward_passes: int = 0


def run_shards(
    job: ExtractionJob, shards: Iterable[TraceShard], backend: Backend = serially, *,
    progress: Progress | None = None, total: int = 0,
) -> ShardTotals:
    """Have every shard computed that is not done.

    Args:
        job: what is computed, and where rows go.
        shards: of :func:`validator.features.shards.cut_shards`, or a part of them.
        backend: who computes.
        progress: called with (done, total) traces.
        total: number of traces, for ``progress``.

    Raises:
        StoreError: the store cannot be read or written; what is done is kept.
    """
    ledger, totals, seen = job.ledger(), ShardTotals(), 0
    ledger.prepare()
    done = ledger.done()

    def todo() -> Iterator[TraceShard]:
        nonlocal seen
        for shard in shards:
            totals.shards += 1
            totals.traces += len(shard.traces)
            if shard.digest not in done:
                yield shard
                continue
            totals.done_before += 1
            seen += len(shard.traces)

    for outcome in backend(job, todo()):
        totals.forward_passes += outcome.forward_passes
        seen += outcome.traces
        if progress is not None:
            progress(seen, total)
    return totals


class Collector:
    """Reads what shards have left in the store.

    Args:
        job: as it was run.

    Attributes:
        failed: traces that were given up, of the shards read so far.
        missing: digests of shards that turned out to be not done: rows of theirs were damaged or
            removed. Their records are removed, so that running again computes them.
        solver_errors: largest errors of the rows the solver estimated.
    """

    def __init__(self, job: ExtractionJob) -> None:
        self.job = job
        self.failed: list[FailedTrace] = []
        self.missing: list[str] = []
        self.solver_errors: dict[str, float] = {}
        self._ledger = job.ledger()
        self._stores: dict[str, FeatureStore] = {}

    def __call__(self, shards: Iterable[TraceShard]) -> Iterator[FeatureMatrix]:
        """The rows of each shard that has any, in order.

        Raises:
            StoreError: the store cannot be read.
        """
        for shard in shards:
            record = self._ledger.read(shard.digest)
            if record is None:
                self.missing.append(shard.digest)
            elif (found := self._matrix(shard, record)) is not None:
                yield found

    def _matrix(self, shard: TraceShard, record: ShardRecord) -> FeatureMatrix | None:
        store = self._store(record.recipe)
        rows = {} if store is None else store.get(row.key for row in record.rows)
        there = [row for row in record.rows if row.key in rows]
        if lost := [row for row in record.rows if row.key not in rows]:
            own = [row for row in lost if shard.traces[row.trace].id not in shard.repeated]
            if own:
                self._ledger.forget(shard.digest)
                self.missing.append(shard.digest)
                return None
        self._note(shard, record, lost)
        if not there or store is None or store.names is None:
            return None
        traces = tuple(row_trace(shard.traces[row.trace], row.step) for row in there)
        found = [rows[row.key] for row in there]
        return FeatureMatrix(
            np.stack([row.values for row in found]), store.names, traces,
            np.array([row.lengths for row in found], dtype=np.int64), record.provenance,
            {t.id: r.reason for t, r in zip(traces, found, strict=True) if r.reason})

    def _note(self, shard: TraceShard, record: ShardRecord, lost: list[ShardRow]) -> None:
        repeated = dict.fromkeys(shard.traces[row.trace].id for row in lost)
        self.failed += [*record.failed, *(FailedTrace(i, REPEATED, 0) for i in repeated)]
        for name, error in record.solver_errors.items():
            self.solver_errors[name] = max(error, self.solver_errors.get(name, error))

    def _store(self, recipe: str) -> FeatureStore | None:
        """The store of a recipe, by its hash; None if its folder was removed."""
        if recipe not in self._stores:
            found = read_recipe(store_place(self.job.root) / recipe)
            if found is None:
                return None
            self._stores[recipe] = FeatureStore(self.job.root, found)
        return self._stores[recipe]



@dataclass(slots=True)
class Extracted:
    """What :func:`extract_shards` did."""

    totals: ShardTotals
    failed: tuple[FailedTrace, ...] = ()
    """Traces that were given up."""
    solver_errors: Mapping[str, float] = field(default_factory=dict)
    provenance: Provenance | None = None
    """None where no row could be read."""
    rows: int = 0
    columns: int = 0
    tokens: int = 0
    rows_with_nan: int = 0


def extract_shards(
    job: ExtractionJob, shards: Callable[[], Iterable[TraceShard]], output: str | Path,
    backend: Backend = serially, *, skip_failed: bool = False,
    progress: Progress | None = None, total: int = 0,
) -> Extracted:
    """Compute what is not done, then write all rows to one feature file.

    Args:
        job: what is computed, and where rows go.
        shards: makes all shards, each time it is called.
        output: path or URL of the feature file.
        backend: who computes.
        skip_failed: write the file also where traces were given up; without it there is none.
        progress: called with (done, total) traces.
        total: number of traces, for ``progress``.

    Raises:
        StoreError: the store cannot be read or written, or rows are missing once more after they
            were computed again.
        ValidatorError: the file cannot be written.
    """
    for _ in range(2):
        totals = run_shards(job, shards(), backend, progress=progress, total=total)
        collector, done = Collector(job), Extracted(totals)
        with FeatureFile(output) as file:
            for features in collector(shards()):
                file.add(features)
                _count(done, features)
            if not collector.missing:
                done.failed, done.solver_errors = tuple(collector.failed), collector.solver_errors
                if done.rows and (skip_failed or not done.failed):
                    file.publish()
                return done
    raise StoreError(f"rows of {len(collector.missing)} shards are missing from {job.root} after "
                     "they were computed again; run `validator store verify`")


def _count(done: Extracted, features: FeatureMatrix) -> None:
    done.provenance = features.provenance
    done.rows += len(features)
    done.columns = len(features.names)
    done.tokens += int(features.lengths.sum())
    done.rows_with_nan += len(features.nan_reasons)
