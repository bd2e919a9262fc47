"""The kill drill of the benchmarks, with few kills: nothing lost, doubled, torn or left over.

Three of its five commands: ``tune`` is killed in ``test_trials.py`` and ``test_tune_postgres.py``,
and a page is written as ``test_whole_file.py`` kills it at every step.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMMANDS = ("extract", "sample", "train")
# at the end of the path, so that an installed wheel is what is killed
DRILL = "import sys; sys.path.append({root!r}); from benchmarks.kill_drill import main; main()"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="processes are forked and waited for")
def test_a_few_kills_lose_nothing(tmp_path: Path) -> None:
    made = subprocess.run(
        [sys.executable, "-c", DRILL.format(root=str(ROOT)), "--kills", "1", "--operations", "1",
         "--commands", *COMMANDS, "--output", str(tmp_path / "found.json")],
        env={**os.environ, "TOKENIZERS_PARALLELISM": "false"}, capture_output=True, text=True,
        check=False, timeout=600)
    assert made.returncode == 0, made.stderr[-3000:]
    found = json.loads((tmp_path / "found.json").read_text())
    assert set(found["commands"]) == set(COMMANDS)
    for name, facts in found["commands"].items():
        assert (facts["killed_at_times"], facts["killed_at_operations"]) >= (1, 1), name
        assert facts["ended"] >= 1, name
    total = found["total"]
    assert {k: total[k] for k in ("lost", "duplicates", "unreadable", "different", "leftovers")
            } == dict.fromkeys(("lost", "duplicates", "unreadable", "different", "leftovers"), 0)
