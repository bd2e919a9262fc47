"""A spectral task of any task that generates text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from validator.errors import HarnessError
from validator.plugins.harness.command import require_lm_eval

__all__ = ["spectralize"]


def spectralize(task: str, output: Path, *, include_path: str | None = None,
                answer_style: str | None = None, label_metric: str | None = None,
                repeats: int | None = None, temperature: float = 0.6) -> Path:
    """Write ``<task>_spectral.yaml``, derived from ``task``, into a folder; returns its path.

    Args:
        task: name of a task that lm-eval knows, or the path of its YAML file.
        output: folder; made if it is missing.
        include_path: a folder of further tasks, as lm-eval's.
        answer_style: how the voted answer is read: see
            :data:`validator.plugins.harness.upstream.OPTIONS`.
        label_metric: the metric that says whether a response is right (default: exact_match).
        repeats: responses of each document, sampled; None leaves upstream's.
        temperature: of the sampling, with ``repeats``.

    Raises:
        HarnessError: no such task, a group, or one that does not generate text; a file there that
            says something else.
    """
    require_lm_eval()
    from lm_eval.tasks._yaml_loader import load_yaml

    from validator.plugins.harness.upstream import tasks_root

    path = _yaml_of(task, include_path)
    config = load_yaml(path, resolve_func=False)
    name = config.get("task")
    if "class" in config:
        raise HarnessError(f"task {name!r} is a Python class of its own, from which no spectral "
                           "task can be derived")
    if not isinstance(name, str):
        raise HarnessError(f"{task!r} is a group or tag; make spectral tasks of its members, e.g. "
                           f"{', '.join(_members(config)[:3])}")
    kind = config.get("output_type", "generate_until")
    if kind != "generate_until":
        raise HarnessError(f"task {name!r} asks for {kind!r}; only tasks that generate text "
                           "(generate_until) have responses whose reasoning can be scored")
    metrics = [m.get("metric") for m in config.get("metric_list") or []]
    label = label_metric or "exact_match"
    if config.get("process_results") is None and label not in metrics:
        raise HarnessError(
            f"task {name!r} has no metric {label!r} that says whether a response is right, but "
            f"{', '.join(map(str, metrics))}; name one that is 0 or 1 with --label-metric")
    root = tasks_root().resolve()
    inside = path.is_relative_to(root)
    lines: dict[str, Any] = {"upstream": path.relative_to(root).as_posix() if inside else str(path)}
    lines |= {k: v for k, v in (("answer_style", answer_style), ("label_metric", label_metric))
              if v is not None}
    if repeats is not None:
        lines |= {"repeats": repeats,
                  "generation_kwargs": {"do_sample": True, "temperature": temperature}}
    stem = f"{name}_spectral" + ("" if repeats is None else f"_n{repeats}")
    text = (f"task: {stem}\nclass: !function validator.plugins.harness.task.SpectralTask\n"
            + yaml.safe_dump(lines, sort_keys=False))
    file = output / f"{stem}.yaml"
    output.mkdir(parents=True, exist_ok=True)
    if file.exists() and file.read_text(encoding="utf-8") != text:
        raise HarnessError(f"{file} exists and says something else; remove it or give another "
                           "folder")
    file.write_text(text, encoding="utf-8")
    return file


def _yaml_of(task: str, include_path: str | None) -> Path:
    if Path(task).suffix == ".yaml" and Path(task).is_file():
        return Path(task).resolve()
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=include_path)
    entry = manager.task_index.get(task)
    if entry is None:
        import difflib

        near = difflib.get_close_matches(task, manager.all_subtasks, n=3)
        raise HarnessError(f"lm-eval knows no task {task!r}"
                           + (f"; did you mean {', '.join(near)}?" if near else ""))
    if entry.yaml_path is None:
        raise HarnessError(f"{task!r} is a tag; make spectral tasks of its members, e.g. "
                           f"{', '.join(sorted(entry.tags)[:3])}")
    return Path(entry.yaml_path).resolve()


def _members(config: dict[str, Any]) -> list[str]:
    members = config.get("task") or []
    return [m if isinstance(m, str) else str(m.get("task", m.get("group"))) for m in members]
