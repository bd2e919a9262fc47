"""One study in a PostgreSQL database, shared by two processes; one is killed in a trial."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState
from postgres_helpers import PASSWORD, cluster
from tuning_helpers import synthetic

from validator.cli.main import main
from validator.features.table import write_features
from validator.training.trial_storage import opened

pytestmark = pytest.mark.slow

TRIALS = 4
HANGS_AT = 6
"""Which of its fits the process does not finish: the second of its third trial."""

PROCESSES = """
import json, os, sys, time
from pathlib import Path
from validator.cli.main import main
from validator.training import trial_storage, trials
from validator.training.tuning_data import TuningData
folder, place = Path(sys.argv[1]), sys.argv[2]
trials.BEAT, trials.LEASE = 0.2, 3.0
margins, calls = TuningData.margins, [0]

def slowly(self, *args):
    calls[0] += 1
    if calls[0] == {hangs_at} and name == "a":
        (folder / "hanging").write_text(str(os.getpid()))
        time.sleep(600)
    time.sleep(0.1)
    return margins(self, *args)

TuningData.margins = slowly
children = {{}}
for name in "ab":
    children[name] = os.fork()
    if not children[name]:
        if place == "another machine":
            trial_storage._space = lambda: name
        command = [a if a != "OUTPUT" else str(folder / name) for a in sys.argv[3:]]
        code = main(command)
        sys.stdout.flush()
        os._exit(code)
ended = [(pid, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])) for pid in children.values()]
(folder / "ended").write_text(json.dumps(ended))
"""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with cluster() as url:
        yield url


def command(folder: Path, output: str, url: str, study: str) -> list[str]:
    return ["tune", str(folder / "f.parquet"), "-o", output, "--trials", str(TRIALS), "--outer",
            "2", "--inner", "2", "--kinds", "logistic", "--storage", url, "--study", study,
            "--json"]


def trials_of(url: str, study: str) -> list[list[FrozenTrial]]:
    """Of the two outer folds and of all traces, as the database has them."""
    with opened(url) as store:
        found = {s.study_name for s in optuna.get_all_study_summaries(store)}
        return [optuna.load_study(study_name=name, storage=store).trials
                for name in (f"{study}-0", f"{study}-1", f"{study}-all") if name in found]


@pytest.mark.parametrize("place", ["this machine", "another machine"])
def test_no_trial_is_lost_and_the_killed_process_s_is_replaced(
    server: str, place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Found dead by its process, and by its silence where its process cannot be seen."""
    write_features(tmp_path / "f.parquet", synthetic())
    study = place.replace(" ", "-")
    script = PROCESSES.format(hangs_at=HANGS_AT)
    with subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path), place,
             *command(tmp_path, "OUTPUT", server, study)],
            text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as both:
        killed = wait_for(tmp_path / "hanging", both)
        before = trials_of(server, study)
        os.kill(killed, signal.SIGKILL)
        out, err = both.communicate(timeout=300)
    (a, died), (b, code) = json.loads((tmp_path / "ended").read_text())
    assert (a, died, code) == (killed, -signal.SIGKILL, 0), err
    check(before, trials_of(server, study), killed, b)
    result = json.loads(out)
    assert sum(f["failed"] for f in (*result["folds"], result["final"])) >= 1
    # the killed command again: every trial is there already, and so is the answer
    assert main(command(tmp_path, str(tmp_path / "a"), server, study)) == 0
    again = json.loads(capsys.readouterr().out)
    assert (again["auroc"], again["folds"]) == (result["auroc"], result["folds"])
    manifest = (tmp_path / "a" / "manifest.json").read_text()
    assert PASSWORD in server
    assert PASSWORD not in manifest + err


def check(before: list[list[FrozenTrial]], after: list[list[FrozenTrial]], killed: int, other: int
          ) -> None:
    counted = (TrialState.COMPLETE, TrialState.PRUNED)
    lost = [t for found in before for t in found if t.state in counted
            and pid(t) == killed]
    assert len(lost) >= 2  # some of its trials were finished
    for old, new in zip(before, after, strict=False):
        assert [(t.number, t.params, t.value) for t in old if t.state in counted] == [
            (t.number, t.params, t.value) for t in new[: len(old)]
            if t.number in {o.number for o in old if o.state in counted}]
    for found in after:
        assert sum(t.state in counted for t in found) == TRIALS
        assert not any(t.state is TrialState.RUNNING for t in found)
    [mark] = [t for found in after for t in found
              if t.state is TrialState.FAIL and "why" not in t.user_attrs]
    assert pid(mark) == killed
    assert {pid(t) for found in after for t in found if t.state in counted} == {killed, other}


def pid(trial: FrozenTrial) -> Any:
    return trial.user_attrs["owner"]["pid"]


def wait_for(path: Path, process: subprocess.Popen[str]) -> int:
    """The number written there."""
    until = time.monotonic() + 120
    while not path.exists() or not path.read_text():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.02)
    return int(path.read_text())
