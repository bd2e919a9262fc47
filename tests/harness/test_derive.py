"""Configurations derived from upstream, and where their documents come from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from validator.errors import HarnessError
from validator.plugins.harness.data import FOLDER, generated_problems, local_files
from validator.plugins.harness.spectralize import spectralize
from validator.plugins.harness.upstream import derive, tasks_root
from validator.training.problems import problem_set, prompt_format

GSM8K: dict[str, Any] = {"task": "gsm8k_spectral", "training_split": "train", "test_split": "test",
                         "fewshot_split": "train", "dataset_path": "hub", "dataset_name": "main"}
NAMES = ("gsm8k_spectral", "gsm8k")


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "test.jsonl"
    path.write_text('{"question": "?", "answer": "1"}\n')
    return str(path)


def test_upstream_keys_stay_but_those_that_are_overridden() -> None:
    from lm_eval.tasks._yaml_loader import load_yaml

    base = load_yaml(tasks_root() / "gsm8k" / "gsm8k.yaml")
    found = derive({"upstream": "gsm8k/gsm8k.yaml"}, {
        "task": "mine", "generation_kwargs": {"do_sample": True}, "metadata": {"a": 1}})
    assert found["task"] == "mine"
    assert "tag" not in found
    assert found["generation_kwargs"] == {**base["generation_kwargs"], "do_sample": True}
    assert found["metadata"] == {**base["metadata"], "a": 1}
    same = set(base) - {"task", "tag", "generation_kwargs", "metadata"}
    assert {k: found[k] for k in same} == {k: base[k] for k in same}


def test_repeats_of_the_metadata_count() -> None:
    found = derive({"upstream": "gsm8k/gsm8k.yaml"}, {"task": "t", "metadata": {"repeats": "3"}})
    assert found["repeats"] == 3


def test_what_cannot_be_derived_is_refused() -> None:
    with pytest.raises(HarnessError, match=r"has no task file none/none\.yaml"):
        derive({"upstream": "none/none.yaml"}, {"task": "t"})
    with pytest.raises(HarnessError, match="only tasks that generate text"):
        derive({"upstream": "asdiv/default.yaml"}, {"task": "t"})


def test_one_file_serves_as_both_splits_without_leaking(file: str) -> None:
    found = local_files({**GSM8K, "metadata": {"data_files": file}}, NAMES)
    assert found["dataset_kwargs"] == {"data_files": {"test": file}}
    assert (found["dataset_path"], found["dataset_name"]) == ("json", None)
    # lm-eval leaves the document out of its own examples where both are the same split
    assert (found["fewshot_split"], found["test_split"]) == ("test", "test")
    assert found["training_split"] is None


@pytest.mark.parametrize("key", [None, "gsm8k", "gsm8k_spectral"])
def test_files_by_split_and_by_task(file: str, key: str | None) -> None:
    given: Any = {"train": file, "test": file}
    found = local_files(
        {**GSM8K, "metadata": {"data_files": given if key is None else {key: given}}}, NAMES)
    assert found["dataset_kwargs"] == {"data_files": given}
    assert (found["fewshot_split"], found["training_split"]) == ("train", "train")


def test_other_tasks_and_generated_ones_keep_theirs(file: str) -> None:
    other = {**GSM8K, "metadata": {"data_files": {"aime": file}}}
    assert local_files(other, NAMES) is other
    generated = {"task": "t", "test_split": "test", "custom_dataset": print,
                 "metadata": {"data_files": file}}
    assert local_files(generated, ("t", "")) is generated


def test_the_folder_of_the_environment(
    file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FOLDER, str(tmp_path))
    plain = {**GSM8K, "metadata": {}}
    assert local_files(plain, NAMES) is plain
    (tmp_path / "gsm8k").mkdir()
    (tmp_path / "gsm8k" / "test.jsonl").write_text("{}")
    found = local_files(plain, NAMES)
    assert found["dataset_kwargs"]["data_files"] == {"test": str(tmp_path / "gsm8k/test.jsonl")}
    (tmp_path / "gsm8k_spectral.jsonl").write_text("{}")
    found = local_files(plain, NAMES)
    assert found["dataset_kwargs"]["data_files"] == {"test": str(tmp_path / "gsm8k_spectral.jsonl")}


@pytest.mark.parametrize(("given", "message"), [
    ("nowhere.jsonl", "no file nowhere.jsonl for the split 'test'"),
    ({"train": "FILE"}, "not the split that is evaluated, 'test'"),
    ({"validation": "FILE"}, r"validation are not all splits that it has \(test, train\)"),
    (3, "must be a file"),
])
def test_wrong_files_are_named(file: str, given: Any, message: str) -> None:
    told = json.loads(json.dumps(given).replace("FILE", file))
    with pytest.raises(HarnessError, match=message):
        local_files({**GSM8K, "metadata": {"data_files": told}}, NAMES)


def test_generated_problems_and_their_prompt_are_those_of_sample() -> None:
    from lm_eval.tasks import TaskManager

    from validator.plugins.harness.command import TASKS

    rows = generated_problems("one-step", {"problem_count": 7, "problem_seed": 3})["test"]
    wanted = problem_set("one-step", 7, 3)
    assert [(r["problem_id"], r["question"], r["answer"]) for r in rows] == [
        (p.id, p.question, p.target) for p in wanted]
    manager = TaskManager(include_path=str(TASKS), include_defaults=False,
                          metadata={"problem_count": 7, "problem_seed": 3})
    task = manager.load("arithmetic_word_problems_spectral")["tasks"][
        "arithmetic_word_problems_spectral"]
    asked = prompt_format("one-step")
    for i, problem in enumerate(wanted):
        prompt = task.fewshot_context(task.eval_docs[i], num_fewshot=len(asked.exemplars))
        assert prompt == asked.prompt(problem.question)
    assert task.config.generation_kwargs["until"] == list(asked.stop)


def test_spectralize_writes_a_derived_task(tmp_path: Path) -> None:
    source = tasks_root() / "gsm_plus" / "gsm_plus.yaml"
    path = spectralize(str(source), tmp_path / "t", answer_style="math", repeats=4)
    assert path.name == "gsm_plus_spectral_n4.yaml"
    text = path.read_text()
    assert "upstream: gsm_plus/gsm_plus.yaml" in text
    assert spectralize(str(source), tmp_path / "t", answer_style="math", repeats=4) == path
    with pytest.raises(HarnessError, match="exists and says something else"):
        spectralize(str(source), tmp_path / "t", repeats=4)
    with pytest.raises(HarnessError, match="asks for 'loglikelihood'"):
        spectralize(str(tasks_root() / "asdiv" / "default.yaml"), tmp_path)
    with pytest.raises(HarnessError, match=r"group or tag; .* hendrycks_math_algebra"):
        spectralize(str(tasks_root() / "hendrycks_math" / "hendrycks_math.yaml"), tmp_path)
    own = tmp_path / "own.yaml"
    own.write_text("task: own\noutput_type: generate_until\nmetric_list:\n  - metric: bleu\n"
                   "  - metric: acc\n")
    with pytest.raises(HarnessError, match=r"has no metric 'exact_match' .* but bleu, acc"):
        spectralize(str(own), tmp_path)
    assert f"upstream: {own}" in spectralize(str(own), tmp_path, label_metric="acc").read_text()
    with pytest.raises(HarnessError, match="Python class of its own"):
        spectralize(str(tasks_root() / "squadv2" / "squadv2.yaml"), tmp_path)
