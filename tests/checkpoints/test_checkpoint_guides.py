"""The training examples of the guide, and the experiment at a small size, run on the real model."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.resources import as_file, files
from pathlib import Path

import pytest

from validator.training.datasets import load_traces, write_traces

ROOT = Path(__file__).parents[2]
EXPERIMENT = ROOT / "examples" / "checkpoint_selection" / "run.py"
pytestmark = [pytest.mark.slow, pytest.mark.model]


def environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false",
                         "HF_HUB_OFFLINE": "1"}


@pytest.mark.parametrize("page", ["checkpoints.md", "reward.md"])
def test_training_examples_run_as_printed(page: str, tmp_path: Path) -> None:
    """In a process of their own: what PEFT and TRL warn of is not ours."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    codes = re.findall(r"```py\n(.*?)```", text, re.DOTALL)
    assert len(codes) == 1
    with as_file(files("validator.data").joinpath("demo_traces.jsonl")) as path:
        write_traces(tmp_path / "traces.jsonl", load_traces(path)[:16])
    done = subprocess.run([sys.executable, "-c", codes[0]], cwd=tmp_path, env=environment(),
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def test_the_experiment_at_a_small_size_goes_on_where_it_stood(tmp_path: Path) -> None:
    command = [sys.executable, str(EXPERIMENT), "--small", "--threads", "1",
               "--output", str(tmp_path)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    written = next(tmp_path.glob("seed*.json"))
    result = json.loads(written.read_text())
    assert [c["step"] for c in result["checkpoints"]] == [0, 1, 2]
    assert all(c["error"] is None for c in result["checkpoints"])
    assert {"last", "validation_loss", "mean_logprob", "validity", "own_validity"} <= {
        c["criterion"] for c in result["criteria"]}
    before = written.stat().st_mtime_ns
    again = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    assert again.returncode == 0
    assert written.stat().st_mtime_ns == before
    assert "| criterion | mean Spearman | mean regret | regret by run |" in again.stdout
