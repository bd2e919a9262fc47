"""One self-contained HTML page per run: the numbers, their plots, and how to make them again."""

from __future__ import annotations

from validator.report.page import write_report

__all__ = ["write_report"]
