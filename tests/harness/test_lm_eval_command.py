"""The real command line of lm-eval 0.4.13, as a subprocess, on the default model."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from validator.classifier import load_artifact
from validator.models.fetch import fetch
from validator.plugins.harness.command import TASKS
from validator.plugins.harness.stubs import FOLDER
from validator.plugins.harness.upstream import tasks_root

pytestmark = [pytest.mark.slow, pytest.mark.model, pytest.mark.timeout(1200)]

BIN = Path(sys.executable).parent
STRICT = "strict-match"


def run(program: str, *arguments: str, folder: Path, check: bool = True,
        **variables: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {
        "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_CACHE": str(folder / "datasets"), **variables}
    done = subprocess.run([BIN / program, *arguments], cwd=folder, env=environment,
                          capture_output=True, text=True, check=False)
    if check:
        assert done.returncode == 0, f"{done.stdout[-1500:]}\n{done.stderr[-3000:]}"
    return done


def logged(folder: Path) -> tuple[dict[str, Any], dict[str, list[dict[str, Any]]]]:
    """The newest results, and the samples of each task."""
    results = max(folder.rglob("results_*.json"), key=lambda p: p.stat().st_mtime)
    stamp = results.name.removeprefix("results_").removesuffix(".json")
    samples = {p.name.removeprefix("samples_").removesuffix(f"_{stamp}.jsonl"):
               [json.loads(line) for line in p.read_text().splitlines()]
               for p in results.parent.glob(f"samples_*_{stamp}.jsonl")}
    return json.loads(results.read_text()), samples


def scores_of(samples: list[dict[str, Any]]) -> list[float]:
    return [v for s in samples if s["filter"] == STRICT
            for values in s["spectral"]["score"].values() for v in values]


@pytest.fixture(scope="module")
def model() -> str:
    return str(fetch("smollm2-135m-instruct"))


@pytest.fixture(scope="module")
def installed(lm_eval_lock: FileLock) -> Any:
    """The tasks, where the stock command finds them; as it was before afterwards."""
    with lm_eval_lock:
        there = (tasks_root() / FOLDER).exists()
        run("validator", "lm-eval", "install-tasks", folder=Path.cwd())
        yield
        if not there:
            run("validator", "lm-eval", "uninstall-tasks", folder=Path.cwd())
            assert not (tasks_root() / FOLDER).exists()


@pytest.mark.shared
def test_the_stock_command_beside_upstream_and_the_model_read_in_place(
    model: str, installed: None, shared_data: Path, tmp_path: Path
) -> None:
    """One model load each: upstream's task and ours on the same file, then hf-spectral."""
    file = str(shared_data / "gsm8k_test.jsonl")
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "plain.yaml").write_text(
        f"include: {tasks_root() / 'gsm8k' / 'gsm8k.yaml'}\ntask: plain\ntag: null\n"
        "dataset_path: json\ndataset_name: null\ndataset_kwargs:\n  data_files:\n"
        f"    test: {file}\ntraining_split: null\nfewshot_split: test\n")
    common = ["--model_args", f"pretrained={model}", "--limit", "2", "--log_samples", "--device",
              "cpu", "--batch_size", "2", "--num_fewshot", "3", "--gen_kwargs",
              "max_gen_toks=32", "--metadata", json.dumps({"data_files": file})]
    stock = run("lm_eval", "--model", "hf", "--tasks", "plain,gsm8k_spectral", "--include_path",
                "plain", "--output_path", "stock", *common, "--use_cache", str(tmp_path / "cache"),
                folder=tmp_path)
    results, samples = logged(tmp_path / "stock")
    ours, theirs = results["results"]["gsm8k_spectral"], results["results"]["plain"]
    shared = [k for k in theirs if k.startswith("exact_match")]
    assert len(shared) == 4
    assert {k: ours[k] for k in shared} == {k: theirs[k] for k in shared}
    assert [s["resps"] for s in samples["plain"]] == [s["resps"] for s in samples["gsm8k_spectral"]]
    assert "auroc_validity" in stock.stdout
    assert ours[f"spectral,{STRICT}"] == 1.0
    about = results["configs"]["gsm8k_spectral"]["metadata"]["spectral"]
    assert (about["reader"], about["origin"], about["artifact"]) == (
        "smollm2-135m-instruct", "evaluated model", "smollm2-135m-instruct")

    run("validator", "lm-eval", "--model", "hf-spectral", "--tasks", "gsm8k_spectral",
        "--output_path", "own", *common, folder=tmp_path)
    in_place, read = logged(tmp_path / "own")
    assert scores_of(read["gsm8k_spectral"]) == pytest.approx(
        scores_of(samples["gsm8k_spectral"]), abs=1e-5)
    assert {k: in_place["results"]["gsm8k_spectral"][k] for k in shared} == {
        k: ours[k] for k in shared}


def test_a_dummy_model_with_a_reader(model: str, installed: None, tmp_path: Path) -> None:
    run("lm_eval", "--model", "dummy", "--tasks", "arithmetic_word_problems_spectral",
        "--log_samples", "--output_path", "read", "--metadata",
        json.dumps({"problem_count": 6, "reader": model}), folder=tmp_path)
    results, samples = logged(tmp_path / "read")
    assert results["results"]["arithmetic_word_problems_spectral"][f"exact_match,{STRICT}"] == 0
    assert len(scores_of(samples["arithmetic_word_problems_spectral"])) > 6


def test_evaluate_report_and_train(
    model: str, installed: None, tmp_path: Path
) -> None:
    common = ["--model", "hf", "--model_args", f"pretrained={model}", "--device", "cpu",
              "--batch_size", "64", "--log_samples", "--tasks",
              "arithmetic_word_problems_spectral_n8"]
    asked = {"problem_count": 6, "problem_seed": 21}
    first = run("lm_eval", *common, "--metadata", json.dumps(asked), "--output_path", "first",
                folder=tmp_path)
    for rule in ("majority_vote", "weighted_vote_validity", "oracle", "best_of_n_validity",
                 "best_of_n_mean_logprob", "pass_at_1", "auroc_within_validity"):
        assert rule in first.stdout
    done = run("validator", "report", "first", "-o", "page.html", "--json", folder=tmp_path)
    told = json.loads(done.stdout)
    _, samples = logged(tmp_path / "first")
    fresh = [s for s in samples["arithmetic_word_problems_spectral_n8"]
             if not s["spectral"].get("seen")]
    assert told["facts"]["problems"] == len(fresh) > 3  # less the questions it was trained on
    assert "<svg" in (tmp_path / "page.html").read_text()
    run("validator", "train", "--from-lm-eval", "first", "-o", "artifact", "--folds", "3",
        folder=tmp_path)
    artifact = load_artifact(tmp_path / "artifact")  # used by a task in test_task.py
    assert artifact.provenance.model == "smollm2-135m-instruct"


def test_tasks_are_found_with_an_editable_lm_eval(tmp_path: Path) -> None:
    """A checkout of lm-eval on the path, as an editable installation puts it there."""
    import lm_eval

    source = Path(lm_eval.__path__[0])
    checkout = tmp_path / "checkout"
    shutil.copytree(source, checkout / "lm_eval", ignore=lambda folder, names: [
        n for n in names if n == "__pycache__" or (
            Path(folder).name == "tasks" and (Path(folder) / n).is_dir() and n != "gsm8k")])
    subprocess.run(["git", "init", "-q", checkout], check=True)
    subprocess.run(["git", "-C", checkout, "add", "-A"], check=True)
    subprocess.run(["git", "-C", checkout, "-c", "user.name=t", "-c", "user.email=t@t", "commit",
                    "-q", "-m", "x"], check=True)
    environment = {"PYTHONPATH": str(checkout), "PYTHONDONTWRITEBYTECODE": "1"}
    done = run("validator", "lm-eval", "install-tasks", "--json", folder=tmp_path, **environment)
    folder = Path(json.loads(done.stdout)["folder"])
    assert folder == checkout / "lm_eval" / "tasks" / FOLDER
    listed = run("lm_eval", "ls", "subtasks", folder=tmp_path, **environment)
    assert "gsm8k_spectral_n8" in listed.stdout
    status = ["git", "-C", str(checkout), "status", "--porcelain"]
    assert subprocess.run(status, capture_output=True, text=True, check=True).stdout == ""
    run("validator", "lm-eval", "uninstall-tasks", folder=tmp_path, **environment)
    assert not folder.exists()
    assert subprocess.run([*status, "--ignored"], capture_output=True, text=True,
                          check=True).stdout == ""


def test_the_include_path_is_the_other_way(tmp_path: Path) -> None:
    done = run("validator", "lm-eval", "tasks-path", folder=tmp_path)
    assert done.stdout.strip() == str(TASKS)
    listed = run("validator", "lm-eval", "ls", "subtasks", folder=tmp_path)
    assert "minerva_math500_spectral" in listed.stdout
