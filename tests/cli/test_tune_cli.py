"""``validator tune`` as a user meets it."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from validator.classifier import load_artifact
from validator.cli import main as command_line
from validator.columns import BASELINES, Column
from validator.features.table import write_features
from validator.types import FeatureMatrix, Provenance, Trace

NAMES = (*(str(Column(b)) for b in BASELINES),
         *(str(Column("fiedler_value", layer, None, "completion")) for layer in range(3)))
FEW = ("--trials", 3, "--outer", 2, "--inner", 2, "--kinds", "logistic")


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    commands = dict.fromkeys((*command_line.COMMANDS, "tune"))
    monkeypatch.setattr(command_line, "COMMANDS", tuple(commands))
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def features(tmp_path: Path) -> Path:
    """A feature file of 24 problems x 4 traces, right where the first graph column is large."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 96)
    values = rng.normal(size=(96, len(NAMES))).astype(np.float32)
    values[:, len(BASELINES)] += 1.5 * labels
    traces = tuple(Trace(f"p{i // 4}#{i % 4}", f"p{i // 4}", "Q:", " a", int(y))
                   for i, y in enumerate(labels))
    matrix = FeatureMatrix(values, NAMES, traces, np.full((96, 2), 5),
                           Provenance("m", "r", "default", 1))
    write_features(tmp_path / "f.parquet", matrix)
    write_features(tmp_path / "g.parquet", dataclasses.replace(matrix, values=-values))
    write_features(tmp_path / "short.parquet", matrix.take(range(40)))
    (tmp_path / "more").mkdir()
    write_features(tmp_path / "more" / "f.parquet", matrix)
    return tmp_path / "f.parquet"


def run(capsys: pytest.CaptureFixture[str], *argv: object) -> tuple[int, str, str]:
    code = command_line.main([str(a) for a in argv])
    out, err = capsys.readouterr()
    return code, out, " ".join(err.split())


def test_tables_and_a_verdict_in_words(
    features: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, "tune", features, "-o", tmp_path / "a", *FEW,
                         "--json-output", tmp_path / "deep" / "t.json")
    assert code == 0, err
    words = " ".join(out.split())
    for said in ("tuned", "untuned default", "mean log-prob", "completion length",
                 "tuned - default", "inner best", "all traces", "verdict"):
        assert said in words
    numbers = json.loads((tmp_path / "deep" / "t.json").read_text())
    tuned = numbers["auroc"]["tuned"]
    assert f"{tuned['estimate']:.3f} [" in words
    assert "uning" in numbers["verdict"]
    assert load_artifact(tmp_path / "a").manifest["metadata"]["evaluation"]["auroc"] == (
        numbers["auroc"])


def test_json_and_alternatives_by_name(
    features: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, "tune", features, tmp_path / "g.parquet", "-o", tmp_path / "a",
                         *FEW, "--storage", f"sqlite:///{tmp_path}/t.db", "--study", "mine",
                         "--json")
    assert code == 0, err
    result: dict[str, Any] = json.loads(out)
    assert list(result["facts"]["feature_sets"]) == ["f", "g"]
    assert result["facts"]["studies"] == ["mine-0", "mine-1", "mine-all"]
    assert [f["finished"] for f in result["folds"]] == [3, 3]
    assert Path(result["artifact"]).is_dir()
    assert (tmp_path / "t.db").exists()


def test_the_password_of_a_database_is_not_kept(
    features: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite://u:geheim@/{tmp_path}/t.db"
    seen: dict[str, Any] = {}

    def spied(*_: Any, **given: Any) -> None:
        seen.update(given)
        raise KeyboardInterrupt

    monkeypatch.setattr("validator.training.tune.tune", spied)
    argv = ["tune", str(features), "-o", str(tmp_path / "a"), "--storage", url]
    monkeypatch.setattr("sys.argv", ["validator", *argv])
    assert run(capsys, *argv)[0] == 130
    assert seen["storage"] == url
    assert "geheim" not in seen["metadata"]["command"]
    assert "u:***@" in seen["metadata"]["command"]


def test_files_of_equal_names_are_told_apart(
    features: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "more" / "f.parquet"
    code, out, err = run(capsys, "tune", features, other, "-o", tmp_path / "a", *FEW, "--json")
    assert code == 0, err
    assert list(json.loads(out)["facts"]["feature_sets"]) == [str(features), str(other)]
    code, _, err = run(capsys, "tune", features, features, "-o", tmp_path / "b", *FEW)
    assert code == 1
    assert "given twice" in err


def test_bad_input_is_exit_1_and_wrong_usage_exit_2(
    features: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for argv, said in (
            ((features, tmp_path / "short.parquet", *FEW), "different traces"),
            ((features, *FEW, "--trials", 0), "n_trials"),
            ((features, *FEW, "--storage", features), "no journal of trials"),
            ((tmp_path / "none.parquet", *FEW), "cannot read")):
        code, _, err = run(capsys, "tune", *argv, "-o", tmp_path / "a")
        assert (code, said in err) == (1, True), err
    with pytest.raises(SystemExit) as stopped:
        run(capsys, "tune", features, "-o", tmp_path / "a", "--kinds", "forest")
    assert stopped.value.code == 2
