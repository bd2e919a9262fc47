"""``validator clean`` and ``validator anomaly`` as they are typed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from html_balance import Balance

from validator.cli.main import main
from validator.training.datasets import write_traces
from validator.types import Trace


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny: Any) -> Path:
    """A tiny model, a training file, and good and new traces."""
    path = tmp_path_factory.mktemp("clean")
    tiny[0].save_pretrained(path / "tiny")
    tiny[1].save_pretrained(path / "tiny")
    rows = [{"prompt": f"Q: {i} <b>?\nA:", "completion": f"\nit is {i * 7 % 9}.\nso {i}\n#### {i}"}
            for i in range(20)]
    text = "".join(json.dumps(r) + "\n" for r in rows) + "broken\n"
    (path / "train.jsonl").write_text(text)
    many = [Trace(f"t{i}", f"p{i}", "Q?\nA:", f" {i} and {i * 3 % 7} it is.") for i in range(40)]
    write_traces(path / "good.jsonl", many[:30])
    write_traces(path / "new.jsonl", many[30:])
    return path


def clean(folder: Path, output: Path, *options: str) -> int:
    return main(["clean", str(folder / "train.jsonl"), "-o", str(output), "--model",
                 str(folder / "tiny"), "--no-store", *options])


def test_clean_writes_every_file_and_tells_what_it_did(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert clean(folder, tmp_path / "kept.jsonl", "--share", "0.2", "--features", "fast",
                 "--scores", str(tmp_path / "s.jsonl"), "--page", str(tmp_path / "p.html"),
                 "--json-output", str(tmp_path / "r.json"), "--planted") == 0
    out = capsys.readouterr().out
    assert "4 of 20 examples flagged by" in out
    assert "1 examples could not be scored and are kept" in out
    source = (folder / "train.jsonl").read_text().splitlines()
    kept = (tmp_path / "kept.jsonl").read_text().splitlines()
    flagged = [json.loads(x) for x in
               (tmp_path / "kept.jsonl.flagged.jsonl").read_text().splitlines()]
    gone = {r["line"] for r in flagged}
    assert kept == [line for n, line in enumerate(source, 1) if n not in gone]
    told = json.loads((tmp_path / "r.json").read_text())
    assert {f["line"] for f in told["flags"]} == gone
    assert "planted" in told["scores"]
    assert told["unscorable"][0]["line"] == 21
    page = (tmp_path / "p.html").read_text()
    checked = Balance()
    checked.feed(page)
    assert checked.open == []
    assert "http" not in page.replace("http-equiv", "")
    assert len((tmp_path / "s.jsonl").read_text().splitlines()) == 21


def test_clean_by_losses_and_threshold_as_json(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert clean(folder, tmp_path / "kept.jsonl", "--losses-only", "--by", "mean_logprob",
                 "--threshold", "-1000", "--drop-unscorable", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["flagged"], told["kept"], told["threshold"]) == (0, 20, -1000.0)
    assert "p_valid" not in told["scores"]


def test_clean_refuses_its_outputs_before_it_reads(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("validator.plugins.clean.read_examples", None)
    before = (folder / "train.jsonl").read_bytes()
    assert clean(folder, folder / "train.jsonl") == 1
    assert "never changed" in capsys.readouterr().err
    assert clean(folder, tmp_path / "kept.jsonl", "--page", str(tmp_path / "kept.jsonl")) == 1
    assert "two things" in capsys.readouterr().err
    assert (folder / "train.jsonl").read_bytes() == before
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("options", "message"), [
    (["--by", "typo", "--losses-only"], "there is no score 'typo'"),
    (["--planted", "--losses-only"], "--planted reads attention"),
    (["--losses-only", "--share", "2"], "share must lie in"),
    (["--format", "gsm8k", "--losses-only"], "no training example among 21 lines")])
def test_clean_says_what_is_wrong(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str],
    message: str
) -> None:
    assert clean(folder, tmp_path / "kept.jsonl", *options) == 1
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "kept.jsonl").exists()


def test_anomaly_fits_and_scores(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reference = str(tmp_path / "reference")
    assert main(["anomaly", "fit", str(folder / "good.jsonl"), "-o", reference, "--model",
                 str(folder / "tiny"), "--features", "fast", "--no-store"]) == 0
    assert "21 good traces to measure distances from, 9 to know" in " ".join(
        capsys.readouterr().out.split())
    assert main(["anomaly", "score", str(folder / "new.jsonl"), "--reference", reference,
                 "--no-store", "-o", str(tmp_path / "s.jsonl"), "--level", "0.2", "--model",
                 str(folder / "tiny")]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "of 10 traces anomalous at level 0.2" in out
    assert "0 of 10 traces have a label" in out
    rows = [json.loads(x) for x in (tmp_path / "s.jsonl").read_text().splitlines()]
    assert [r["id"] for r in rows] == [f"t{i}" for i in range(30, 40)]
    assert all(0.1 <= r["p_values"]["distance"] <= 1 for r in rows)
    assert main(["anomaly", "score", str(folder / "new.jsonl"), "--reference",
                 str(tmp_path / "none")]) == 1
