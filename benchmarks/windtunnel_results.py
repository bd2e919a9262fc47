"""The files of results of the wind tunnel benchmarks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from validator.windtunnels.runs import library_versions

__all__ = ["add_result"]


def add_result(path: Path, name: str, result: dict[str, Any]) -> None:
    """Put one subject's result into the file, the others untouched."""
    whole = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"subjects": {}}
    whole["versions"] = library_versions()
    whole["subjects"][name] = result
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
