"""Five commands, killed at random moments and run again; what is lost, doubled or torn is counted.

    python -m benchmarks.kill_drill --kills 40 --operations 20

One process imports everything and runs nothing; it forks a child for each run, which is then killed
by SIGKILL: after a random time up to a little more than a whole run takes, or right before a random
one of the run's operations on files (opened to write, renamed, removed, made). After each kill the
command is run again, until it ends; then its outputs are compared with those of a run that nobody
disturbed. Linux.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import random
import re
import select
import signal
import sys
import time
import traceback
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks.kill_subjects import SUBJECTS, Subject, make_inputs
from validator.cli.main import main as command

__all__ = ["main"]

WRITING = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate"}
"""Audit events of an operation on files, beside opening one to write."""


def main() -> None:
    """Run the drill and write what was found."""
    args = _arguments()
    torch.set_num_threads(1)
    found: dict[str, dict[str, Any]] = {}
    with TemporaryDirectory() as name:
        inputs = make_inputs(Path(name) / "inputs")
        for subject in SUBJECTS:
            if subject.name in args.commands:
                drill = Drill(subject(inputs), Path(name), args.seed)
                found[subject.name] = asdict(drill.run(args.kills, args.operations))
                _write(found, args)
    sys.stdout.write(args.output.read_text())


def _write(found: dict[str, dict[str, Any]], args: argparse.Namespace) -> None:
    total = {key: sum(f[key] for f in found.values()) for key in next(iter(found.values()))
             if key != "seconds"}
    args.output.write_text(
        json.dumps({"seed": args.seed, "total": total, "commands": found}, indent=2) + "\n")


@dataclass
class Found:
    """What the kills of one command did."""

    seconds: float = 0.0
    """Of a run that is left alone."""
    runs: int = 0
    killed_at_times: int = 0
    killed_at_operations: int = 0
    ended: int = 0
    """Runs that came to their end and were compared."""
    lost: int = 0
    """Shards, samples, trials or outputs that were complete and are no more."""
    duplicates: int = 0
    unreadable: int = 0
    """Outputs found half-written, after any run."""
    different: int = 0
    """Ended runs whose outputs are not those of an undisturbed one."""
    leftovers: int = 0
    """Files beside the outputs of an ended run that an undisturbed one does not leave."""


class Drill:
    """Kills one command in folders of its own.

    Args:
        subject: the command.
        root: where its folders are made.
        seed: of the moments.
    """

    def __init__(self, subject: Subject, root: Path, seed: int) -> None:
        self.subject, self.root = subject, root
        self.chance, self.found, self.folders = random.Random(seed), Found(), 0
        self.folder = root

    def run(self, kills: int, operations: int) -> Found:
        """So many kills at random times and so many at random operations, then to the end."""
        right, shapes, steps = self._undisturbed()
        self._anew()
        ended = False
        while min(self.found.killed_at_times - kills, self.found.killed_at_operations - operations
                  ) < 0:
            late = self.found.killed_at_times < kills
            moment = (self.chance.random() * 1.2 * self.found.seconds if late
                      else self.chance.randint(1, steps))
            before = self._inspected(set())[0]
            ended = self._start(moment)
            self.found.killed_at_times += late and not ended
            self.found.killed_at_operations += not late and not ended
            after, outputs = self._inspected(before)
            self.found.lost += len(before - after)
            if ended:
                self._compare(outputs, right, shapes)
        if not ended:
            self._start(None)
            self._compare(self._inspected(set())[1], right, shapes)
        return self.found

    def _undisturbed(self) -> tuple[dict[str, Any], set[str], int]:
        """Outputs, shapes of file names and number of operations of whole runs, which are timed."""
        self._anew()
        self._start(None)  # learns what to import, once for all
        for name in json.loads((self.root / "modules").read_text()):
            with suppress(Exception):
                importlib.import_module(name)
        self._anew()
        began = time.perf_counter()
        self._start(None)
        self.found.seconds = round(time.perf_counter() - began, 2)
        steps = int((self.root / "operations").read_text())
        return self._inspected(set())[1], _shapes(self.folder), steps

    def _anew(self) -> None:
        self.folders += 1
        self.folder = self.root / f"{self.subject.name}-{self.folders}"
        self.folder.mkdir()

    def _inspected(self, known: set[str]) -> tuple[set[str], dict[str, Any]]:
        """What is done and the outputs; what was known before where something is torn."""
        try:
            outputs = self.subject.outputs(self.folder)
            return self.subject.done(self.folder), outputs
        except Exception:
            traceback.print_exc()
            self.found.unreadable += 1
            return known, {}

    def _compare(self, outputs: dict[str, Any], right: dict[str, Any], shapes: set[str]) -> None:
        left = _shapes(self.folder) - shapes
        if left or outputs != right:
            sys.stderr.write(f"{self.subject.name}: beside the outputs: {sorted(left)}\n")
        self.found.ended += 1
        self.found.different += outputs != right
        self.found.leftovers += len(left)
        self.found.duplicates += self.subject.duplicates(self.folder)
        if self.subject.begins_anew:
            self._anew()

    def _start(self, moment: float | None) -> bool:
        """Run the command; killed after seconds, or before an operation (an int). If it ended."""
        self.found.runs += 1
        call = self.subject.call(self.folder)
        child = os.fork()
        if child == 0:
            _work(call, self.root, moment if isinstance(moment, int) else 0)
        with open(os.pidfd_open(child)) as ends:  # noqa: PTH123
            if isinstance(moment, float) and not select.select([ends], [], [], moment)[0]:
                os.kill(child, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code not in (0, -signal.SIGKILL):
            raise RuntimeError(f"{call} ended with {code}:\n{(self.root / 'log').read_text()}")
        return code == 0


def _work(call: list[str], root: Path, fatal: int) -> None:
    """The child: run a command, note its modules and operations, and end."""
    log = os.open(root / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    seen, code = [0], 70

    def count(event: str, arguments: tuple[Any, ...]) -> None:
        writes = event in WRITING or (event == "open" and bool(
            (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)))
        if writes and str(arguments[0]).startswith(str(root)):
            seen[0] += 1
            if seen[0] == fatal:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    try:
        code = command(call)
        operations = seen[0]
        (root / "operations").write_text(str(operations))
        (root / "modules").write_text(json.dumps(list(sys.modules)))
    except BaseException:
        traceback.print_exc()
    os._exit(code)


def _shapes(folder: Path) -> set[str]:
    """Names of the files of a folder, without the digits of their hashes."""
    return {re.sub(r"[0-9a-f]{6,}", "#", str(p.relative_to(folder))) for p in folder.rglob("*")}


def _arguments() -> argparse.Namespace:
    names = [subject.name for subject in SUBJECTS]
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--kills", type=int, default=40, help="of each command, at random times")
    parser.add_argument("--operations", type=int, default=20,
                        help="kills of each command before random operations on files")
    parser.add_argument("--commands", nargs="+", default=names, choices=names)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/kill_drill.json"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
