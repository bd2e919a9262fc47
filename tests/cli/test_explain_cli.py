"""``validator explain`` as a user meets it, and the reference that ships."""

from __future__ import annotations

import json
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from html_balance import Balance

from validator import SpectralFeatureExtractor, ValidityClassifier
from validator.cli.main import main
from validator.explain.reference import Reference
from validator.explain.reference_file import read_reference, shipped_reference
from validator.features.table import write_features
from validator.scoring import Validator, shipped_artifact
from validator.training.datasets import load_traces, write_traces
from validator.training.fit import train
from validator.types import Trace

MODEL = "smollm2-135m-instruct"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny: Any) -> Path:
    """A tiny model, traces, an artifact and features of them."""
    path = tmp_path_factory.mktemp("explain")
    tiny[0].save_pretrained(path / "tiny")
    tiny[1].save_pretrained(path / "tiny")
    many = [Trace(f"p{i}#{k}", f"p{i}", f"Q: {i}?\nA:", f" {i} and {k} make {i + k}.", (i + k) % 2)
            for i in range(8) for k in range(2)]
    write_traces(path / "traces.jsonl", many)
    extractor = SpectralFeatureExtractor(path / "tiny", feature_set="fast")
    features = extractor.fit_transform(many)
    write_features(path / "features.parquet", features)
    train(features, ValidityClassifier(C=0.01), path / "artifact", n_splits=2)
    return path


def run(capsys: pytest.CaptureFixture[str], folder: Path, *argv: object) -> tuple[int, str, str]:
    code = main(["explain", str(folder / "traces.jsonl"), "--model", str(folder / "tiny"),
                 "--artifact", str(folder / "artifact"), "--no-store", *map(str, argv)])
    out, err = capsys.readouterr()
    return code, out, " ".join(err.split())


def test_page_json_and_table(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page, kept = tmp_path / "out" / "page.html", tmp_path / "kept.parquet"
    code, out, _ = run(capsys, folder, "--id", "p1#0", "-o", page, "--reference",
                       folder / "traces.jsonl", "--reference-size", 14, "--save-reference", kept,
                       "--layer", 1, "--json-output", tmp_path / "n.json")
    assert code == 0
    assert "P(valid) 0." in out
    assert "nearest invalid: " in out
    Balance().feed(page.read_text(encoding="utf-8"))
    told = json.loads((tmp_path / "n.json").read_text())
    assert told["id"] == "p1#0"
    assert told["reference"]["name"] == "14 of the 16 traces of traces.jsonl"
    assert told["interval"][0] <= told["p_valid"] <= told["interval"][1]
    code, out, _ = run(capsys, folder, "--id", "p1#0", "--reference", kept, "--json")
    again = json.loads(out)
    assert code == 0
    assert {**again, "command": 0} == {**told, "command": 0}
    code, out, _ = run(capsys, folder, "--id", "p1#0", "--reference", folder / "features.parquet",
                       "--json")
    assert json.loads(out)["reference"] == {"name": "features.parquet", "valid": 7, "invalid": 8}


@pytest.mark.parametrize(("argv", "said"), [
    ([], "say which with --id"),
    (["--id", "p1#00"], "did you mean 'p1#0'?"),
    (["--id", "p1#0"], "no reference ships for tiny"),
    (["--id", "p1#0", "--reference", "features.parquet", "--layer", "7"], "layer 7 was not read"),
    (["--id", "p1#0", "--reference", "nothing.parquet"], "nothing.parquet"),
    (["--id", "p1#0", "--reference", "traces.jsonl", "--reference-size", "4"], "labelled valid"),
])
def test_bad_input_is_exit_1_and_says_what_to_do(
    argv: list[str], said: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [str(folder / a) if a.endswith((".parquet", ".jsonl")) else a for a in argv]
    code, _, err = run(capsys, folder, *given)
    assert code == 1
    assert said in err


def test_the_shipped_reference_is_small_and_belongs_to_the_shipped_classifier() -> None:
    reference = shipped_reference(MODEL)
    artifact = shipped_artifact(MODEL)
    assert reference is not None
    assert artifact is not None
    assert (len(reference.where(1)), len(reference.where(0))) == (40, 40)
    trained = Validator.load(artifact).trained_on
    assert trained is not None
    trained.require_equal(reference.provenance, "the shipped reference")
    path = Path(str(files("validator.data").joinpath("references", f"{MODEL}.parquet")))
    assert path.stat().st_size < 500_000
    shipped = {t.id: t for t in demo()}
    assert all(shipped[t.id] == t for t in reference.traces)
    assert shipped_reference("no/such model") is None
    assert len(read_reference(path)) == 80


@pytest.mark.slow
@pytest.mark.model
def test_the_shipped_reference_is_what_the_model_reads() -> None:
    reference = shipped_reference(MODEL)
    assert reference is not None
    again = Reference.of(SpectralFeatureExtractor(MODEL).fit_transform(reference.traces[:1]), "x")
    np.testing.assert_allclose(again.grid, reference.grid[:1], rtol=2e-3, atol=2e-4)
    np.testing.assert_allclose(again.baselines, reference.baselines[:1], rtol=1e-3, atol=1e-4)


def demo() -> list[Trace]:
    with as_file(files("validator.data").joinpath("demo_traces.jsonl")) as path:
        return load_traces(path)
