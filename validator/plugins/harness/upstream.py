"""A spectral task's configuration, derived from the upstream task that is installed.

Nothing of an upstream task is copied: its YAML file is read where lm-eval keeps it, so prompts,
filters and ``exact_match`` are those of the lm-eval that runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from validator.errors import HarnessError
from validator.plugins.harness.data import local_files

__all__ = ["OPTIONS", "derive", "split_options", "tasks_root"]

OPTIONS = ("upstream", "answer_style", "label_metric")
"""Keys of a spectral task's YAML that are ours; every other one is lm-eval's and overrides the
upstream task's. ``upstream``: its YAML file, relative to lm-eval's tasks or absolute.
``answer_style``: how the voted answer is read from a filtered response (a style of
:mod:`validator.training.answers`); left out, the filtered response is the answer.
``label_metric``: the metric that says whether a response is right (default: exact_match)."""

_OURS = ("class", "tag", "group", "task_list", "task")


def tasks_root() -> Path:
    """The folder in which lm-eval keeps its tasks."""
    import lm_eval.tasks

    return Path(lm_eval.tasks.__path__[0])


def split_options(config: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A spectral task's YAML -> our options, and what lm-eval's TaskConfig is made of."""
    own = {k: config[k] for k in OPTIONS if k in config}
    rest = {k: v for k, v in config.items() if k not in OPTIONS and k not in ("class", "include")}
    return own, rest


def derive(options: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Upstream's configuration with ``overrides``; ``metadata`` and ``generation_kwargs`` merged.

    ``metadata`` may say ``repeats``, and where the benchmark is read from: see
    :func:`validator.plugins.harness.data.local_files`.

    Raises HarnessError if lm-eval has no such task, or it generates nothing.
    """
    base = _upstream(options["upstream"]) if "upstream" in options else {}
    config = {**base, **overrides}
    for key in ("metadata", "generation_kwargs"):
        parts = [dict(m) for m in (base.get(key), overrides.get(key)) if m]
        config[key] = {k: v for part in parts for k, v in part.items()}
    if not config["generation_kwargs"]:
        del config["generation_kwargs"]
    if config.get("output_type", "generate_until") != "generate_until":
        raise HarnessError(
            f"task {config.get('task')!r}: {options.get('upstream')} asks for "
            f"{config['output_type']!r}; only tasks that generate text (generate_until) have "
            "responses whose reasoning can be scored")
    repeats = config["metadata"].get("repeats")
    if repeats is not None:
        config["repeats"] = int(repeats)
    name = Path(str(options.get("upstream", ""))).stem
    return local_files(config, (str(config.get("task", "")), str(base.get("task", name))))


def _upstream(place: str) -> dict[str, Any]:
    from lm_eval.tasks._yaml_loader import load_yaml

    path = Path(place) if Path(place).is_absolute() else tasks_root() / place
    if not path.is_file():
        raise HarnessError(
            f"lm-eval {version('lm-eval')} has no task file {place}; the spectral task derived "
            "from it needs lm-eval >=0.4.13,<0.5 with that benchmark")
    found: dict[str, Any] = load_yaml(path, resolve_func=True)
    name = found.get("task")
    return {"task": name, **{k: v for k, v in found.items() if k not in _OURS}}
