"""Ray on this machine: the bits and the bookkeeping of one process, through kills.

Run as a program, this file is a driver that is killed; see :func:`main`.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # as a program, where PYTHONSAFEPATH is set

import shard_helpers
from shard_helpers import (
    SIZE,
    DyingWorker,
    collected,
    job_of,
    make_traces,
    poisoned,
    save_tiny,
    shards_of,
)

from validator.cli.main import main as command
from validator.errors import ParameterError, StoreError, ValidatorError
from validator.features.shard_ledger import FailedTrace
from validator.features.shard_run import extract_shards, run_shards, serially
from validator.features.shard_worker import ExtractionJob, ShardWorker
from validator.features.shards import TraceShard, cut_shards
from validator.features.store_upkeep import store_stats, verify_store
from validator.plugins.distributed import RayCluster, RayExtraction
from validator.training.datasets import write_traces

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:ray", "ignore::ResourceWarning",
                                        "ignore::pytest.PytestUnraisableExceptionWarning")

TRACES = make_traces(20, 3)


class SlowWorker(ShardWorker):
    """Leaves time to be killed in."""

    def _compute(self, shard: TraceShard) -> Any:
        (Path(self.job.root) / "pid").write_text(str(os.getpid()))
        time.sleep(0.5)
        return super()._compute(shard)


class FullDiskWorker(ShardWorker):
    """Meets an error that no trace is to blame for."""

    def __call__(self, shard: TraceShard) -> Any:
        raise StoreError("disk full")


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    """One Ray for all tests; its workers can import what is beside this file."""
    found = pytest.importorskip("ray")
    folder = str(Path(__file__).parent)
    before = dict(os.environ)
    os.environ |= {"RAY_worker_niceness": "0", "PYTHONPATH":
                   os.pathsep.join(filter(None, [folder, before.get("PYTHONPATH", "")]))}
    with RayCluster("local", 2).connected():
        yield found
    os.environ.clear()
    os.environ |= before


@pytest.fixture(scope="module")
def serial(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Rows of one process."""
    job = job_of(tmp_path_factory.mktemp("serial"), model_folder)
    run_shards(job, shards_of(TRACES))
    return collected(job, TRACES)


def test_a_cluster_is_checked() -> None:
    for wrong in ({"num_workers": 0}, {"gpus_per_worker": -1}, {"cpus_per_worker": 0}):
        with pytest.raises(ParameterError, match=next(iter(wrong))):
            RayCluster(**wrong)


@pytest.mark.slow
@pytest.mark.parametrize("error", [ConnectionError("none"), SystemExit(15)])
def test_no_ray_at_an_address(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    found = pytest.importorskip("ray")

    def refuse(**_: Any) -> None:
        raise error

    monkeypatch.setattr(found, "is_initialized", lambda: False)
    monkeypatch.setattr(found, "init", refuse)
    with pytest.raises(ValidatorError, match="ray start --head"), \
            RayCluster("127.0.0.1:1").connected():
        pass


def test_ray_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValidatorError, match=r"spectral-validator\[ray\]"), \
            RayCluster().connected():
        pass


@pytest.mark.slow
def test_two_workers_give_the_bits_of_one_process(
    ray: Any, serial: dict[str, Any], model_folder: Path, tmp_path: Path
) -> None:
    write_traces(tmp_path / "t.jsonl", TRACES)
    call = ["extract", str(tmp_path / "t.jsonl"), "--model", str(model_folder), "--features",
            "fast", "--threads", "1", "--store", str(tmp_path / "store"), "--shard-size",
            str(SIZE), "-o", str(tmp_path / "f.parquet"), "--backend"]
    assert command([*call, "ray", "--num-workers", "2"]) == 0
    job = job_of(tmp_path / "store", model_folder)
    assert collected(job, TRACES) == serial
    for backend in (serially, RayExtraction(RayCluster("local", 2))):
        done = extract_shards(job, lambda: cut_shards(TRACES, SIZE), tmp_path / "f.parquet",
                              backend)
        assert (done.totals.forward_passes, done.rows) == (0, len(TRACES))
    assert [p.name for p in tmp_path.rglob("*.traces")] == []


@pytest.mark.slow
def test_a_trace_that_kills_its_worker_is_given_up_and_the_rest_completes(
    ray: Any, serial: dict[str, Any], model_folder: Path, tmp_path: Path
) -> None:
    traces = poisoned(TRACES, 8)
    job = job_of(tmp_path, model_folder, tries=1)
    done = extract_shards(job, lambda: cut_shards(traces, SIZE), tmp_path / "f.parquet",
                          RayExtraction(RayCluster("local", 2), DyingWorker), skip_failed=True)
    assert done.failed == (FailedTrace("bad", "the process that read it died", 1),)
    assert done.rows == len(TRACES)
    assert [(s.rows, s.duplicates) for s in store_stats(tmp_path)] == [(len(TRACES), 0)]
    assert list(job.ledger().tries.iterdir()) == []


@pytest.mark.slow
def test_an_error_that_is_no_trace_s_fault_ends_the_run(
    ray: Any, model_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(StoreError, match="disk full"):
        run_shards(job_of(tmp_path, model_folder), shards_of(TRACES),
                   RayExtraction(RayCluster("local", 1), FullDiskWorker))


def main() -> None:
    """A driver of slow workers on the Ray at an address."""
    root, model, address = sys.argv[1:]
    run_shards(job_of(root, Path(model)), shards_of(TRACES),
               RayExtraction(RayCluster(address, 2), SlowWorker))


@pytest.mark.slow
def test_a_killed_driver_and_a_killed_worker_lose_nothing(
    ray: Any, serial: dict[str, Any], model_folder: Path, tmp_path: Path
) -> None:
    job, chance = job_of(tmp_path / "store", model_folder), random.Random(0)
    address = ray.get_runtime_context().gcs_address
    finished = []
    for kill in ("driver", "worker"):
        driver = subprocess.Popen([sys.executable, __file__, str(tmp_path / "store"),
                                   str(model_folder), address], start_new_session=True)
        before = len(job.ledger().done())
        while len(job.ledger().done()) < before + 1 and driver.poll() is None:
            time.sleep(0.05)
        time.sleep(0.5 * chance.random())
        if kill == "driver":
            driver.kill()
        else:
            os.kill(busy_worker(job), signal.SIGKILL)
        driver.wait(timeout=120)
        finished.append(len(job.ledger().done()))
    assert finished == sorted(finished)
    assert finished[-1] == len(shards_of(TRACES))
    assert collected(job, TRACES) == serial
    assert verify_store(tmp_path / "store") == []
    assert [(s.rows, s.duplicates, s.leftovers) for s in store_stats(tmp_path / "store")] == [
        (len(TRACES), 0, 0)]


def busy_worker(job: ExtractionJob) -> int:
    """The process that began a shard last."""
    return int((Path(job.root) / "pid").read_text())


@pytest.mark.slow
def test_sampling_gives_the_file_of_one_process(
    ray: Any, tmp_path: Path
) -> None:
    model = save_tiny(tmp_path / "longer", max_position_embeddings=1024)
    call = ["sample", "--model", str(model), "--problems", "one-step", "--count", "6", "-n",
            "2", "--batch-size", "4", "--max-new-tokens", "6", "--threads", "1", "-o"]
    assert command([*call, str(tmp_path / "one.jsonl")]) == 0
    assert command([*call, str(tmp_path / "two.jsonl"), "--backend", "ray",
                    "--num-workers", "2"]) == 0
    assert (tmp_path / "one.jsonl").read_bytes() == (tmp_path / "two.jsonl").read_bytes()


if __name__ == "__main__":
    assert shard_helpers
    main()
