"""``validator report`` and ``validator train --from-lm-eval`` on what lm-eval logs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from html_balance import Balance
from sklearn.metrics import roc_auc_score
from tiny_models import byte_tokenizer, tiny_model

from validator.classifier import load_artifact
from validator.cli.main import main
from validator.plugins.harness.summary import problem_of

STAMP = "2026-01-02T03-04-05.678"


def logged(folder: Path, model: str, documents: int = 30, repeats: int = 2) -> list[dict[str, Any]]:
    """A run of a spectral task whose P(valid) is worth something."""
    rng = np.random.default_rng(0)
    records = []
    for i in range(documents):
        valid = rng.integers(0, 2, repeats).tolist()
        chance = [float(np.clip(0.35 + 0.3 * v + rng.normal(0, 0.2), 0.01, 0.99)) for v in valid]
        texts = [f" {i} and {k} make {i + k if v else i - k}." for k, v in enumerate(valid)]
        records.append({
            "doc_id": i, "doc": {"question": f"q{i}"}, "filter": "strict", "exact_match": valid[0],
            "arguments": {"gen_args_0": {"arg_0": f"Q: {i}?\nA:", "arg_1": {}}}, "resps": [texts],
            "spectral": {"valid": valid, "answer": [str(v) for v in valid],
                       "tokens": rng.integers(5, 20, repeats).tolist(),
                       "score": {"validity": chance,
                                 "completion_length": (-rng.random(repeats)).tolist(),
                                 "mean_logprob": (-rng.random(repeats)).tolist()}}})
    folder.mkdir()
    (folder / f"results_{STAMP}.json").write_text(json.dumps({
        "configs": {"sums_spectral": {"repeats": repeats, "metadata": {"spectral": {
            "reader": "tiny", "origin": "evaluated model", "dtype": "float32"}}}},
        "config": {"model_args": {"pretrained": model}}}))
    (folder / f"samples_sums_spectral_{STAMP}.jsonl").write_text(
        "".join(json.dumps(r) + "\n" for r in records))
    return records


def test_report_as_table_json_and_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = logged(tmp_path / "out", "m")
    page = tmp_path / "page.html"
    assert main(["report", str(tmp_path / "out"), "--json", "-o", str(page),
                 "--json-output", str(tmp_path / "n.json")]) == 0
    told = json.loads(capsys.readouterr().out)
    y = [v for r in records for v in r["spectral"]["valid"]]
    p = [v for r in records for v in r["spectral"]["score"]["validity"]]
    row = next(r for r in told["rows"] if r["key"] == "validity")
    assert row["auroc"]["estimate"] == pytest.approx(roc_auc_score(y, p))
    assert told["task"] == "sums_spectral"
    assert json.loads((tmp_path / "n.json").read_text())["rows"] == told["rows"]
    text = page.read_text()
    Balance().feed(text)
    assert text.count("<svg") == 6
    assert told["verdict"] in text
    assert "<script" not in text
    assert main(["report", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr().out
    assert "oracle" in shown
    assert told["verdict"] in shown


def test_report_leaves_out_what_the_classifier_was_trained_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logged(tmp_path / "out", "m")
    samples = tmp_path / "out" / f"samples_sums_spectral_{STAMP}.jsonl"
    records = [json.loads(line) for line in samples.read_text().splitlines()]
    for record in records[:10]:
        record["spectral"]["seen"] = True
    samples.write_text("".join(json.dumps(r) + "\n" for r in records))
    assert main(["report", str(tmp_path / "out"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["facts"]["problems"] == 20
    assert told["notes"] == [
        "20 responses to documents that the classifier was trained on are left out."]
    for record in records:
        record["spectral"]["seen"] = True
    samples.write_text("".join(json.dumps(r) + "\n" for r in records))
    assert main(["report", str(tmp_path / "out")]) == 1
    assert "nothing in it is out of sample" in " ".join(capsys.readouterr().err.split())


def test_report_on_a_plain_task_says_which_one_to_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logged(tmp_path / "out", "m", repeats=1)
    samples = tmp_path / "out" / f"samples_sums_spectral_{STAMP}.jsonl"
    records = [json.loads(line) for line in samples.read_text().splitlines()]
    for record in records:
        del record["spectral"]
    samples.write_text("".join(json.dumps(r) + "\n" for r in records))
    assert main(["report", str(tmp_path / "out")]) == 1
    assert "is no spectral task" in " ".join(capsys.readouterr().err.split())


def test_train_from_lm_eval_reads_labels_and_documents(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VALIDATOR_CACHE", str(tmp_path / "cache"))
    model = tmp_path / "tiny"
    tiny_model().save_pretrained(model)
    byte_tokenizer().save_pretrained(model)
    records = logged(tmp_path / "out", str(model))
    artifact = tmp_path / "artifact"
    assert main(["train", "--from-lm-eval", str(tmp_path / "out"), "-o", str(artifact),
                 "--feature-set", "paper", "--folds", "3", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["facts"]["traces"] == 60
    found = load_artifact(artifact)
    assert found.provenance.model == "tiny"
    assert set(found.manifest["metadata"]["training_problems"]) == {
        problem_of(r["doc"]) for r in records}
    assert main(["train", "-o", str(artifact)]) == 1
    assert "give a feature file, or --from-lm-eval" in " ".join(capsys.readouterr().err.split())
