"""``validator rerank`` as it is typed."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from html_balance import Balance
from tiny_models import byte_tokenizer, tiny_model

from validator import SpectralFeatureExtractor, ValidityClassifier, write_traces
from validator.cli.main import main
from validator.training.fit import train
from validator.types import Trace

assert issubclass(Balance, HTMLParser)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, an artifact, and labelled samples of other problems."""
    root = tmp_path_factory.mktemp("rerank")
    tiny_model().save_pretrained(root / "model")
    byte_tokenizer().save_pretrained(root / "model")
    made = [_traces(f"{part}{p}", p, seed) for seed, part in enumerate(("train", "new"))
            for p in range(24)]
    training = [t for own in made[:24] for t in own]
    write_traces(root / "train.jsonl", training)
    write_traces(root / "new.jsonl", [t for own in made[24:] for t in own])
    extractor = SpectralFeatureExtractor(str(root / "model"), feature_set="fast")
    train(extractor.fit_transform(training), ValidityClassifier("logistic", C=0.01),
          root / "artifact", n_splits=3)
    return root


def _traces(problem: str, p: int, seed: int) -> list[Trace]:
    rng = np.random.default_rng([seed, p])
    found = []
    for k in range(4):
        valid = int(rng.random() < 0.4)
        said = p + k if valid else p * k + 1
        found.append(Trace(f"{problem}#{k}", problem, f"Q{seed}: {p} and more?\nA:",
                           f" {'so' if valid else 'but'} it is {said}.", valid, answer=str(said)))
    return found


def test_streams_choices_and_reports(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, page, numbers = tmp_path / "o.jsonl", tmp_path / "p.html", tmp_path / "n.json"
    code = main(["rerank", str(folder / "new.jsonl"), "--artifact", str(folder / "artifact"),
                 "--model", str(folder / "model"), "-o", str(out), "--page", str(page),
                 "--json-output", str(numbers), "--surface-from", str(folder / "train.jsonl"),
                 "--at", "4", "--no-store"])
    shown = capsys.readouterr().out
    assert code == 0
    assert "majority vote" in shown
    assert "best of N by surface" in shown
    assert "choosing by the learned score" in " ".join(shown.split())
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [r["problem_id"] for r in rows] == [f"new{p}" for p in range(24)]
    for row in rows:
        scores = [c["score"] for c in row["candidates"]]
        assert len(scores) == 4
        assert scores == sorted(scores, reverse=True)
        assert row["id"] == row["candidates"][0]["id"]
    saved = json.loads(numbers.read_text())
    accuracy = np.mean([r["candidates"][0]["label"] for r in rows])
    assert saved["curves"]["best of N by validity"][-1]["estimate"] == pytest.approx(accuracy)
    checker = Balance()
    checker.feed(page.read_text())
    checker.close()
    assert "<svg" in page.read_text()
    assert saved["verdict"] in page.read_text().replace("&#39;", "'")


def test_json_and_rules(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["rerank", str(folder / "new.jsonl"), "--artifact", str(folder / "artifact"),
                 "--model", str(folder / "model"), "--rule", "weighted", "--json", "--no-store"])
    found = json.loads(capsys.readouterr().out)
    assert code == 0
    assert (found["problems"], found["candidates"]) == (24, 96)
    assert "summed P(valid)" in found["chosen"]["new0"]["reason"]
    assert found["report"]["sizes"] == [1, 2, 3, 4]


def test_problems_it_was_trained_on_are_left_out_of_the_report(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both = tmp_path / "both.jsonl"
    both.write_text((folder / "train.jsonl").read_text() + (folder / "new.jsonl").read_text())
    main(["rerank", str(both), "--artifact", str(folder / "artifact"), "--model",
          str(folder / "model"), "--json", "--no-store"])
    found = json.loads(capsys.readouterr().out)
    assert found["problems"] == 48
    assert found["report"]["facts"]["problems"] == 24
    assert "trained on 24 of the 48 problems" in found["notes"][0]


def test_without_labels_the_choices_are_shown(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "c.jsonl"
    source.write_text(json.dumps({"id": "q", "prompt": "Q: 1 and 2?\nA:",
                                  "candidates": [" it is 3.", "", " it is 2."]}) + "\n")
    arguments = ["rerank", str(source), "--model", str(folder / "model"), "--score",
                 "mean_logprob", "--no-store"]
    assert main(arguments) == 0
    captured = capsys.readouterr()
    assert "1 problems, rule: best" in captured.out
    assert "1 of 3 candidates could not be scored and rank last: q#1: empty response" in (
        " ".join(captured.err.split()))
    assert main([*arguments, "-o", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["candidates"][2]["unscored"] == "empty response"


def test_errors_say_what_to_do(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(*arguments: str) -> str:
        assert main(["rerank", *arguments, "--no-store"]) == 1
        return " ".join(capsys.readouterr().err.split())

    new, model = str(folder / "new.jsonl"), str(folder / "model")
    assert "--surface-from needs traces that are all labelled" in said(
        new, "--model", model, "--score", "mean_logprob", "--surface-from", _unlabelled(tmp_path))
    assert "give an artifact that `validator train` wrote" in said(new, "--model", model)
    blank = tmp_path / "blank.jsonl"
    blank.write_text('{"prompt": "p", "candidates": ["", ""]}\n')
    assert "none of the 2 candidates could be scored" in said(
        str(blank), "--model", model, "--score", "mean_logprob")


def _unlabelled(folder: Path) -> str:
    path = folder / "u.jsonl"
    record: dict[str, Any] = {"id": "a", "problem_id": "a", "prompt": "p", "completion": "c",
                              "label": None}
    path.write_text(json.dumps(record) + "\n")
    return str(path)
