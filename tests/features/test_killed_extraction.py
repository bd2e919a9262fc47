"""Real extractions with a model, killed at random moments, and what they leave in the store."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))  # as a program, where PYTHONSAFEPATH is set

from tiny_models import byte_tokenizer, tiny_model

from validator.features import rowset
from validator.features.extractor import SpectralFeatureExtractor
from validator.features.store_upkeep import store_stats, verify_store
from validator.types import FeatureMatrix, Trace

KILLS, SHARD_ROWS = 50, 3
TRACES = [Trace(f"t{i}", f"p{i // 4}", f"Q: add {i // 4} and it.\nA:", f" {i} and {i * i}." * 3, 1)
          for i in range(30)]


def extractor(root: Path | None) -> SpectralFeatureExtractor:
    """Each trace alone: then a row's bits do not depend on which others were left to compute."""
    return SpectralFeatureExtractor((tiny_model(), byte_tokenizer()), max_batch_tokens=1,
                                    share_prefixes=False, store=root).fit()


def rows(root: Path) -> int:
    return sum(s.rows for s in store_stats(root))


def main() -> None:
    """Fork extractions and kill them; a new store when one is complete."""
    folder, chance = Path(sys.argv[1]), random.Random(0)
    torch.set_num_threads(1)  # no threads that a fork would lose
    rowset.SHARD_ROWS = SHARD_ROWS
    began = time.monotonic()
    extractor(folder / "whole").transform(TRACES)
    whole = time.monotonic() - began
    kills, finished, lost, partial = 0, 0, 0, 0
    root, before = folder / "store-0", 0
    while kills < KILLS:
        ready, tell = os.pipe()
        child = os.fork()
        if child == 0:
            own = extractor(root)
            os.write(tell, b"x")
            own.transform(TRACES)
            os._exit(0)
        os.read(ready, 1)
        os.close(ready)
        os.close(tell)
        time.sleep(chance.random() * 0.4 * whole)
        os.kill(child, signal.SIGKILL)
        killed = os.WIFSIGNALED(os.waitpid(child, 0)[1])
        found = rows(root) if root.exists() else 0
        lost += max(0, before - found)
        before = found
        kills += killed
        partial += killed and 0 < found < len(TRACES)
        if found == len(TRACES):
            finished += 1
            root, before = folder / f"store-{finished}", 0
    sys.stdout.write(json.dumps({"kills": kills, "lost": lost, "partial": partial}) + "\n")


def same(a: FeatureMatrix, b: FeatureMatrix) -> None:
    assert (a.names, a.trace_ids) == (b.names, b.trace_ids)
    np.testing.assert_array_equal(a.values, b.values)


@pytest.mark.slow
def test_fifty_killed_extractions_lose_nothing(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, __file__, tmp_path], check=True, text=True,
                          stdout=subprocess.PIPE, timeout=600)
    report = json.loads(done.stdout)
    assert (report["kills"], report["lost"]) == (KILLS, 0)
    assert report["partial"] > KILLS // 4
    whole = extractor(tmp_path / "whole").transform(TRACES)
    stores = sorted(tmp_path.glob("store-*"))
    assert len(stores) > 1
    for root in stores:
        own = extractor(root)
        same(own.transform(TRACES), whole)
        assert verify_store(root) == []
        assert [(s.rows, s.duplicates) for s in store_stats(root)] == [(len(TRACES), 0)]
        own.transform(TRACES)
        assert own.forward_passes_ == 0


if __name__ == "__main__":
    main()
