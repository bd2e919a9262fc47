"""``validator heads`` as it is typed, on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
from PIL import Image

from validator import SpectralFeatureExtractor, ValidityClassifier
from validator.cli.main import main
from validator.errors import ParameterError
from validator.explain.head_study import study_sample
from validator.report.head_map import describe_maps, head_map, save_head_map
from validator.training.datasets import write_traces
from validator.training.fit import train
from validator.types import Trace


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny: Any) -> Path:
    """A tiny model, traces and an artifact."""
    path = tmp_path_factory.mktemp("heads")
    tiny[0].save_pretrained(path / "tiny")
    tiny[1].save_pretrained(path / "tiny")
    many = [Trace(f"p{i}#{k}", f"p{i}", f"Q: {i}?\nA:", f" {i} and {k} make {i + k}.", (i + k) % 2)
            for i in range(8) for k in range(2)]
    write_traces(path / "traces.jsonl", many)
    write_traces(path / "bare.jsonl", [Trace(t.id, t.problem_id, t.prompt, t.completion)
                                       for t in many])
    features = SpectralFeatureExtractor(path / "tiny", feature_set="fast").fit_transform(many)
    train(features, ValidityClassifier(C=0.01), path / "artifact", n_splits=2)
    return path


def run(capsys: pytest.CaptureFixture[str], folder: Path, *argv: object) -> tuple[int, str, str]:
    code = main(["heads", str(folder / "traces.jsonl"), "--model", str(folder / "tiny"),
                 "--artifact", str(folder / "artifact"), "--no-store", "--folds", "2",
                 *map(str, argv)])
    out, err = capsys.readouterr()
    return code, out, " ".join(err.split())


def test_table_json_and_map(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture, numbers = tmp_path / "out" / "map.png", tmp_path / "n.json"
    code, out, _ = run(capsys, folder, "--layers", "0,2", "--heads", "1", "--limit", 6,
                       "-o", picture, "--json-output", numbers)
    assert code == 0
    for text in ("completion length", "chosen in training folds", "change of log_odds", "0.1",
                 "2.1", "most induction", "6 traces, 2 heads"):
        assert text in " ".join(out.split())
    found = json.loads(numbers.read_text())
    assert (found["ablation"]["heads"], found["ablation"]["problems"]) == (2, 6)
    assert len(found["heads"]) == 12
    ablated = [h for h in found["heads"] if "changes" in h]
    assert [(h["layer"], h["head"]) for h in ablated] == [(0, 1), (2, 1)]
    for head in ablated:
        moved = head["changes"]["mean_logprob"]
        assert moved["low"] <= moved["mean"] <= moved["high"]
        assert moved["mean"] != 0
        assert set(head["separation"]) == set(head["changes"])
    assert all(0 <= h["roles"]["self"] <= 1 and 0 <= h["auroc"]["estimate"] <= 1
               for h in found["heads"])
    with Image.open(picture) as image:
        assert image.size[0] > 800
        assert "induction: lowest" in image.text["Description"]  # type: ignore[attr-defined]
    assert np.ptp(matplotlib.image.imread(picture)) > 0.5


def test_parts_can_be_left_out_and_missing_labels_are_told(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, folder, "--no-ablation", "--signal-limit", 0, "--json")
    found = json.loads(out)
    assert code == 0
    assert found["ablation"] is None
    assert found["signal"] is None
    assert set(found["heads"][0]) == {"layer", "head", "roles"}
    code = main(["heads", str(folder / "bare.jsonl"), "--model", str(folder / "tiny"),
                 "--no-store", "--layers", "1", "--heads", "0", "--limit", "3"])
    out, err = capsys.readouterr()
    assert code == 0
    assert "no classifier ships" in " ".join(err.split())
    assert "it takes valid and invalid traces" in " ".join(err.split())
    assert "change of mean_logprob" in " ".join(out.split())


def test_bad_input_ends_with_one_and_a_sentence(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(capsys, folder, "--layers", "9", "--signal-limit", 0)[::2] == (
        1, "error: no layer 9 has attention; those that have: 0, 1, 2")
    code, _, err = run(capsys, folder, "-o", "map.gif")
    assert code == 1
    assert ".png or .svg" in err
    assert run(capsys, folder, "--limit", 0)[0] == 1
    with pytest.raises(SystemExit) as stopped:
        run(capsys, folder, "--layers", "a,b")
    assert stopped.value.code == 2


def test_help_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["heads", "--help"])
    assert "example:\n  validator heads traces.jsonl" in capsys.readouterr().out


def test_the_sample_is_of_many_problems_and_both_labels() -> None:
    many = [Trace(f"p{i}#{k}", f"p{i}", "Q", "A", int(k == 0)) for i in range(5) for k in range(4)]
    few = study_sample(many, 4)
    assert len({t.problem_id for t in few}) == 4
    assert [t.label for t in few].count(1) == 2
    assert len(study_sample(many, 8)) == 8
    assert [t.label for t in study_sample(many, 8)].count(1) == 4
    assert len(study_sample(many, 18)) == 18  # five are valid: the others are not
    assert study_sample(many, 99) == many
    bare = [Trace(f"p{i}", f"p{i % 2}", "Q", "A") for i in range(4)]
    assert [t.id for t in study_sample(bare, 3)] == ["p0", "p1", "p2"]


def test_a_map_has_a_panel_each_and_says_the_same_in_words(tmp_path: Path) -> None:
    grid = np.arange(6.0).reshape(3, 2) / 6
    grid[0, 0] = np.nan
    panels = {"change of x": grid - 0.5, "self": grid}
    figure = head_map(panels, (0, 3, 7), "Heads")
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert titles == ["change of x", "self"]
    assert {axes.get_xlabel() for axes in figure.axes if axes.get_title()} == {"head"}
    told = describe_maps(panels, (0, 3, 7))
    assert "self: lowest 0.167 (layer 0, head 1), median 0.5, highest 0.833 (layer 7, head 1)" in (
        told)
    save_head_map(tmp_path / "map.svg", panels, (0, 3, 7), "Heads")
    svg = (tmp_path / "map.svg").read_text()
    assert "highest 0.833" in svg
    assert "layer</text>" in svg
    with pytest.raises(ParameterError, match="no panels"):
        head_map({}, (0,), "Heads")
