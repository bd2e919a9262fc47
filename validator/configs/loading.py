"""Reads the YAML files that ship inside the package."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import yaml

__all__ = ["names", "read_yaml"]


def read_yaml(path: str) -> Any:
    """The content of ``validator/configs/<path>``; FileNotFoundError if there is none."""
    return yaml.safe_load(files("validator.configs").joinpath(path).read_text(encoding="utf-8"))


def names(folder: str) -> tuple[str, ...]:
    """Names, without ``.yaml``, of the files in ``validator/configs/<folder>``, sorted."""
    entries = files("validator.configs").joinpath(folder).iterdir()
    return tuple(sorted(e.name[:-5] for e in entries if e.name.endswith(".yaml")))
