"""The same extraction on many machines: Ray Data hands out shards, a pool of actors computes them.

Ray is the scheduler and nothing else. What is done is known from the store's own records, rows go
from the worker to the store, and through Ray go names of shards only. So a driver, a worker or a
machine that dies loses the shards under way, which are computed again.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from validator import errors
from validator.errors import ParameterError, ValidatorError
from validator.features.shard_worker import ExtractionJob, ShardOutcome, ShardWorker
from validator.features.shards import TraceShard

if TYPE_CHECKING:
    from validator.features.shard_ledger import ShardLedger

__all__ = ["RayCluster", "RayExtraction", "answered"]

OBJECT_STORE = 200 * 2**20
"""Bytes of shared memory of a Ray of our own: names of shards need hardly any."""


@dataclass(frozen=True, slots=True)
class RayCluster:
    """Which Ray, and what of it.

    Raises:
        ParameterError: fewer than one worker, or a negative share of a GPU.
    """

    address: str = "local"
    """``local`` starts one here and stops it afterwards; ``auto`` joins the one that runs here;
    else its address, as :func:`ray.init` takes it."""
    num_workers: int = 1
    gpus_per_worker: float = 0.0
    cpus_per_worker: int = 1

    def __post_init__(self) -> None:
        for name, valid, wanted in (
            ("num_workers", self.num_workers >= 1, "at least 1"),
            ("cpus_per_worker", self.cpus_per_worker >= 1, "at least 1"),
            ("gpus_per_worker", self.gpus_per_worker >= 0, "0 or more"),
        ):
            if not valid:
                raise ParameterError(f"{name} must be {wanted}, got {getattr(self, name)}")

    @contextmanager
    def connected(self) -> Iterator[None]:
        """Within the block, Ray is there; one that this process has begun before is used.

        Raises:
            ValidatorError: Ray is not installed, or there is none at the address.
        """
        ray = _ray()
        if ray.is_initialized():
            yield
            return
        try:
            ray.init(**self._settings())
        except (ConnectionError, ValueError, RuntimeError, SystemExit) as error:
            # Ray ends the process where nothing answers at an address
            raise ValidatorError(
                f"no Ray answers at {self.address!r}: {error}. Start one with `ray start --head`, "
                "or give --address local") from error
        try:
            yield
        finally:
            ray.shutdown()

    def map(
        self, actor: type, arguments: Mapping[str, Any], items: Sequence[Any]
    ) -> Iterator[Any]:
        """Answers of a pool of actors, one for each item, as they are ready.

        Args:
            actor: a class whose ``__call__`` takes and gives batches; see :func:`answered`.
            arguments: it is made with.
            items: JSON values, each handed out alone.

        Raises:
            ValidatorError: what an actor met, or Ray itself.
        """
        if not items:
            return
        with self.connected():
            from ray.data import ActorPoolStrategy
            from ray.exceptions import RayError

            pool = ActorPoolStrategy(size=min(self.num_workers, len(items)))
            answers = _dataset(items).map_batches(
                actor, fn_constructor_kwargs=dict(arguments), batch_size=1, compute=pool,
                num_cpus=self.cpus_per_worker, num_gpus=self.gpus_per_worker)
            try:
                for row in answers.iter_rows():
                    yield _answer(json.loads(row["json"]))
            except RayError as error:
                raise ValidatorError(f"a Ray worker failed: {error}") from error

    def _settings(self) -> dict[str, Any]:
        common = {"log_to_driver": False, "logging_level": logging.WARNING}
        if self.address != "local":
            return {"address": self.address, **common}
        cpus = max(self.num_workers * self.cpus_per_worker, os.cpu_count() or 1)
        return {"address": "local", "num_cpus": cpus, "include_dashboard": False,
                "object_store_memory": OBJECT_STORE, **common}


class RayExtraction:
    """A backend for :func:`validator.features.shard_run.run_shards`.

    Args:
        cluster: where the workers run.
        worker: makes the worker of an actor from its job.
    """

    def __init__(
        self, cluster: RayCluster, worker: Callable[[ExtractionJob], ShardWorker] = ShardWorker
    ) -> None:
        self.cluster = cluster
        self.worker = worker

    def __call__(
        self, job: ExtractionJob, shards: Iterable[TraceShard]
    ) -> Iterator[ShardOutcome]:
        """One outcome for each shard, as they are done.

        Raises:
            ValidatorError: whatever ended a worker's run, but a trace that cannot be read.
        """
        ledger = job.ledger()
        sizes = _hand_over(ledger, shards)
        arguments = {"job": job, "worker": self.worker}
        for answer in self.cluster.map(ShardActor, arguments, list(sizes)):
            digest, passes = answer
            record = ledger.read(digest)
            yield ShardOutcome(digest, sizes[digest], record.failed if record else (), passes)


class ShardActor:
    """A :class:`ShardWorker` in a process of Ray's.

    Args:
        job: what is computed.
        worker: makes the worker.
    """

    def __init__(
        self, job: ExtractionJob, worker: Callable[[ExtractionJob], ShardWorker]
    ) -> None:
        self.worker = worker(job)

    def __call__(self, batch: Mapping[str, Sequence[Any]]) -> dict[str, list[str]]:
        """Compute one shard, given by its digest."""
        return answered(batch, self._compute)

    def _compute(self, digest: str) -> list[Any]:
        shard = self.worker.ledger.read_traces(digest)
        return [digest, 0 if shard is None else self.worker(shard).forward_passes]


def answered(
    batch: Mapping[str, Sequence[Any]], answer: Callable[[Any], Any]
) -> dict[str, list[str]]:
    """The answer to the one item of a batch as JSON; an error of ours comes back as a value.

    Raised in a worker, it would reach the driver as an error of Ray's.
    """
    try:
        found = {"answer": answer(json.loads(str(batch["item"][0])))}
    except ValidatorError as error:
        found = {"error": type(error).__name__, "message": str(error)}
    return {"json": [json.dumps(found)]}


def _hand_over(ledger: ShardLedger, shards: Iterable[TraceShard]) -> dict[str, int]:
    """Put traces where workers read them; digest -> number of traces."""
    sizes = {}
    for shard in shards:
        ledger.write_traces(shard)
        sizes[shard.digest] = len(shard.traces)
    return sizes


def _answer(found: Mapping[str, Any]) -> Any:
    if "error" in found:
        raise getattr(errors, found["error"], ValidatorError)(found["message"])
    return found["answer"]


def _dataset(items: Sequence[Any]) -> Any:
    """One block for each item, so that each is handed out alone."""
    import ray.data

    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    rows = [{"item": json.dumps(item)} for item in items]
    return ray.data.from_items(rows, override_num_blocks=len(rows))


def _ray() -> Any:
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ValidatorError(f"Ray is not installed ({error}); "
                             "pip install 'spectral-validator[ray]'") from error
    return ray
