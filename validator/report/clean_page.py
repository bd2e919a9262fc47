"""The page of a cleaned training file: what was flagged, why, and what nothing can be said of."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from validator import __version__
from validator.whole_file import write_text_whole

__all__ = ["write_clean_page"]

SHOWN = 500
"""Flags of the page; more would not be read."""


def write_clean_page(path: Path, result: Mapping[str, Any], *, title: str) -> None:
    """Write one self-contained HTML page.

    Args:
        path: file to write; its folder is made.
        result: :meth:`validator.plugins.clean.report.CleanReport.to_json`, and the ``command``.
        title: heading.
    """
    environment = Environment(
        loader=PackageLoader("validator.report", "."), autoescape=True, undefined=StrictUndefined)
    told = {**result, "flags": result["flags"][:SHOWN]}
    page = environment.get_template("clean.html.j2").render(
        title=title, version=__version__, **told)
    write_text_whole(path, page)
