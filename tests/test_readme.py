"""Every command and every Python block of the README and the guide runs as printed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from validator.columns import BASELINES, Column
from validator.features.table import write_features
from validator.training.datasets import write_traces
from validator.types import FeatureMatrix, Provenance, Trace

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BY_CI = {"make demo", "make test"}
"""Run by the continuous integration itself, and below through the command they stand for."""


RUNNER = """
import shlex, sys
from validator.cli.main import main
for command in sys.argv[1:]:
    if main(shlex.split(command)[1:]):
        raise SystemExit(f"{command} failed")
"""
"""What the program ``validator`` does, for one command after the other: to start costs seconds."""


def one_process(command: str) -> bool:
    """Whether a command needs no shell and no other program."""
    return command.startswith("validator ") and "$" not in command


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def commands() -> list[str]:
    lines = [line for block in blocks(README, "console") for line in block.splitlines()]
    return [line.split("  #")[0].strip() for line in lines if line.strip()]


def test_the_readme_opens_with_the_two_commands() -> None:
    head = README.split("\n## ")[0]
    assert "make demo" in head
    assert "make test" in head
    assert all(c in BY_CI or c.startswith(("validator ", "lm_eval ")) for c in commands())


@pytest.mark.slow
@pytest.mark.model
@pytest.mark.timeout(1500)
def test_commands_and_python_run_as_printed(tmp_path: Path, lm_eval_lock: FileLock) -> None:
    programs = Path(sys.executable).parent
    environment = {"OMP_NUM_THREADS": "1"} | os.environ | {
        "TOKENIZERS_PARALLELISM": "false", "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
    with lm_eval_lock:
        for together, group in groupby((c for c in commands() if c not in BY_CI), one_process):
            lines = list(group)
            for command in [[sys.executable, "-c", RUNNER, *lines]] if together else lines:
                # a shell, for one command asks another for a path
                done = subprocess.run(command, cwd=tmp_path, env=environment, shell=not together,
                                      capture_output=True, text=True, check=False)
                assert done.returncode == 0, (
                    f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    for code in blocks(README, "python"):
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment,
                              capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
@pytest.mark.model
@pytest.mark.timeout(900)
def test_demo_on_a_small_share(tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("validator")
    done = subprocess.run([program, "demo", "--share", "0.1", "--folds", "5", "--threads", "1"],
                          cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    for text in ("spectra + token signals", "majority vote", "oracle", "verdict", "log-prob"):
        assert text in done.stdout
    assert {p.name for p in (tmp_path / "out" / "demo").iterdir()} == {
        "demo.html", "demo.json", "features.parquet"}
    shutil.rmtree(tmp_path / "out")


def _features(traces: list[Trace]) -> FeatureMatrix:
    """Random numbers under the names of baselines and three graph columns."""
    names = (*(str(Column(b)) for b in BASELINES),
             *(str(Column("fiedler_value", layer, None, "completion")) for layer in range(3)))
    values = np.random.default_rng(0).normal(size=(len(traces), len(names)))
    return FeatureMatrix(values.astype(np.float32), names, tuple(traces),
                         np.full((len(traces), 2), 5), Provenance("m", "r", "default", 1))


@pytest.mark.shared
@pytest.mark.parametrize("page", sorted((ROOT / "docs").rglob("*.md")),
                         ids=lambda p: p.relative_to(ROOT / "docs").as_posix())
def test_python_blocks_of_the_guide_run(
    page: Path, traces: list[Trace], shared_data: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a folder with the files that the blocks speak of."""
    write_traces(tmp_path / "traces.jsonl", traces)
    write_features(tmp_path / "features.parquet", _features(traces))
    shutil.copy(shared_data / "prmbench_dev.jsonl", tmp_path / "prmbench.jsonl")
    monkeypatch.chdir(tmp_path)
    for code in blocks(page.read_text(encoding="utf-8"), "python"):
        exec(compile(code, str(page), "exec"), {})
