"""What lm-eval logged, read back: traces, labels and scores of a run's responses."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from validator.errors import HarnessError
from validator.plugins.harness.summary import problem_of
from validator.types import Trace

__all__ = ["LoggedRun", "read_run"]

RESULTS, SAMPLES = "results_", "samples_"


@dataclass(frozen=True)
class LoggedRun:
    """The responses of one task of one run, under one filter."""

    task: str
    filter: str
    traces: tuple[Trace, ...]
    """Labelled; a problem is a document, its id a hash of the document's content. An empty
    response is an empty completion, which no model can read."""
    scores: Mapping[str, NDArray[np.float64]]
    """Name -> (N,) scores, NaN where a response has none; empty for a task that is not spectral."""
    lengths: NDArray[np.int64]
    """(N,) completion tokens; 0 where unknown."""
    seen: NDArray[np.bool_]
    """(N,) whether the classifier that scored them was trained on the document."""
    about: Mapping[str, Any]
    """Reader, revision, feature set, artifact and solver, as the run recorded them."""
    model: str | None
    """The reader as ``--metadata`` named it, else the evaluated model; None where not told."""
    source: Path
    """The samples file."""


def read_run(folder: Path, *, task: str | None = None, filter: str | None = None) -> LoggedRun:
    """The newest run under an ``--output_path`` of lm-eval, written with ``--log_samples``.

    Args:
        folder: that path, or any folder above the files.
        task: which task (default: the only one).
        filter: which filter's verdict is the label (default: the first that was logged).

    Raises:
        HarnessError: no such run, task or filter; a damaged file; responses without a label.
    """
    results, samples = _newest(folder, task)
    name = samples.name.removeprefix(SAMPLES).removesuffix(results.name.removeprefix(RESULTS) + "l")
    name = name.rstrip("_")
    config = _json(results)
    lines = _lines(samples)
    filters = list(dict.fromkeys(str(r.get("filter")) for _, r in lines))
    chosen = filters[0] if filter is None else filter
    if chosen not in filters:
        raise HarnessError(f"{samples}: no filter {chosen!r}; there are {', '.join(filters)}")
    repeats = int(config.get("configs", {}).get(name, {}).get("repeats") or 1)
    rows = [_rows(samples, i, r, name, repeats) for i, r in lines if str(r.get("filter")) == chosen]
    flat = [row for document in rows for row in document]
    names = list(dict.fromkeys(n for r in flat for n in r.scores))
    metadata = config.get("configs", {}).get(name, {}).get("metadata") or {}
    about = metadata.get("spectral")
    return LoggedRun(
        task=name, filter=chosen, traces=tuple(r.trace for r in flat),
        scores={n: np.array([r.scores.get(n, math.nan) for r in flat]) for n in names},
        lengths=np.array([r.tokens for r in flat], dtype=np.int64),
        seen=np.array([r.seen for r in flat], dtype=bool),
        about=about if isinstance(about, Mapping) else {},
        model=metadata.get("reader") or _model(config), source=samples)


@dataclass(frozen=True)
class _Row:
    trace: Trace
    scores: Mapping[str, float]
    tokens: int
    seen: bool


def _newest(folder: Path, task: str | None) -> tuple[Path, Path]:
    """The results file and the samples file of the newest run that has both."""
    if not folder.is_dir():
        raise HarnessError(f"no folder {folder}; give the --output_path of a run of lm-eval")
    found = sorted(folder.rglob(f"{RESULTS}*.json"), key=lambda p: p.name)
    if not found:
        raise HarnessError(f"{folder} holds no {RESULTS}*.json; give the --output_path of a run")
    for results in reversed(found):
        stamp = results.name.removeprefix(RESULTS).removesuffix(".json")
        samples = sorted(results.parent.glob(f"{SAMPLES}*_{stamp}.jsonl"))
        if task is not None:
            samples = [s for s in samples if s.name == f"{SAMPLES}{task}_{stamp}.jsonl"]
        if len(samples) == 1:
            return results, samples[0]
        if samples:
            tasks = [s.name.removeprefix(SAMPLES).removesuffix(f"_{stamp}.jsonl") for s in samples]
            raise HarnessError(f"{results.parent} has samples of {', '.join(tasks)}; name one with "
                               "--task")
    raise HarnessError(
        f"{folder} has results but no samples" + (f" of {task!r}" if task else "")
        + "; run lm-eval with --log_samples")


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise HarnessError(f"cannot read {path}: {error}") from error
    if not isinstance(found, dict):
        raise HarnessError(f"{path}: expected a JSON object")
    return found


def _lines(path: Path) -> list[tuple[int, dict[str, Any]]]:
    found = []
    for i, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise HarnessError(f"{path}, line {i}: no JSON ({error})") from error
        if not isinstance(record, dict):
            raise HarnessError(f"{path}, line {i}: expected a JSON object")
        found.append((i, record))
    if not found:
        raise HarnessError(f"{path} holds no samples")
    return found


def _rows(path: Path, line: int, record: Mapping[str, Any], task: str, repeats: int
          ) -> list[_Row]:
    """The responses of one document."""
    if isinstance(record.get("queries"), Mapping):
        raise HarnessError(f"{path}: {task} logged log-likelihoods, which have no scores to report "
                           "on; its metrics are in the results, and what was found at each query "
                           "in the column `queries`")
    try:
        prompt = record["arguments"]["gen_args_0"]["arg_0"]
        if not isinstance(prompt, str) or prompt.startswith("['["):
            raise HarnessError(f"{path}, line {line}: the prompt is a chat that lm-eval logged, "
                               "not the text that was read; log a run with a text prompt")
        # Under data parallelism, copies stand behind the responses of a short rank.
        responses: Sequence[Any] = record["resps"][0][:repeats]
        column = record.get("spectral")
        column = column if isinstance(column, Mapping) and "valid" in column else None
        valid = column["valid"] if column is not None else [record["exact_match"]]
        if column is None and len(responses) > 1:
            raise HarnessError(
                f"{path}, line {line}: {len(responses)} responses and one verdict; only a spectral "
                "task says of each response whether it is right")
        answers = column["answer"] if column is not None else [None]
        tokens = column["tokens"] if column is not None else [0]
        scores: Mapping[str, Sequence[Any]] = column["score"] if column is not None else {}
        if not len(responses) == len(valid) == len(answers) == len(tokens):
            raise HarnessError(f"{path}, line {line}: responses, verdicts and answers differ in "
                               "number")
        problem = problem_of(record["doc"])
        return [
            _Row(Trace(f"{task}/{record['doc_id']}#{k}", problem, str(prompt), str(response),
                       label=_label(path, line, valid[k]), source=task, answer=answers[k],
                       status="ok" if answers[k] is not None or column is None else "unparsed"),
                 {n: math.nan if v[k] is None else float(v[k]) for n, v in scores.items()},
                 int(tokens[k]), bool(column is not None and column.get("seen", False)))
            for k, response in enumerate(responses)
        ]
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise HarnessError(f"{path}, line {line}: no sample of a task that generates text "
                           f"({type(error).__name__}: {error})") from error


def _label(path: Path, line: int, value: Any) -> int:
    if value not in (0, 1):
        raise HarnessError(f"{path}, line {line}: exact_match says whether a response is right and "
                           f"must be 0 or 1, got {value!r}")
    return int(value)


def _model(config: Mapping[str, Any]) -> str | None:
    found = config.get("config", {}).get("model_args")
    if isinstance(found, Mapping):
        return None if found.get("pretrained") is None else str(found["pretrained"])
    parts = dict(p.split("=", 1) for p in str(found or "").split(",") if "=" in p)
    return parts.get("pretrained")


