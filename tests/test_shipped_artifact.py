"""The classifier that ships: small, whole, and worth what its card says on traces it never saw."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.resources import as_file, files
from pathlib import Path

import pytest

from validator.classifier import load_artifact
from validator.metrics import auroc
from validator.scoring import shipped_artifact
from validator.training.datasets import load_traces, write_traces
from validator.types import Trace

MODEL = "smollm2-135m-instruct"
PROBLEMS = 12


@pytest.fixture(scope="module")
def folder() -> Path:
    found = shipped_artifact(MODEL)
    assert found is not None
    return found


def demo_traces() -> list[Trace]:
    with as_file(files("validator.data").joinpath("demo_traces.jsonl")) as path:
        return load_traces(path)


def test_it_is_whole_and_under_two_megabytes(folder: Path) -> None:
    artifact = load_artifact(folder)
    assert artifact.provenance.model == MODEL
    assert artifact.provenance.feature_set == "default"
    assert sum(p.stat().st_size for p in folder.iterdir()) < 2_000_000
    metadata = artifact.manifest["metadata"]
    assert metadata["command"].startswith("validator train ")
    assert len(metadata["calibration"]["labels"]) == len(metadata["calibration"]["margins"])


def test_the_demo_s_problems_are_not_among_those_it_was_trained_on(folder: Path) -> None:
    seen = set(load_artifact(folder).manifest["metadata"]["training_problems"])
    assert len(seen) == 750
    assert not seen & {t.problem_id for t in demo_traces()}


@pytest.mark.slow
@pytest.mark.model
def test_score_needs_no_training(tmp_path: Path) -> None:
    traces = demo_traces()
    kept = list(dict.fromkeys(t.problem_id for t in traces))[:PROBLEMS]
    traces = [t for t in traces if t.problem_id in kept]
    write_traces(tmp_path / "traces.jsonl", traces)
    program = Path(sys.executable).with_name("validator")
    done = subprocess.run(
        [program, "score", "traces.jsonl", "-o", "scores.jsonl", "--no-store", "--threads", "1"],
        cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert MODEL in done.stdout
    rows = [json.loads(line) for line in (tmp_path / "scores.jsonl").read_text().splitlines()]
    assert [r["id"] for r in rows] == [t.id for t in traces]
    for row in rows:
        assert 0 <= row["interval"][0] <= row["p_valid"] <= row["interval"][1] <= 1
    labels = [t.label for t in traces]
    assert auroc(labels, [r["p_valid"] for r in rows]) > 0.75
    assert auroc(labels, [r["label_free"]["mean_logprob"] for r in rows]) > 0.6
