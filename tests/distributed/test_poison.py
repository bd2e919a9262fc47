"""One trace among 500 kills the process that reads it; the command is run until it comes through.

Run as a program, this file is what forks the runs; see :func:`runs`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # as a program, where PYTHONSAFEPATH is set

import torch
from shard_helpers import DyingWorker, make_traces, poisoned

import validator.features.shard_run
from validator.cli.main import main
from validator.features.store_upkeep import store_stats, verify_store
from validator.features.table import read_features
from validator.training.datasets import write_traces

TRACES = poisoned(make_traces(100, 5)[:499], 237)
TRIES = 3


def runs(call: list[str]) -> list[int]:
    """Exit statuses of the command, run again and again until it is not killed."""
    torch.set_num_threads(1)  # no threads that a fork would lose
    validator.features.shard_run.ShardWorker = DyingWorker  # type: ignore[misc]
    statuses: list[int] = []
    while (not statuses or statuses[-1] < 0) and len(statuses) < 20:
        child = os.fork()
        if child == 0:
            code = 70
            try:
                code = main(call)
            finally:
                os._exit(code)
        statuses.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    return statuses


@pytest.mark.slow
def test_a_poison_trace_among_500(model_folder: Path, tmp_path: Path) -> None:
    write_traces(tmp_path / "t.jsonl", TRACES)
    output = tmp_path / "f.parquet"
    call = ["extract", str(tmp_path / "t.jsonl"), "--model", str(model_folder), "--features",
            "fast", "--threads", "1", "--backend", "serial", "--tries", str(TRIES),
            "--shard-size", "16", "--store", str(tmp_path / "store"), "-o", str(output)]
    made = subprocess.run([sys.executable, __file__, *call, "--skip-bad"], check=True, text=True,
                          stdout=subprocess.PIPE, timeout=600)
    statuses = json.loads(made.stdout.splitlines()[-1])
    assert statuses == [-signal.SIGKILL] * 2 * TRIES + [0]  # of its shard, then of it alone
    rows = read_features(output)
    assert len(TRACES) == 500
    assert list(rows.trace_ids) == [t.id for t in TRACES if t.id != "bad"]
    [line] = (tmp_path / "f.unreadable.jsonl").read_text().splitlines()
    assert json.loads(line) == {
        "id": "bad", "error": "the process that read it died", "tries": TRIES}
    assert verify_store(tmp_path / "store") == []
    assert [(s.rows, s.duplicates) for s in store_stats(tmp_path / "store")] == [(499, 0)]
    assert main([*call, "--skip-bad", "--json"]) == 0  # nothing is read again
    assert [p.name for p in tmp_path.rglob("tries/*")] == []


if __name__ == "__main__":
    print(json.dumps(runs(sys.argv[1:])))  # noqa: T201
