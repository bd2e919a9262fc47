"""What lm-eval logged, read back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from validator.errors import HarnessError
from validator.plugins.harness.logs import read_run
from validator.plugins.harness.summary import problem_of

STAMP = "2026-01-02T03-04-05.678"


def sample(i: int, filter: str = "strict", spectral: bool = True, **more: Any) -> dict[str, Any]:
    found: dict[str, Any] = {
        "doc_id": i, "doc": {"question": f"q{i}"}, "filter": filter, "exact_match": float(i % 2),
        "arguments": {"gen_args_0": {"arg_0": f"Q{i}", "arg_1": {}}}, "resps": [[f" a{i}"]]}
    if spectral:
        found["spectral"] = {"valid": [i % 2], "answer": [str(i)], "tokens": [3],
                           "score": {"validity": [0.5], "hfer": [None if i == 1 else -0.1 * i]}}
    return found | more


def write(folder: Path, task: str, records: list[dict[str, Any]], stamp: str = STAMP) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    results = {"configs": {task: {"metadata": {"spectral": {"reader": "m", "dtype": "float32"}}}},
               "config": {"model_args": {"pretrained": "folder"}}}
    (folder / f"results_{stamp}.json").write_text(json.dumps(results))
    path = folder / f"samples_{task}_{stamp}.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
    return path


def test_traces_labels_and_scores_come_back(tmp_path: Path) -> None:
    write(tmp_path / "m", "t_spectral", [sample(i, f) for f in ("strict", "loose")
                                         for i in range(3)])
    run = read_run(tmp_path)
    assert (run.task, run.filter, run.model) == ("t_spectral", "strict", "folder")
    assert run.about["reader"] == "m"
    assert [(t.prompt, t.completion, t.label, t.answer) for t in run.traces] == [
        (f"Q{i}", f" a{i}", i % 2, str(i)) for i in range(3)]
    assert [t.problem_id for t in run.traces] == [problem_of({"question": f"q{i}"})
                                                  for i in range(3)]
    np.testing.assert_array_equal(run.scores["hfer"], [0.0, np.nan, -0.2])
    assert read_run(tmp_path, filter="loose").filter == "loose"


def test_a_plain_task_has_labels_and_no_scores(tmp_path: Path) -> None:
    write(tmp_path, "gsm8k", [sample(i, spectral=False) for i in range(3)])
    run = read_run(tmp_path)
    assert [t.label for t in run.traces] == [0, 1, 0]
    assert run.scores == {}


def test_a_named_reader_is_the_model_to_read_with(tmp_path: Path) -> None:
    write(tmp_path, "t", [sample(0)])
    results = tmp_path / f"results_{STAMP}.json"
    told = json.loads(results.read_text())
    told["configs"]["t"]["metadata"]["reader"] = "models/reader"
    results.write_text(json.dumps(told))
    assert read_run(tmp_path).model == "models/reader"


def test_the_newest_run_counts(tmp_path: Path) -> None:
    write(tmp_path, "t", [sample(0)], "2026-01-01T00-00-00")
    newest = write(tmp_path, "t", [sample(1), sample(2)], "2026-02-01T00-00-00")
    assert read_run(tmp_path).source == newest


def test_empty_responses_come_back_empty(tmp_path: Path) -> None:
    write(tmp_path, "t", [sample(0), sample(1, resps=[[""]])])
    assert [t.completion for t in read_run(tmp_path).traces] == [" a0", ""]


def test_copies_behind_a_short_ranks_responses_are_not_read(tmp_path: Path) -> None:
    write(tmp_path, "t", [sample(0), sample(1, resps=[[" a1", " a1"]])])
    assert [t.id for t in read_run(tmp_path).traces] == ["t/0#0", "t/1#0"]


def test_errors_name_the_file_and_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="no folder"):
        read_run(tmp_path / "none")
    with pytest.raises(HarnessError, match=r"holds no results_\*\.json"):
        read_run(tmp_path)
    path = write(tmp_path, "t", [sample(0)])
    with pytest.raises(HarnessError, match="no filter 'x'; there are strict"):
        read_run(tmp_path, filter="x")
    with pytest.raises(HarnessError, match="no samples of 'u'; run lm-eval with --log_samples"):
        read_run(tmp_path, task="u")
    (tmp_path / f"samples_u_{STAMP}.jsonl").write_text(json.dumps(sample(0)) + "\n")
    with pytest.raises(HarnessError, match="has samples of t, u; name one with --task"):
        read_run(tmp_path)
    path.write_text(json.dumps(sample(0)) + "\n{\n")
    with pytest.raises(HarnessError, match=r"samples_t_.*, line 2: no JSON"):
        read_run(tmp_path, task="t")
    path.write_text(json.dumps({"filter": "strict"}) + "\n")
    with pytest.raises(HarnessError, match="line 1: no sample of a task that generates text"):
        read_run(tmp_path, task="t")
    plain = sample(0, spectral=False, resps=[["a", "b"]])
    path.write_text(json.dumps(plain) + "\n")
    results = tmp_path / f"results_{STAMP}.json"
    told = json.loads(results.read_text())
    told["configs"]["t"] = {"repeats": 2}
    results.write_text(json.dumps(told))
    with pytest.raises(HarnessError, match="2 responses and one verdict"):
        read_run(tmp_path, task="t")
    path.write_text(json.dumps(sample(0, spectral=False, exact_match=0.7)) + "\n")
    with pytest.raises(HarnessError, match=r"must be 0 or 1, got 0\.7"):
        read_run(tmp_path, task="t")
    chat = {"gen_args_0": {"arg_0": "['[{\"role\": \"user\"}]']", "arg_1": {}}}
    path.write_text(json.dumps(sample(0, arguments=chat)) + "\n")
    with pytest.raises(HarnessError, match="the prompt is a chat"):
        read_run(tmp_path, task="t")
