"""Where the documents of a task come from when it is not the hub: local files, generated problems.

``--metadata '{"data_files": ...}'`` names local benchmark files; without it, the folder named by
the environment variable :data:`FOLDER` is looked into. The hub stays the default.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from validator.errors import HarnessError

__all__ = ["FOLDER", "arithmetic_word_problems", "generated_problems", "gsm_symbolic",
           "local_files"]

FOLDER = "VALIDATOR_LM_EVAL_DATA"
"""Names a folder with ``TASK.jsonl``, or ``TASK/SPLIT.jsonl``, where TASK is a task's or its
upstream task's name."""

log = logging.getLogger("lm-eval")

SPLIT_NAMES = {"train", "validation", "test", "dev"}
SPLITS = ("training_split", "validation_split", "test_split", "fewshot_split")


def local_files(config: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """The configuration, reading local files where some are given for the task.

    ``metadata["data_files"]`` is a file, ``{split: file}``, or ``{task: either of these}``, JSON
    Lines with the columns of the benchmark. One file for a task that takes its few-shot examples
    from a split of its own serves as both; the examples then leave out the document at hand. It is
    not for tasks that generate their problems.

    Args:
        config: of the task; returned as it is where no file is given.
        names: of the task and its upstream task.

    Raises:
        HarnessError: a file that is not there, or no file for the split that is evaluated.
    """
    given = config.get("metadata", {}).get("data_files")
    files = _of_folder(names) if given is None else _of_task(given, config, names)
    if files is None or (isinstance(given, str) and config.get("custom_dataset") is not None):
        return config
    wanted = config.get("test_split") or config.get("validation_split")
    if isinstance(files, str):
        files = {wanted: files}
    for split, path in files.items():
        if not Path(path).is_file():
            raise HarnessError(f"data_files: no file {path} for the split {split!r} of the task "
                               f"{config.get('task')!r}")
    if wanted not in files:
        raise HarnessError(
            f"data_files of the task {config.get('task')!r} name {', '.join(files)}, not the split "
            f"that is evaluated, {wanted!r}")
    found = dict(config, dataset_path="json", dataset_name=None, custom_dataset=None,
                 dataset_kwargs={"data_files": {s: str(Path(p)) for s, p in files.items()}})
    for key in SPLITS:
        if found.get(key) is not None and found[key] not in files:
            # lm-eval leaves the document out of its own examples only where both are one split
            found[key] = wanted if key == "fewshot_split" else None
    return found


def _of_task(given: Any, config: Mapping[str, Any], names: Sequence[str]) -> Any:
    if isinstance(given, str):
        return given
    if not isinstance(given, Mapping):
        raise HarnessError("data_files must be a file, {split: file} or {task: files}, got "
                           f"{type(given).__name__}")
    splits = {config[s] for s in SPLITS if config.get(s) is not None}
    if set(given) <= splits and given:
        return dict(given)
    found = next((given[n] for n in names if n in given), None)
    if found is None and SPLIT_NAMES & set(given):
        raise HarnessError(
            f"data_files of the task {config.get('task')!r}: {', '.join(given)} are not all splits "
            f"that it has ({', '.join(sorted(splits))})")
    if found is None:
        log.warning("data_files name %s, not the task %s, which is read from the hub",
                    ", ".join(given), config.get("task"))
    return found


def _of_folder(names: Sequence[str]) -> Any:
    folder = os.environ.get(FOLDER)
    if not folder:
        return None
    for name in names:
        if (file := Path(folder) / f"{name}.jsonl").is_file():
            return str(file)
        files = sorted((Path(folder) / name).glob("*.jsonl")) if name else []
        if files:
            return {f.stem: str(f) for f in files}
    return None


def generated_problems(name: str, metadata: Mapping[str, Any]) -> Any:
    """A built-in problem set as lm-eval wants it: ``{"test": Dataset}`` of questions and answers.

    ``metadata`` may say ``problem_count`` (default 200) and ``problem_seed`` (default 0).
    """
    import datasets

    from validator.training.problems import problem_set

    problems = problem_set(
        name, int(metadata.get("problem_count", 200)), int(metadata.get("problem_seed", 0)))
    rows = [{"problem_id": p.id, "question": p.question, "answer": p.target} for p in problems]
    return {"test": datasets.Dataset.from_list(rows)}


def arithmetic_word_problems(**metadata: Any) -> Any:
    """One-step word problems, or the set that ``metadata["problems"]`` names."""
    return generated_problems(str(metadata.get("problems", "one-step")), metadata)


def gsm_symbolic(**metadata: Any) -> Any:
    """GSM-symbolic problems of the reasoning-gym package."""
    return generated_problems("gsm_symbolic", metadata)
