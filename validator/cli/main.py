"""Entry point of the ``validator`` command: builds the parser, turns our errors into exit codes."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from validator import __version__
from validator.cli.console import error_console
from validator.errors import ValidatorError, ValidatorWarning

__all__ = ["build_parser", "main"]

COMMANDS = (
    "demo", "models", "sample", "extract", "train", "tune", "evaluate", "audit", "steps", "abstain",
    "score", "explain", "heads", "clean", "anomaly", "watch", "rerank", "checkpoints", "store",
    "windtunnel", "lm-eval", "report")
"""Each is a module of this package with ``register(subparsers)``; the order of ``--help``."""


def build_parser() -> argparse.ArgumentParser:
    """The parser of every subcommand."""
    parser = argparse.ArgumentParser(
        prog="validator",
        description="Attention spectra of a language model, read as an audited validity score.",
        epilog="example: validator demo --help",
    )
    parser.add_argument("--version", action="version", version=f"spectral-validator {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in COMMANDS:
        importlib.import_module(f"validator.cli.{name.replace('-', '_')}").register(subparsers)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; 0 done, 1 bad input, 2 wrong usage, 130 interrupted."""
    args = build_parser().parse_args(_guarded(sys.argv[1:] if argv is None else argv))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", ValidatorWarning)
            warnings.showwarning = _print_warning
            return int(args.run(args))
    except ValidatorError as error:
        error_console().print(f"[bold red]error:[/] {_escape(str(error))}", soft_wrap=True)
        return 1
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    except OSError as error:
        if error.filename is None:
            raise
        error_console().print(f"[bold red]error:[/] {_escape(str(error))}", soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        error_console().print("interrupted; what was finished is kept")
        return 130


def _guarded(argv: Sequence[str]) -> list[str]:
    """Arguments in which ``--`` keeps argparse away from those that are lm-eval's."""
    found = list(argv)
    own = not found or found[0] != "lm-eval" or found[1:2] in (["-h"], ["--help"], ["--json"])
    return found if own else [found[0], "--", *found[1:]]


def _print_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int,
    file: Any = None, line: str | None = None,
) -> None:
    """Warnings of ours as sentences; those of others as Python shows them."""
    if issubclass(category, ValidatorWarning):
        error_console().print(f"[bold yellow]warning:[/] {_escape(str(message))}", soft_wrap=True)
    else:
        sys.stderr.write(warnings.formatwarning(message, category, filename, lineno, line))


def _escape(text: str) -> str:
    return text.replace("[", "\\[")


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    sys.exit(main())
