"""``validator abstain``: its numbers are the library's, on problems that no other part saw."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import validator.cli.main as cli
from validator.classifier import ValidityClassifier, save_artifact
from validator.conformal import ConformalLabels, RiskThreshold, report
from validator.features.table import write_features
from validator.metrics import aurc, brier, ece, excess_aurc
from validator.types import FeatureMatrix, Provenance, Trace

NAMES = tuple(f"fiedler_value__layer{i}__head_mean__completion" for i in range(3))
PROVENANCE = Provenance("tiny", "abc", "standard", 1)


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    if "abstain" not in cli.COMMANDS:
        monkeypatch.setattr(cli, "COMMANDS", (*cli.COMMANDS, "abstain"))


def features(first: int, last: int, size: int = 6) -> FeatureMatrix:
    """Traces of problems first..last-1; three columns that follow the label."""
    rng = np.random.default_rng(first)
    traces, values = [], []
    for p in range(first, last):
        ease = rng.normal()
        for k in range(size):
            label = int(ease + 1.5 * rng.normal() > -0.5)
            traces.append(Trace(f"p{p}#{k}", f"p{p}", "Q:", " 1", label))
            values.append(1.6 * label + 0.3 * ease + rng.normal(size=3))
    lengths = np.ones((len(traces), 2), dtype=np.int64)
    return FeatureMatrix(
        np.array(values, dtype=np.float32), NAMES, tuple(traces), lengths, PROVENANCE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact of problems 0-59, and feature files of others."""
    path = tmp_path_factory.mktemp("abstain")
    training = features(0, 60)
    fitted = ValidityClassifier().fit(training.values, training.labels, training.problem_ids)
    save_artifact(path / "artifact", fitted, PROVENANCE, NAMES,
                  {"training_problems": sorted(set(training.problem_ids.tolist()))})
    for name, span in {"train": (0, 60), "cal": (60, 260), "test": (260, 330),
                       "overlap": (50, 70), "few": (60, 80)}.items():
        write_features(path / f"{name}.parquet", features(*span))
    return path


def run(capsys: pytest.CaptureFixture[str], *argv: object) -> tuple[int, str, str]:
    code = cli.main(["abstain", *(str(a) for a in argv)])
    out, err = capsys.readouterr()
    return code, " ".join(out.split()) if "--json" not in argv else out, " ".join(err.split())


def judged(folder: Path, span: tuple[int, int]) -> tuple[Any, Any, Any]:
    from validator.classifier import load_artifact

    matrix = features(*span)
    probs = load_artifact(folder / "artifact").classifier.predict_proba(matrix.values)[:, 1]
    return probs, matrix.labels, matrix.problem_ids


def test_the_numbers_are_those_of_the_library(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, folder / "artifact", folder / "cal.parquet",
                         folder / "test.parquet", "--max-risk", 0.2, "--alpha", 0.2, "--json")
    assert code == 0, err
    found = json.loads(out)
    rule = RiskThreshold(0.2, 0.9).fit(*judged(folder, (60, 260)))
    sets = ConformalLabels(0.2).fit(*judged(folder, (60, 260)))
    probs, labels, groups = judged(folder, (260, 330))
    expected = report(rule, sets, probs, labels, groups)
    assert found["certified"] is rule.certified_ is True
    assert found["threshold"] == pytest.approx(rule.threshold_)
    assert found["calibration"] == {
        "problems": 200, "answered": pytest.approx(rule.coverage_),
        "risk": pytest.approx(rule.risk_)}
    assert found["test"]["risk"] == pytest.approx(expected.risk)
    assert found["test"]["set_coverage"]["estimate"] == pytest.approx(
        expected.set_coverage.estimate)
    assert 0 < found["test"]["answered"]["estimate"] < 1
    assert found["ece"] == pytest.approx(ece(labels, probs))
    for name, metric in (("brier", brier), ("aurc", aurc), ("excess_aurc", excess_aurc)):
        assert found[name]["estimate"] == pytest.approx(metric(labels, probs))
        assert found[name]["low"] < found[name]["estimate"] < found[name]["high"]


def test_one_file_is_split_by_problem(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = (folder / "artifact", folder / "cal.parquet", "--max-risk", 0.3, "--json")
    found = json.loads(run(capsys, *argv)[1])
    assert found["calibration"]["problems"] + found["test"]["problems"] == 200
    assert found["test"]["traces"] == 6 * found["test"]["problems"]
    assert abs(found["test"]["problems"] - 100) <= 10
    assert json.loads(run(capsys, *argv)[1]) == found
    assert json.loads(run(capsys, *argv, "--seed", 1)[1]) != found


def test_a_person_reads_a_table_and_what_to_do(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, folder / "artifact", folder / "cal.parquet",
                       folder / "test.parquet", "--max-risk", 0.3)
    assert code == 0
    assert "Answer where P(valid) >= 0." in out
    assert "risk of the answers" in out
    code, out, _ = run(capsys, folder / "artifact", folder / "few.parquet",
                       folder / "test.parquet", "--max-risk", 0.02)
    assert code == 0
    assert "answer nothing" in out
    assert "risk of the answers │ – │ –" in out


def test_without_a_certificate_json_holds_null(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, folder / "artifact", folder / "few.parquet",
                       folder / "test.parquet", "--max-risk", 0.02, "--json")
    found = json.loads(out)
    assert code == 0
    assert (found["certified"], found["threshold"], found["test"]["risk"]) == (False, None, None)
    assert found["calibration"]["risk"] is None


def test_training_problems_are_left_out_and_shared_ones_refused(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, folder / "artifact", folder / "overlap.parquet",
                         folder / "test.parquet", "--json")
    assert code == 0
    assert json.loads(out)["calibration"]["problems"] == 10
    assert "60 traces are of problems the artifact was trained on" in err
    code, _, err = run(capsys, folder / "artifact", folder / "cal.parquet", folder / "few.parquet")
    assert code == 1
    assert "20 problems are in the calibration and in the test file, first: 'p60'" in err
    code, _, err = run(capsys, folder / "artifact", folder / "train.parquet")
    assert code == 1
    assert "out of sample" in err


def test_bad_arguments_are_exit_1(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for option in ("--max-risk", "--confidence", "--alpha"):
        code, _, err = run(capsys, folder / "artifact", folder / "few.parquet", option, 1)
        assert code == 1
        assert "must lie in (0, 1), got 1" in err


def test_help_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["abstain", "--help"])
    assert stopped.value.code == 0
    assert "example:\n  validator abstain" in capsys.readouterr().out
