"""Serial runs over shards, two at a time on one store, killed at random moments.

Run as a program, this file is the process that forks and kills them; see :func:`main`.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))  # as a program, where PYTHONSAFEPATH is set

from shard_helpers import SIZE, collected, job_of, make_traces, shards_of

from validator.features.shard_run import run_shards
from validator.features.shard_worker import ExtractionJob, ShardWorker
from validator.features.shards import TraceShard
from validator.features.store_upkeep import store_stats, verify_store

KILLS = 10
TRACES = make_traces(8, 3)


def main() -> None:
    """Keep two drivers at work; kill one, now and then both; a new store when one is complete."""
    folder, model, chance = Path(sys.argv[1]), Path(sys.argv[2]), random.Random(0)
    torch.set_num_threads(1)  # no threads that a fork would lose
    whole = job_of(folder / "whole", model)
    began = time.monotonic()
    run_shards(whole, shards_of(TRACES))
    pace = (time.monotonic() - began) / len(shards_of(TRACES))
    report = {"kills": 0, "lost": 0, "stores": 0, "partial": 0}
    job, done = job_of(folder / "store-0", model), frozenset[str]()
    while report["kills"] < KILLS:
        drivers = [fork(job, back) for back in (False, True)]
        time.sleep(chance.random() * 4 * pace)
        for driver in drivers if chance.random() < 0.5 else drivers[:1]:
            os.kill(driver, signal.SIGKILL)
        killed = sum(os.WIFSIGNALED(os.waitpid(driver, 0)[1]) for driver in drivers)
        now = job.ledger().done()
        report["lost"] += len(done - now)
        report["kills"] += killed
        report["partial"] += killed > 0 and 0 < len(now) < len(shards_of(TRACES))
        done = now
        if len(now) == len(shards_of(TRACES)):
            report["stores"] += 1
            job, done = job_of(folder / f"store-{report['stores']}", model), frozenset()
    sys.stdout.write(json.dumps(report) + "\n")


def fork(job: ExtractionJob, back: bool) -> int:
    """A driver over all shards, from the first or from the last."""
    child = os.fork()
    if child:
        return child
    shards = shards_of(TRACES)
    run_shards(job, shards[::-1] if back else shards)
    os._exit(0)


@pytest.mark.slow
def test_ten_kills_of_two_drivers_lose_nothing(model_folder: Path, tmp_path: Path) -> None:
    made = subprocess.run([sys.executable, __file__, tmp_path, model_folder], check=True,
                          text=True, stdout=subprocess.PIPE, timeout=600)
    report = json.loads(made.stdout)
    assert report["kills"] >= KILLS
    assert (report["lost"], report["stores"] > 1) == (0, True)
    right = collected(job_of(tmp_path / "whole", model_folder), TRACES)
    for root in sorted(tmp_path.glob("store-*")):
        job = job_of(root, model_folder)
        run_shards(job, shards_of(TRACES))
        assert collected(job, TRACES) == right
        assert verify_store(root) == []
        assert [(s.rows, s.leftovers) for s in store_stats(root)] == [(len(TRACES), 0)]
        assert list(job.ledger().tries.iterdir()) == []


class TwiceWorker(ShardWorker):
    """Another driver finishes the same shard first."""

    def _compute(self, shard: TraceShard) -> object:
        run_shards(self.job, [shard])
        return super()._compute(shard)


@pytest.mark.slow
def test_two_drivers_on_one_shard(model_folder: Path, tmp_path: Path) -> None:
    one, two = (job_of(tmp_path / name, model_folder) for name in "ab")
    run_shards(one, shards_of(TRACES[:SIZE]))
    run_shards(two, shards_of(TRACES[:SIZE]), lambda j, s: map(TwiceWorker(j), s))
    assert collected(one, TRACES[:SIZE]) == collected(two, TRACES[:SIZE])
    assert verify_store(two.root) == []


if __name__ == "__main__":
    main()
