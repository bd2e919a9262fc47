"""``validator audit`` as a user meets it: a feature file, a trace file, wrong input."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from validator.cli import audit
from validator.columns import BASELINES, Column
from validator.errors import LabelError, ParameterError, ValidatorError
from validator.features.table import write_features
from validator.training.datasets import write_traces
from validator.types import FeatureMatrix, Provenance, Trace

NAMES = (*(str(Column(b)) for b in BASELINES),
         *(str(Column("fiedler_value", i, None, "completion")) for i in range(4)))


@pytest.fixture(scope="module")
def traces() -> list[Trace]:
    """Traces of 24 problems x 4; valid ones end in a newline."""
    rng = np.random.default_rng(0)
    words = np.array(["add", "take", "pens", "boxes", "left", "now", "total", "each"])
    made = []
    for i in range(96):
        label = int(rng.integers(0, 2))
        text = f" {' '.join(rng.choice(words, 6))} {rng.integers(99)}." + "\n" * label
        # Every problem's words of its own, so that no two questions are nearly equal.
        question = " ".join(np.random.default_rng(i // 4).permutation(words)) + "xyz"[i // 4 % 3]
        made.append(Trace(f"t{i}", f"p{i // 4}", f"Q: {question}?\nA:", text, label))
    return made


@pytest.fixture(scope="module")
def trace_file(traces: list[Trace], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The traces as JSON lines."""
    return write_traces(tmp_path_factory.mktemp("audit") / "traces.jsonl", traces)


@pytest.fixture(scope="module")
def feature_file(traces: list[Trace], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Features of the traces; the first graph column carries the label."""
    rng = np.random.default_rng(1)
    labels = np.array([t.label for t in traces])
    values = rng.normal(size=(96, len(NAMES))).astype(np.float32)
    values[:, len(BASELINES)] += 2 * labels
    lengths = rng.integers(5, 20, (96, 2))
    values[:, :2] = lengths
    path = tmp_path_factory.mktemp("audit") / "features.parquet"
    write_features(path, FeatureMatrix(values, NAMES, tuple(traces), lengths,
                                       Provenance("m", "r", "default", 1)))
    return path


def run(*argv: object) -> int:
    parser = argparse.ArgumentParser()
    audit.register(parser.add_subparsers(required=True))
    args = parser.parse_args(["audit", *map(str, argv)])
    return int(args.run(args))


QUICK = ("--folds", 3, "--permutations", 19)


def test_a_feature_file_becomes_tables_a_page_and_json(
    feature_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page, numbers = tmp_path / "a" / "r.html", tmp_path / "b" / "r.json"
    assert run(feature_file, *QUICK, "--C", 0.1, "--report", page, "--json-output", numbers) == 0
    out = capsys.readouterr().out
    for words in ("What one thing alone says", "Leaks", "like compared with like", "verdict",
                  "What the learned score adds", "Labels shuffled 19 times",
                  "Features that follow length", "beyond length + log-prob? Yes"):
        assert words in out
    result = json.loads(numbers.read_text())
    assert result["facts"]["classifier"]["C"] == 0.1
    assert result["composition"]["traces"] == 96
    assert result["increments"][0]["auroc"]["interval"]["low"] > 0
    assert result["verdict"][0] in page.read_text()


def test_a_trace_file_is_audited_as_text(
    trace_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(trace_file, *QUICK, "--json") == 0
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert result["facts"]["unit"] == "characters"
    assert result["increments"] == []
    flags = {leak["key"]: leak for leak in result["leaks"] if leak["flagged"]}
    assert flags["formatting"]["severity"] == "severe"
    assert flags["formatting"]["name"] == "formatting (trailing newline)"


def test_near_duplicates_are_merged_on_request(
    traces: list[Trace], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    twins = [dataclasses.replace(t, id=f"{t.id}x", problem_id=f"{t.problem_id}x")
             for t in traces[:8]]
    path = write_traces(tmp_path / "twins.jsonl", [*traces, *twins])
    for options, problems, pairs in (((), 26, 2), (("--merge-duplicates",), 24, 0)):
        assert run(path, *QUICK, "--json", *options) == 0
        result = json.loads(capsys.readouterr().out)
        assert result["composition"]["problems"] == problems
        assert len(result["duplicates"]) == pairs


def test_wrong_input_is_a_typed_error(
    feature_file: Path, traces: list[Trace], tmp_path: Path
) -> None:
    with pytest.raises(ParameterError, match="--format is for trace files"):
        run(feature_file, "--format", "jsonl")
    with pytest.raises(ValidatorError, match="cannot be read"):
        run(tmp_path / "none.jsonl")
    with pytest.raises(ParameterError, match="caliper"):
        run(feature_file, "--caliper", -1)
    unlabelled = [dataclasses.replace(t, label=None) for t in traces]
    with pytest.raises(LabelError, match="valid and invalid"):
        run(write_traces(tmp_path / "u.jsonl", unlabelled))


def test_help_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        run("--help")
    assert stopped.value.code == 0
    assert "example:\n  validator audit features.parquet" in capsys.readouterr().out
