"""Memory of a driver over many traces, with rows made up instead of computed.

    python -m benchmarks.driver_memory

For each number of traces a process of its own cuts a stream of traces into shards, has made-up rows
of 16 columns stored and collects them into one file, all as ``validator extract`` does it; what is
measured is the most memory it had, beyond that of a process with 64 traces.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from validator.features.shard_ledger import ShardRecord, ShardRow
from validator.features.shard_run import extract_shards
from validator.features.shard_worker import ExtractionJob, ShardOutcome
from validator.features.shards import TraceShard, cut_shards
from validator.features.store import FeatureStore, StoredRow, row_key
from validator.features.store_recipe import recipe_hash
from validator.types import Provenance, Trace

__all__ = ["main"]

RECIPE = {"made": "up"}
NAMES = tuple(f"c{i}" for i in range(16))


def stream(count: int) -> Iterator[Trace]:
    """Traces of 1,000 characters, one by one."""
    for i in range(count):
        yield Trace(f"t{i}", f"p{i // 4}", f"Question {i // 4}." + " " * 200, f"{i} " * 100, 1)


def made_up(job: ExtractionJob, shards: Iterable[TraceShard]) -> Iterator[ShardOutcome]:
    """A backend that stores a row for each trace without reading it."""
    store, ledger = FeatureStore(job.root, RECIPE), job.ledger()
    for shard in shards:
        keys = [row_key([int(t.id[1:])], 1) for t in shard.traces]
        store.put({key: StoredRow(np.zeros(16, np.float32), None, (1, 1)) for key in keys}, NAMES)
        ledger.write(shard.digest, ShardRecord(
            recipe_hash(RECIPE), Provenance("none", "none", "none", 1),
            tuple(ShardRow(i, None, key) for i, key in enumerate(keys))))
        yield ShardOutcome(shard.digest, len(shard.traces), (), 0)


def measure(count: int) -> None:
    """Print megabytes at most and seconds, as JSON."""
    with TemporaryDirectory() as folder:
        job = ExtractionJob(f"{folder}/store", "none", {"made": "up"}, {})
        started = time.perf_counter()
        done = extract_shards(job, lambda: cut_shards(stream(count)),
                              Path(folder) / "f.parquet", made_up)
        assert done.rows == count
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"traces": count, "peak_megabytes": round(peak, 1),
                      "seconds": round(time.perf_counter() - started, 1)}))


def main() -> None:
    """Each size in a process of its own."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--count", type=int, help="measure this size here")
    parser.add_argument("--counts", type=int, nargs="+", default=[64, 1_000, 10_000, 100_000])
    parser.add_argument("--output", type=Path,
                        default=Path("benchmarks/results/driver_memory.json"))
    args = parser.parse_args()
    if args.count:
        measure(args.count)
        return
    rows = []
    for count in args.counts:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.driver_memory", "--count", str(count)], check=True,
            stdout=subprocess.PIPE, text=True)
        rows.append(json.loads(done.stdout))
        print(rows[-1], flush=True)
    args.output.write_text(json.dumps({"rows": rows}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
