"""``validator windtunnel`` as it is typed, from traces to a measured run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tiny_models import byte_tokenizer, tiny_model

from validator.cli.main import main
from validator.training.datasets import load_traces
from validator.windtunnels.runs import read_run
from validator.windtunnels.sula import SulaTunnel
from validator.windtunnels.symbols import symbol_tokenizer

TINY = ("--set", "nodes=5,6", "--set", "depth=2,3", "--set", "dummies=0,1", "--set", "labels=8")


def run(capsys: pytest.CaptureFixture[str], *argv: object) -> tuple[int, str, str]:
    code = main([str(a) for a in argv])
    out, err = capsys.readouterr()
    return code, out, " ".join(err.split())


@pytest.fixture(scope="module")
def walks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a few steps."""
    folder = tmp_path_factory.mktemp("cli") / "run"
    assert main(["windtunnel", "train", "edges-16", "-o", str(folder), "--steps", "8",
                 "--checkpoints", "2", "--problems", "4", "--learning-rate", "0.01", *TINY,
                 "--json"]) == 0
    return folder


@pytest.mark.parametrize("action", ["list", "sample", "train", "measure"])
def test_every_action_has_help_with_an_example(
    action: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["windtunnel", action, "--help"])
    assert stopped.value.code == 0
    assert f"example:\n  validator windtunnel {action}" in capsys.readouterr().out


def test_list_names_tunnels_and_subjects(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "windtunnel", "list", "--json")
    found = json.loads(out)
    assert code == 0
    assert [t["name"] for t in found["tunnels"]] == [
        "tree", "filter-sort", "bijection", "hmm", "sula"]
    assert "bad_reversal" in found["tunnels"][0]["corruptions"]
    assert {s["name"] for s in found["subjects"]} >= {"edges-16", "bijection-10", "sula"}
    code, out, _ = run(capsys, "windtunnel")
    assert code == 0
    assert "task=direct nodes=8,16 labels=20" in " ".join(out.replace("│", " ").split())


def test_sampled_traces_are_labelled_and_read_by_every_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "traces.jsonl"
    code, out, _ = run(capsys, "windtunnel", "sample", "tree", "-n", 3, "--style", "flat",
                       "--corrupt", "swapped", "--corrupt", "off_path", "-o", path, "--json")
    assert code == 0
    assert json.loads(out)["traces"] == 9
    traces = load_traces(path)
    assert [t.label for t in traces] == [1, 0, 0] * 3
    assert all(t.step_labels and min(t.step_labels) == t.label for t in traces)
    code, out, _ = run(capsys, "windtunnel", "sample", "bijection-20", "-n", 2, "-o", path,
                       "--corrupt", "all")
    assert code == 0
    assert "used_value" in out
    assert load_traces(path)[0].meta["size"] == 20


@pytest.mark.slow
def test_a_run_is_measured_and_drawn(
    walks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, "windtunnel", "measure", walks, "--problems", 6, "--plots",
                       tmp_path / "plots", "--json-output", tmp_path / "found.json")
    assert code == 0
    for text in ("Whole answers that are right", "backward edge", "checkpoint-8"):
        assert text in " ".join(out.split())
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["run"]["schedule"]["learning_rate"] == 0.01
    assert found["walks"]["model"]["problems"] == 6
    assert found["settings"]["nodes"] == [5, 6]
    assert {Path(p).name for p in found["plots"]} == {
        f"{name}.{kind}" for name in ("attention", "checkpoints", "roles")
        for kind in ("png", "svg")}
    code, out, _ = run(capsys, "windtunnel", "measure", walks / "checkpoint-4", "--problems", 2,
                       "--json")
    assert (code, json.loads(out)["model"]) == (0, "checkpoint-4")


def test_the_checkpoints_of_a_run_are_ranked_with_their_truth(
    walks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    probe = tmp_path / "probe.jsonl"
    assert run(capsys, "windtunnel", "sample", "edges-16", "-n", 2, "--corrupt", "swapped", *TINY,
               "-o", probe)[0] == 0
    code, out, _ = run(capsys, "checkpoints", walks, "--probe", probe, "--truth",
                       walks / "truth.json", "--features", "fast", "--json")
    assert code == 0
    found = json.loads(out)
    assert [c["accuracy"] for c in found["checkpoints"]] == [
        c.exact for c in read_run(walks).checkpoints]
    assert [c["values"]["validation_loss"] for c in found["checkpoints"]] == [
        c.loss for c in read_run(walks).checkpoints]
    assert {"last", "validation_loss", "mean_logprob"} <= {
        c["criterion"] for c in found["criteria"]}


@pytest.mark.slow
def test_a_run_of_evidence_with_its_plots(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    code, out, _ = run(capsys, "windtunnel", "train", "bijection-10", "--set", "size=4", "-o",
                       folder, "--steps", 4, "--checkpoints", 1, "--problems", 2, "--plots",
                       tmp_path / "training")
    assert code == 0
    assert "entropy error, bits" in out
    assert {p.name for p in (tmp_path / "training").iterdir()} == {
        "checkpoints.png", "checkpoints.svg"}
    code, out, _ = run(capsys, "windtunnel", "measure", folder, "--problems", 10, "--controls", 2,
                       "--plots", tmp_path / "plots")
    assert code == 0
    for text in ("uniform", "untrained", "mlp last", "mlp all", "position alone",
                 "|cos| of layer-0 keys"):
        assert text in " ".join(out.split())
    assert {p.stem for p in (tmp_path / "plots").iterdir()} == {
        "attention", "entropy", "manifold", "checkpoints"}


def test_evidence_in_context(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A model that has a token for every word, and knows nothing."""
    tunnel = SulaTunnel(2, words=("p", "n"))
    words = {w for seed in range(20) for w in tunnel.render(
        tunnel.sample(np.random.default_rng(seed)), "text").prompt.split()}
    tiny_model().save_pretrained(tmp_path / "model")
    symbol_tokenizer(sorted(words)).save_pretrained(tmp_path / "model")
    code, out, _ = run(capsys, "windtunnel", "measure", "--model", tmp_path / "model", "--subject",
                       "sula", "--set", "words=p,n", "--set", "examples=2", "--problems", 2,
                       "--plots", tmp_path / "plots", "--json")
    assert code == 0
    found = json.loads(out)
    assert found["style"] == "text"
    assert found["evidence"]["controls"]["uniform"]["overall"]["queries"] == 6
    assert {p.stem for p in (tmp_path / "plots").iterdir()} == {"entropy", "manifold"}


def test_walks_in_context(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_model(max_position_embeddings=1024).save_pretrained(tmp_path / "model")
    byte_tokenizer().save_pretrained(tmp_path / "model")
    code, out, _ = run(capsys, "windtunnel", "measure", "--model", tmp_path / "model", "--subject",
                       "edges-16", *TINY, "--problems", 1, "--shots", 0)
    assert code == 0
    assert "in context" in out
    assert "1 of 1 answers had not ended" in " ".join(out.split())
    code, _, err = run(capsys, "windtunnel", "measure", "--model", tmp_path / "model", "--subject",
                       "edges-16", "--plots", tmp_path)
    assert (code, "no plots of walks in context" in err) == (1, True)


@pytest.mark.parametrize(("argv", "said"), [
    (("measure",), "give either RUN_OR_MODEL"),
    (("measure", "smollm", "--model", "other"), "give either RUN_OR_MODEL"),
    (("measure", "smollm"), "name a --subject"),
    (("measure", "smollm", "--subject", "trees"), "no subject 'trees'"),
    (("train", "trees", "-o", "x"), "no subject 'trees'"),
    (("train", "sula", "-o", "x", "--set", "examples"), "--set takes NAME=VALUE"),
    (("sample", "trees", "-o", "x"), "no tunnel 'trees'"),
    (("sample", "tree", "-o", "x", "--corrupt", "badly"), "has no corruption 'badly'")])
def test_bad_input_is_told(
    argv: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(capsys, "windtunnel", *argv)
    assert code == 1
    assert said in err


def test_what_belongs_to_another_model_is_refused(
    walks: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(capsys, "windtunnel", "measure", walks, "--subject", "sula")
    assert (code, "leave --subject and --set out" in err) == (1, True)
    code, _, err = run(capsys, "windtunnel", "train", "edges-16", "-o", walks)
    assert (code, "holds a run already" in err) == (1, True)
