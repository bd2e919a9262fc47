"""``validator steps`` as a user meets it."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from validator.classifier import load_artifact
from validator.cli import steps
from validator.columns import BASELINES, Column
from validator.errors import FeatureMismatchError
from validator.features.table import write_features
from validator.types import FeatureMatrix, Provenance, Trace

NAMES = tuple(str(Column(b)) for b in BASELINES) + tuple(
    str(Column("fiedler_value", layer, None, "completion")) for layer in range(3))


@pytest.fixture(scope="module")
def features() -> FeatureMatrix:
    """30 problems of one trace of 4 steps; in two of three the third step is wrong."""
    rng = np.random.default_rng(0)
    traces = tuple(
        Trace(f"t{p}#step{k}", f"p{p}", f"Q: {p}?\nA:" + " so it is." * k, f" {k} is {p % 7}.",
              None if p % 3 and k > 2 else int(k != 2 or not p % 3),
              meta={"trace": f"t{p}", "step": k})
        for p in range(30) for k in range(4))
    values = rng.normal(size=(120, len(NAMES))).astype(np.float32)
    values[:, 5] += 3 * np.array([t.label != 0 for t in traces])
    lengths = rng.integers(3, 9, size=(120, 2))
    return FeatureMatrix(values, NAMES, traces, lengths, Provenance("m", "r", "default", 1))


@pytest.fixture(scope="module")
def feature_file(features: FeatureMatrix, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("steps") / "steps.parquet"
    write_features(path, features)
    return path


def run(*argv: object) -> int:
    parser = argparse.ArgumentParser()
    steps.register(parser.add_subparsers())
    args = parser.parse_args(["steps", *[str(a) for a in argv]])
    return int(args.run(args))


def test_help_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        run("--help")
    assert stopped.value.code == 0
    assert "example:\n  validator steps step_features.parquet" in capsys.readouterr().out


def test_tables_verdict_artifact_and_json_file(
    feature_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    artifact, numbers = tmp_path / "a", tmp_path / "out" / "n.json"
    code = run(feature_file, "--folds", 3, "--save-artifact", artifact, "--json-output", numbers)
    out = " ".join(capsys.readouterr().out.split())
    assert code == 0
    for expected in ("at equal step", "most frequent in training", "F1", "verdict",
                     "20 of 120 steps have no label", "artifact:"):
        assert expected in out
    saved = json.loads(numbers.read_text())
    assert {r["key"] for r in saved["ranking"]} >= {"position", "surface", "learned"}
    assert saved["facts"]["with_error"] == 20
    assert saved["artifact"] == str(artifact)
    manifest = load_artifact(artifact).manifest["metadata"]
    assert manifest["rows"] == "steps"
    assert manifest["evaluation"]["verdict"] == saved["verdict"]


def test_many_steps_without_components_are_said_to_be_slow(
    feature_file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "MANY", 119)
    assert run(feature_file, "--folds", 3, "--json") == 0
    assert "120 steps: every exact fit takes minutes" in capsys.readouterr().err


def test_json_on_standard_output(feature_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(feature_file, "--folds", 3, "--components", 2, "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["facts"]["components"] == 2
    row = next(r for r in printed["location"] if r["key"] == "learned")
    assert 0 <= row["values"]["f1"]["low"] <= row["values"]["f1"]["high"] <= 1


def test_features_of_whole_traces_say_what_to_do(features: FeatureMatrix, tmp_path: Path) -> None:
    whole = dataclasses.replace(
        features, traces=tuple(dataclasses.replace(t, meta={}) for t in features.traces))
    write_features(tmp_path / "whole.parquet", whole)
    with pytest.raises(FeatureMismatchError, match="validator extract --steps"):
        run(tmp_path / "whole.parquet")
