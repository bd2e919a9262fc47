"""``validator lm-eval``: install the spectral tasks, make one of any task, or run lm-eval."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from validator.cli.console import add_command, console, print_json

__all__ = ["register"]

OWN = ("install-tasks", "uninstall-tasks", "tasks-path", "spectralize")

EXAMPLE = """validator lm-eval install-tasks
  lm_eval --model hf --model_args pretrained=MODEL --tasks gsm8k_spectral --limit 16

  validator lm-eval --model hf-spectral --model_args pretrained=MODEL --tasks gsm8k_spectral
  validator lm-eval spectralize gsm_plus -o my-tasks
  validator lm-eval ls tasks

What is not one of install-tasks, uninstall-tasks, tasks-path and spectralize is handed to lm-eval,
with these tasks on its include path and the model hf-spectral registered."""


def register(subparsers: Any) -> None:
    """Add the command."""
    parser = add_command(
        subparsers, "lm-eval",
        "Spectral tasks of lm-evaluation-harness: put them where the stock `lm_eval` command finds "
        "them, make one of any task, or run lm-eval with them.", EXAMPLE, run)
    parser.usage = "validator lm-eval [-h] {" + ",".join(OWN) + "} ... | ARGUMENTS OF LM-EVAL"
    parser.add_argument("arguments", nargs=argparse.REMAINDER,
                        help="one of the four, or lm-eval's own arguments")


def run(args: argparse.Namespace) -> int:
    """Do what the first argument says."""
    given = [a for i, a in enumerate(args.arguments) if i or a != "--"]
    if not given or given[0] not in OWN:
        from validator.plugins.harness.command import run_lm_eval

        return run_lm_eval((["--json"] if args.json else []) + given or ["--help"])
    own = _parser(given[0]).parse_args(given[1:])
    own.json = own.json or args.json
    return {"install-tasks": _install, "uninstall-tasks": _uninstall, "tasks-path": _path,
            "spectralize": _spectralize}[given[0]](own)


def _parser(name: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"validator lm-eval {name}", description=_WHAT[name][0],
        epilog=f"example:\n  {_WHAT[name][1]}",
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    if name in ("install-tasks", "uninstall-tasks"):
        parser.add_argument("--root", type=Path, metavar="DIR",
                            help="folder of lm-eval's tasks (default: of the installed lm-eval)")
    if name == "spectralize":
        parser.add_argument("task", help="a task of lm-eval, or its YAML file")
        parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR",
                            help="folder to write the task file to")
        parser.add_argument("--include_path", metavar="DIR", help="folder of further tasks")
        parser.add_argument("--answer-style", choices=("integer", "last-number", "math"),
                            help="how the voted answer is read from a filtered response (default: "
                                 "the filtered response is the answer)")
        parser.add_argument("--label-metric", metavar="METRIC",
                            help="metric that says whether a response is right (default: "
                                 "exact_match)")
        parser.add_argument("--repeats", type=int, metavar="N",
                            help="sample N responses of each document")
        parser.add_argument("--temperature", type=float, default=0.6,
                            help="of the sampling, with --repeats (default: 0.6)")
    return parser


_WHAT = {
    "install-tasks": (
        "Put the spectral tasks where the stock lm_eval command finds them; again after an update.",
        "validator lm-eval install-tasks"),
    "uninstall-tasks": (
        "Remove what install-tasks wrote.",
        "validator lm-eval uninstall-tasks"),
    "tasks-path": (
        "Print the folder of the spectral tasks, for --include_path.",
        "lm_eval --include_path $(validator lm-eval tasks-path) --tasks gsm8k_spectral ..."),
    "spectralize": (
        "Make a spectral task of any task that generates text (generate_until).",
        """validator lm-eval spectralize gsm_plus -o my-tasks
  lm_eval --include_path my-tasks --tasks gsm_plus_spectral ..."""),
}


def _install(args: argparse.Namespace) -> int:
    from validator.plugins.harness.stubs import install

    done = install(args.root)
    if args.json:
        print_json({"folder": str(done.folder), "tasks": done.tasks, "changed": done.changed,
                    "replaced": done.replaced})
        return 0
    what = "were there already" if not done.changed else "are installed" if (
        done.replaced is None) else f"replace those of version {done.replaced}"
    console().print(f"{done.tasks} task files {what}: {done.folder}\n"
                    "lm_eval --tasks gsm8k_spectral finds them now; `lm_eval ls tasks` lists all",
                    markup=False, soft_wrap=True, highlight=False)
    return 0


def _uninstall(args: argparse.Namespace) -> int:
    from validator.plugins.harness.stubs import uninstall

    done = uninstall(args.root)
    if args.json:
        print_json({"folder": str(done.folder), "changed": done.changed})
    else:
        console().print("nothing was installed" if not done.changed else
                        f"removed {done.changed} files and {done.folder}", markup=False,
                        soft_wrap=True, highlight=False)
    return 0


def _path(args: argparse.Namespace) -> int:
    from validator.plugins.harness.command import TASKS

    if args.json:
        print_json({"tasks_path": str(TASKS)})
    else:
        sys.stdout.write(f"{TASKS}\n")
    return 0


def _spectralize(args: argparse.Namespace) -> int:
    from validator.plugins.harness.spectralize import spectralize

    file = spectralize(
        args.task, args.output, include_path=args.include_path, answer_style=args.answer_style,
        label_metric=args.label_metric, repeats=args.repeats, temperature=args.temperature)
    if args.json:
        print_json({"task": file.stem, "file": str(file)})
    else:
        console().print(f"{file}\nlm_eval --include_path {args.output} --tasks {file.stem} ...",
                        markup=False, soft_wrap=True, highlight=False)
    return 0

