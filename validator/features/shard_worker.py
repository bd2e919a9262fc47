"""One worker for shards of traces, the same in this process, in a Ray actor and in a Slurm task.

A shard is computed as one, and its rows become one file of the store, so that rows do not depend on
who computed them. A trace that cannot be read is given up by name: at once where the error names
it, else after a number of tries, the death of the process included. To find out which trace of a
shard it is, its traces are read one by one; the others are then computed together once more.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import transformers

from validator.errors import (
    FeatureMismatchError,
    ModelError,
    ModelIntegrityError,
    NoAttentionError,
    ParameterError,
    StoreError,
    TraceError,
    UnknownModelError,
)
from validator.features.encoding import encode_trace, max_positions
from validator.features.extractor import SpectralFeatureExtractor
from validator.features.feature_set_files import load_feature_set
from validator.features.featureset import FeatureSet
from validator.features.plan import View
from validator.features.recipe import CAPTURE_VERSION
from validator.features.rowset import view_key
from validator.features.shard_ledger import FailedTrace, ShardLedger, ShardRecord, ShardRow
from validator.features.shards import TraceShard
from validator.features.store import FeatureStore, StoredRow
from validator.features.store_recipe import recipe_hash
from validator.models.loading import identify_model
from validator.types import Trace

__all__ = ["ExtractionJob", "ShardOutcome", "ShardWorker"]

BLAMELESS = (StoreError, ParameterError, FeatureMismatchError, NoAttentionError, UnknownModelError,
             ModelIntegrityError)
"""Errors that no trace is to blame for: they end the run."""


@dataclass(frozen=True, slots=True)
class ExtractionJob:
    """What a worker needs to know besides the traces; it can be sent to another machine."""

    root: str | Path
    """Folder or URL of the feature store, as every worker reaches it."""
    model: str | Path
    """Known name, hub id, or a folder that every worker reaches."""
    identity: Mapping[str, Any]
    """All that decides rows besides the traces."""
    options: Mapping[str, Any]
    """Further arguments of :class:`SpectralFeatureExtractor`."""
    by_step: bool = False
    tries: int = 3

    @classmethod
    def of(
        cls, root: str | Path, model: str | Path = "smollm2-135m-instruct", *,
        feature_set: str | Path | FeatureSet = "default", by_step: bool = False, tries: int = 3,
        **options: Any,
    ) -> ExtractionJob:
        """A job from an extractor's arguments; the model is identified, not loaded.

        Args:
            root: folder or URL of the feature store.
            model: as for the extractor, but not a loaded pair.
            feature_set: as for the extractor.
            by_step: one row per step instead of one per trace.
            tries: after how many the traces of a shard, or a trace, are given up.
            options: further arguments of the extractor, but ``store``.

        Raises:
            UnknownModelError, ModelError: there is no such model.
            FeatureMismatchError: there is no such feature set.
            ParameterError: fewer than 1 try.
        """
        if tries < 1:
            raise ParameterError(f"a trace needs at least 1 try, got {tries}")
        features = load_feature_set(feature_set)
        chosen = SpectralFeatureExtractor(model, feature_set=features, **options).get_params()
        decisive = {name: chosen[name] for name in (
            "solver", "layers", "heads", "dtype", "max_batch_tokens", "share_prefixes",
            "random_state")}
        identity = decisive | {
            "model": list(identify_model(model)), "features": features.to_dict(),
            "by_step": by_step, "capture": CAPTURE_VERSION,
            "transformers": ".".join(transformers.__version__.split(".")[:2])}
        return cls(root, model, identity, {"feature_set": features, **options}, by_step, tries)

    def ledger(self) -> ShardLedger:
        """What is known of the job's shards."""
        return ShardLedger(self.root, self.identity)


@dataclass(frozen=True, slots=True)
class ShardOutcome:
    """A shard that is done."""

    digest: str
    traces: int
    failed: tuple[FailedTrace, ...]
    forward_passes: int
    """Batches the model was run on; 0 if the rows were there already."""


class ShardWorker:
    """Computes shards for a job; the model is loaded when the first one needs it.

    Args:
        job: what is computed, and where rows go.
    """

    def __init__(self, job: ExtractionJob) -> None:
        self.job = job
        self.ledger = job.ledger()
        self._extractor: SpectralFeatureExtractor | None = None
        self._buffer: _Buffer | None = None
        self._passes = 0

    def __call__(self, shard: TraceShard) -> ShardOutcome:
        """Compute a shard unless it is done; its rows are on disk when this returns.

        Raises:
            StoreError: the store cannot be read or written.
            ModelError: a model that cannot be used, or that can read no trace of the shard.
        """
        before = self._passes
        record = self.ledger.read(shard.digest)
        if record is None:
            record = self._compute(shard)
            self.ledger.write(shard.digest, record)
        return ShardOutcome(shard.digest, len(shard.traces), record.failed, self._passes - before)

    def _compute(self, shard: TraceShard) -> ShardRecord:
        extractor = self._ready()
        rows, failed = self._read(shard)
        named, unreadable = self._name_repeated(shard)
        failed |= unreadable
        assert self._buffer is not None
        self._buffer.commit()
        return ShardRecord(
            recipe_hash(self._buffer.recipe), extractor.provenance_,
            tuple(sorted(rows + named, key=lambda row: (row.trace, row.step or 0))),
            tuple(failed[i] for i in sorted(failed)), dict(extractor.solver_errors_))

    def _ready(self) -> SpectralFeatureExtractor:
        if self._extractor is None:
            self.ledger.prepare()
            self._extractor = SpectralFeatureExtractor(
                self.job.model, **self.job.options, store=self._open).fit()
            self._extractor.solver_errors_ = {}
            self._open(self._extractor.recipe())
        return self._extractor

    def _open(self, recipe: Mapping[str, Any]) -> FeatureStore:
        if self._buffer is None:
            self._buffer = _Buffer(self.job.root, recipe)
        return self._buffer

    def _read(self, shard: TraceShard) -> tuple[list[ShardRow], dict[int, FailedTrace]]:
        """Rows of the shard's own traces, which wait in the buffer, and the traces given up."""
        failed: dict[int, FailedTrace] = {}
        own = [i for i, t in enumerate(shard.traces) if t.id not in shard.repeated]
        while todo := [i for i in own if i not in failed]:
            unit = f"all-{len(failed)}"
            if len(self.ledger.failures(shard.digest, unit)) >= self.job.tries:
                rows, bad = self._read_apart(shard, todo)
                if not bad:
                    return rows, failed
                failed |= bad
                continue
            try:
                return self._attempt(shard, unit, todo), failed
            except BLAMELESS:
                raise
            except TraceError as error:
                failed |= _named(shard, todo, error)
            except Exception:
                continue  # the ledger counts it, which ends this loop
        return [], failed

    def _read_apart(
        self, shard: TraceShard, todo: Sequence[int]
    ) -> tuple[list[ShardRow], dict[int, FailedTrace]]:
        """Each trace alone: which of them cannot be read?"""
        rows: list[ShardRow] = []
        failed: dict[int, FailedTrace] = {}
        kept: dict[str, StoredRow] = {}
        assert self._buffer is not None
        for i in todo:
            read, errors = self._read_alone(shard, i)
            if errors:
                failed[i] = FailedTrace(shard.traces[i].id, errors[-1], len(errors))
            rows += read
            kept |= self._buffer.rows
        if len(failed) == len(todo) > 1:
            raise ModelError(
                f"none of {len(todo)} traces can be read, first: {failed[todo[0]].error}. So many "
                "are no accident: look at the model, the device and the memory of the machine; "
                f"then remove {self.ledger.tries} to have them tried again")
        self._buffer.rows = {} if failed else kept
        return rows, failed

    def _read_alone(self, shard: TraceShard, i: int) -> tuple[list[ShardRow], list[str]]:
        """The rows of a trace, or else the error of each try."""
        unit = f"one-{i}"
        while len(errors := self.ledger.failures(shard.digest, unit)) < self.job.tries:
            try:
                return self._attempt(shard, unit, [i]), []
            except BLAMELESS:
                raise
            except TraceError as error:
                return [], [str(error)]
            except Exception:
                continue  # the ledger counts it, which ends this loop
        return [], errors

    def _attempt(self, shard: TraceShard, unit: str, todo: Sequence[int]) -> list[ShardRow]:
        extractor, buffer = self._ready(), self._buffer
        assert buffer is not None
        buffer.rows, extractor.forward_passes_ = {}, 0
        extract = extractor.transform_steps if self.job.by_step else extractor.transform
        with self.ledger.attempt(shard.digest, unit, (*BLAMELESS, TraceError)):
            try:
                extract([shard.traces[i] for i in todo])
            finally:
                self._passes += extractor.forward_passes_
        places = [(i, step) for i in todo for step in self._steps(shard.traces[i])]
        return [ShardRow(i, step, key)
                for (i, step), key in zip(places, buffer.asked, strict=True)]

    def _steps(self, trace: Trace) -> Iterable[int | None]:
        return range(len(trace.steps or ())) if self.job.by_step else (None,)

    def _name_repeated(
        self, shard: TraceShard
    ) -> tuple[list[ShardRow], dict[int, FailedTrace]]:
        """Where the rows are of traces whose text an earlier shard has."""
        extractor = self._ready()
        rows: list[ShardRow] = []
        failed: dict[int, FailedTrace] = {}
        limit = max_positions(extractor.model_.config)
        for i, trace in enumerate(shard.traces):
            if trace.id in shard.repeated:
                try:
                    views = View.of(encode_trace(trace, extractor.tokenizer_, limit),
                                    self.job.by_step)
                    rows += [ShardRow(i, view.step, view_key(view)) for view in views]
                except TraceError as error:
                    failed[i] = FailedTrace(trace.id, str(error), 1)
        return rows, failed


class _Buffer(FeatureStore):
    """A store that keeps what is put until all of a shard is there."""

    def __init__(self, root: str | Path, recipe: Mapping[str, Any]) -> None:
        super().__init__(root, recipe)
        self.asked: tuple[str, ...] = ()
        self.rows: dict[str, StoredRow] = {}
        self.columns: Sequence[str] = ()

    def get(self, keys: Iterable[str]) -> dict[str, StoredRow]:
        """As the store does; the keys are remembered."""
        self.asked = tuple(keys)
        return super().get(self.asked)

    def put(self, rows: Mapping[str, StoredRow], names: Sequence[str]) -> None:
        """Keep the rows until :meth:`commit`."""
        self.rows = {**self.rows, **rows}
        self.columns = names

    def commit(self) -> None:
        """Write them as one file."""
        if self.rows:
            super().put(self.rows, self.columns)
        self.rows = {}


def _named(
    shard: TraceShard, todo: Sequence[int], error: TraceError
) -> dict[int, FailedTrace]:
    """The trace that an error names; raises it if that is none of them."""
    for i in todo:
        if shard.traces[i].id == error.trace_id:
            return {i: FailedTrace(shard.traces[i].id, str(error), 1)}
    raise error


