"""What every command shares: parser defaults, tables, JSON, progress bars."""

from __future__ import annotations

import argparse
import json
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from validator.types import Progress as ProgressCallback
from validator.whole_file import write_text_whole

if TYPE_CHECKING:
    from validator.metrics import Interval

__all__ = [
    "add_command",
    "command_line",
    "console",
    "error_console",
    "interval_text",
    "print_json",
    "progress",
    "table",
    "write_json",
]


def command_line() -> str:
    """The command being run, as one would type it."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def console() -> Console:
    """Standard output; wide enough for the tables where it is not a terminal."""
    found = Console()
    if not found.is_terminal:
        found.width = max(found.width, 120)
    return found


def error_console() -> Console:
    """Standard error: messages and progress, never results."""
    return Console(stderr=True)


def add_command(
    subparsers: Any,
    name: str,
    help: str,
    example: str,
    run: Callable[[argparse.Namespace], int],
) -> argparse.ArgumentParser:
    """A subcommand with a description, an example, ``--json`` and a function to run."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        name,
        help=help,
        description=help,
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.set_defaults(run=run)
    return parser


def print_json(value: Any) -> None:
    """One JSON document on standard output; NaN and infinity are refused, never written."""
    json.dump(value, sys.stdout, indent=2, allow_nan=False)
    sys.stdout.write("\n")


def write_json(path: Path, value: Any) -> None:
    """The same as a file, whole or not at all; its folder is made."""
    write_text_whole(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def interval_text(value: Interval | None) -> str:
    """An estimate and its interval, e.g. ``0.854 [.80, .90]``; ``n/a`` where there is none."""
    if value is None:
        return "n/a"
    low, high = (re.sub(r"^(-?)0\.", r"\1.", f"{end:.2f}") for end in (value.low, value.high))
    return f"{value.estimate:.3f} [{low}, {high}]"


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]],
          styles: Mapping[int, str] | None = None) -> Table:
    """A rich table; the first column is left-aligned, the others right-aligned."""
    result = Table(title=title, title_justify="left", title_style="bold")
    for i, column in enumerate(columns):
        result.add_column(column, justify="left" if i == 0 else "right")
    for i, row in enumerate(rows):
        result.add_row(*row, style=(styles or {}).get(i))
    return result


@contextmanager
def progress(description: str, unit: str = "") -> Iterator[ProgressCallback]:
    """A progress bar on standard error, as a callback (done, total)."""
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(unit),
        TimeElapsedColumn(), TextColumn("eta"), TimeRemainingColumn(),
        console=error_console(),
    )
    with bar:
        task = bar.add_task(description, total=None)

        def advance(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield advance
