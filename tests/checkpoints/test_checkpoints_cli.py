"""``validator checkpoints``: its numbers are the survey's, as a table, as JSON and as a page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from fine_tuning import made_traces
from html_balance import Balance
from tiny_models import byte_tokenizer
from transformers import AutoModelForCausalLM

import validator.cli.main as cli
from validator.plugins.checkpoints import Probe, survey_checkpoints
from validator.report.checkpoints_page import steps_plot
from validator.training.datasets import write_traces


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    if "checkpoints" not in cli.COMMANDS:
        monkeypatch.setattr(cli, "COMMANDS", (*cli.COMMANDS, "checkpoints"))


@pytest.fixture(scope="module")
def folder(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three checkpoints, the last unreadable, with a probe and true accuracies."""
    path = tmp_path_factory.mktemp("cli")
    for step in (5, 10):
        model = AutoModelForCausalLM.from_pretrained(base)
        with torch.no_grad():
            model.lm_head.weight += 0.01 * step
            model.model.layers[1].self_attn.q_proj.weight *= step
        model.save_pretrained(path / "run" / f"checkpoint-{step}")
        byte_tokenizer().save_pretrained(path / "run" / f"checkpoint-{step}")
    (path / "run" / "checkpoint-15").mkdir()
    write_traces(path / "probe.jsonl", made_traces(6, 12))
    (path / "truth.json").write_text('{"checkpoint-5": 0.25, "10": 0.75}')
    return path


def run(capsys: pytest.CaptureFixture[str], *argv: object) -> tuple[int, str, str]:
    code = cli.main(["checkpoints", *(str(a) for a in argv)])
    out, err = capsys.readouterr()
    return code, out, err


def test_json_page_and_table_tell_the_survey(
    folder: Path, artifact: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    page, numbers = tmp_path / "p" / "page.html", tmp_path / "n.json"
    given = [folder / "run", "--probe", folder / "probe.jsonl", "--artifact", artifact,
             "--truth", folder / "truth.json"]
    code, out, _ = run(capsys, *given, "--json", "-o", page, "--json-output", numbers)
    assert code == 0
    told = json.loads(out)
    survey = survey_checkpoints(folder / "run", Probe(made_traces(6, 12), artifact),
                                truth={"5": 0.25, "10": 0.75})
    notes = told.pop("notes")
    assert told == json.loads(json.dumps(survey.to_json()))
    assert json.loads(numbers.read_text())["checkpoints"] == told["checkpoints"]
    assert [r["name"] for r in told["checkpoints"]] == [
        "checkpoint-5", "checkpoint-10", "checkpoint-15"]
    assert told["checkpoints"][2]["rank"] == 3
    assert any("4 of 12 probe traces are of problems the classifier was trained on" in n
               for n in notes)
    assert any("1 of 3 checkpoints could not be scored" in n for n in notes)
    assert any("no calibrated probabilities" in n for n in notes)
    text = page.read_text()
    Balance().feed(text)
    assert text.count("<svg") == 1
    assert "<script" not in text
    assert told["verdict"] in text
    assert "not scored" in text
    for criterion in told["criteria"]:
        assert f"<td>{criterion['criterion']}</td>" in text
    code, out, err = run(capsys, *given)
    assert code == 0
    assert told["verdict"] in out
    assert "Choosing by each criterion" in out
    assert "checkpoint-15: " in err


def test_without_truth_there_is_nothing_to_judge(
    folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, out, _ = run(capsys, folder / "run", "--probe", folder / "probe.jsonl", "--features",
                       "fast", "--by", "validation_loss", "--json", "-o", tmp_path / "page.html")
    assert code == 0
    told = json.loads(out)
    assert told["criteria"] == []
    assert told["score"] == "mean_logprob"
    losses = {r["name"]: r["values"].get("validation_loss") for r in told["checkpoints"]}
    best = min((v, n) for n, v in losses.items() if v is not None)[1]
    assert told["verdict"] == f"By validation_loss keep {best}."
    assert "What choosing by each criterion" not in (tmp_path / "page.html").read_text()


def test_problems_of_a_file_give_the_true_accuracy(
    folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    problems = tmp_path / "problems.jsonl"
    problems.write_text('{"question": "1?", "answer": "1"}\n{"question": "2?", "answer": "2"}\n')
    code, out, err = run(capsys, folder / "run", "--probe", folder / "probe.jsonl", "--features",
                         "fast", "--problems", problems, "--own", "--json")
    # the exemplars do not fit into the tiny model's context: every checkpoint is an error row
    assert code == 1
    assert "positions for 256" in " ".join(err.split())
    assert out == ""


@pytest.mark.parametrize(("more", "told"), [
    (["--own"], "--own scores answers to problems"),
    (["--truth", "bad.json"], "expected a JSON object"),
    (["--truth", "list.json"], "expected a JSON object"),
    (["--by", "beauty"], "no criterion 'beauty'"),
    (["--artifact", "ARTIFACT", "--features", "fast"], "states its own feature set"),
])
def test_bad_input_is_said(
    folder: Path, artifact: Path, capsys: pytest.CaptureFixture[str], more: list[str], told: str,
    tmp_path: Path,
) -> None:
    (tmp_path / "bad.json").write_text("{")
    (tmp_path / "list.json").write_text("[1]")
    more = [str(tmp_path / m) if m.endswith(".json") else m for m in more]
    more = [str(artifact) if m == "ARTIFACT" else m for m in more]
    if "--features" not in more:
        more += ["--features", "fast"]
    code, _, err = run(capsys, folder / "run", "--probe", folder / "probe.jsonl", *more)
    assert code == 1
    assert told in " ".join(err.split())


def test_the_plot_scales_each_line_and_survives_gaps() -> None:
    rows = [{"step": s, "accuracy": a, "values": v} for s, a, v in (
        (1, None, {"validity": 0.2, "mean_logprob": -1.0}), (2, 0.4, {"validity": 0.2}),
        (3, 0.5, {}))]
    assert "true accuracy" in steps_plot(rows, ("validity", "mean_logprob", "absent"))
    bare = [{"step": 1, "accuracy": None, "values": {"validity": 0.2}}]
    assert "true accuracy" not in steps_plot(bare, ("validity",)).replace(
        "Criteria and true accuracy over the steps", "")
