"""One search: pruned, shared by processes, resumed after any of them dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState
from tuning_helpers import SMALL, choices, states, synthetic

from validator.classifier import ValidityClassifier
from validator.errors import FeatureMismatchError, ParameterError
from validator.training import trials
from validator.training.trial_storage import is_alive, opened, this_process
from validator.training.trials import Search
from validator.training.tune import tune


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here cuts the power, and a journal waits for the disk at every line."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


class Line:
    """A search space of one number."""

    defaults: Mapping[str, Any] = {"x": 0.5}

    def suggest(self, trial: Any) -> dict[str, Any]:
        return {"x": trial.suggest_float("x", 0.0, 1.0)}


def searched(storage: Any, n_trials: int = 8, name: str = "s") -> Search:
    return Search(storage, name, Line(), n_trials, (0,), "here")  # type: ignore[arg-type]


def constant(params: Mapping[str, Any]) -> Iterator[float]:
    yield params["x"]


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[Any]:
    with opened(tmp_path / "journal") as found:
        yield found


def test_the_first_trial_is_the_default_and_the_best_is_the_largest(storage: Any) -> None:
    search = searched(storage, 20)
    search.run(constant)
    values = [t.params["x"] for t in search.study.trials]
    assert values[0] == 0.5
    assert search.best().params["x"] == search.best().value == max(values)
    assert np.mean(values[10:]) > np.mean(values[1:10])  # it learned where to look


def test_a_hopeless_trial_is_not_finished(storage: Any) -> None:
    """Fold by fold, as the median rule says, computed here from the trials' own records."""
    folds: list[int] = []

    def scores(params: Mapping[str, Any]) -> Iterator[float]:
        folds.append(0)
        for _ in range(3):
            folds[-1] += 1
            yield params["x"]

    search = searched(storage, 12)
    search.run(scores)
    found = search.study.trials
    for i, (trial, computed) in enumerate(zip(found, folds, strict=True)):
        complete = [t.params["x"] for t in found[:i] if t.state is TrialState.COMPLETE]
        hopeless = len(complete) >= 5 and trial.params["x"] < np.median(complete)
        assert computed == (1 if hopeless else 3)
        assert (trial.state is TrialState.PRUNED) == hopeless
    assert search.best().pruned == folds.count(1) > 0


def test_settings_that_cannot_be_fitted_say_why(storage: Any) -> None:
    def scores(params: Mapping[str, Any]) -> Iterator[float]:
        raise ParameterError("too many components")
        yield

    search = searched(storage, 3)
    search.run(scores)
    assert [t.state for t in search.study.trials] == [TrialState.PRUNED] * 3
    with pytest.raises(ParameterError, match="none of 3 settings could be fitted: too many"):
        search.best()


def test_an_error_in_a_trial_is_raised_and_leaves_it_failed(storage: Any) -> None:
    def scores(params: Mapping[str, Any]) -> Iterator[float]:
        raise FeatureMismatchError("broken")
        yield

    search = searched(storage)
    with pytest.raises(FeatureMismatchError, match="broken"):
        search.run(scores)
    assert [t.state for t in search.study.trials] == [TrialState.FAIL]


def test_fits_that_do_not_converge_are_counted(storage: Any) -> None:
    def scores(params: Mapping[str, Any]) -> Iterator[float]:
        rng = np.random.default_rng(0)
        X, y = rng.normal(size=(40, 3)), rng.integers(0, 2, 40)
        ValidityClassifier("mlp", max_iter=1, random_state=0).fit(X, y)
        yield 0.5

    search = searched(storage, 2)
    search.run(scores)
    assert search.best().unconverged == 2


def abandoned(search: Search, owner: Mapping[str, Any] | None) -> int:
    """A trial left running."""
    trial = search.study.ask()
    if owner is not None:
        trial.set_user_attr("owner", owner)
    return trial.number


def test_a_trial_of_a_dead_process_is_failed_and_replaced(storage: Any) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    owner = {**this_process(), "pid": dead.pid, "started": "1"}
    dead.wait()
    reborn = {**this_process(), "started": "1"}  # our number, but another process had it
    search = searched(storage, 3)
    numbers = [abandoned(search, owner), abandoned(search, reborn)]
    search.run(constant)
    found = search.study.trials
    assert [found[n].state for n in numbers] == [TrialState.FAIL] * 2
    assert [t.state for t in found].count(TrialState.COMPLETE) == 3


@pytest.mark.skipif(sys.platform != "linux", reason="start times are read from /proc")
def test_a_trial_of_a_living_process_is_neither_failed_nor_run_twice(storage: Any) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as living:
        started = Path(f"/proc/{living.pid}/stat").read_text().rpartition(")")[2].split()[19]
        owner = {**this_process(), "pid": living.pid, "started": started}
        assert is_alive(owner) is True
        search = searched(storage, 3)
        number = abandoned(search, owner)
        search.run(constant)
        found = search.study.trials
        assert found[number].state is TrialState.RUNNING
        assert [t.state for t in found].count(TrialState.COMPLETE) == 2
        living.kill()
        living.wait()
        assert is_alive(owner) is False
        search.run(constant, wait=True)
    assert [t.state for t in search.study.trials].count(TrialState.COMPLETE) == 3


def test_a_trial_of_another_machine_lives_as_long_as_it_beats(
    storage: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1000.0]
    monkeypatch.setattr(trials.time, "monotonic", lambda: clock[0])
    search = searched(storage, 1)
    for owner in ({**this_process(), "host": "elsewhere"}, None):
        number = abandoned(search, owner)
        for beat in range(4):  # longer than the lease in all
            clock[0] += 0.9 * trials.LEASE
            search.study._storage.set_trial_user_attr(
                search.study.trials[number]._trial_id, "beat", beat)
            search.run(constant)
            assert search.study.trials[number].state is TrialState.RUNNING
        clock[0] += 0.9 * trials.LEASE
        search._fail_dead()
        assert search.study.trials[number].state is TrialState.RUNNING
        clock[0] += 0.2 * trials.LEASE
        search._fail_dead()
        assert search.study.trials[number].state is TrialState.FAIL


def test_a_running_trial_beats(storage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "BEAT", 0.01)
    search = searched(storage, 1)

    def scores(params: Mapping[str, Any]) -> Iterator[float]:
        until = time.monotonic() + 10
        while "beat" not in search.study.trials[0].user_attrs and time.monotonic() < until:
            time.sleep(0.01)
        yield 0.5

    search.run(scores)
    assert search.study.trials[0].user_attrs["beat"] >= 1
    assert search.study.trials[0].user_attrs["owner"] == this_process()


def test_a_trial_taken_for_dead_while_it_ran_counts_once(storage: Any) -> None:
    search = searched(storage, 2)

    def scores(params: Mapping[str, Any]) -> Iterator[float]:
        if len(search.study.trials) == 1:
            search.study.tell(0, state=TrialState.FAIL)
        yield 0.5

    search.run(scores)
    assert [t.state.name for t in search.study.trials] == ["FAIL", "COMPLETE", "COMPLETE"]


def test_of_two_that_ask_for_the_last_trial_one_gives_way(storage: Any) -> None:
    search = searched(storage, 1)
    abandoned(search, this_process())
    search._one(constant)  # as if both had looked before either asked
    assert [t.state.name for t in search.study.trials] == ["RUNNING", "FAIL"]
    assert search.study.trials[1].user_attrs["why"] == "not needed"


# ---- processes

WORKER = """
import json, sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
from tuning_helpers import SMALL, synthetic
from validator.training.trial_storage import opened
from validator.training.tuning_data import TuningData
from validator.training.tune import tune
folder, output, mode, n_trials = Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
(folder / (output + ".ready")).touch()
margins, calls = TuningData.margins, [0]

def slowly(self, *args):
    calls[0] += 1
    if mode == "hang" and calls[0] == 12:
        (folder / "hanging").touch()
        time.sleep(600)
    time.sleep(0.02)
    return margins(self, *args)

TuningData.margins = slowly
while mode == "share" and len(list(folder.glob("*.ready"))) < 2:
    time.sleep(0.01)
result = tune(synthetic(), folder / output, storage=folder / "journal",
              **{{**SMALL, "n_trials": n_trials}})
print(json.dumps(result.to_json()))
"""


def worker(folder: Path, output: str, mode: str, n_trials: int) -> subprocess.Popen[str]:
    script = WORKER.format(tests=str(Path(__file__).parent))
    return subprocess.Popen(
        [sys.executable, "-c", script, str(folder), output, mode, str(n_trials)], text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 300
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.mark.slow
def test_a_killed_process_is_resumed_as_if_it_had_lived(tmp_path: Path) -> None:
    process = worker(tmp_path, "a", "hang", 13)
    try:
        wait_for(tmp_path / "hanging", process)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    left = [s for found in states(tmp_path / "journal").values() for s in found]
    assert left.count("RUNNING") == 1
    assert len(left) > 3
    arguments = {**SMALL, "n_trials": 13}
    resumed = tune(synthetic(), tmp_path / "a", storage=tmp_path / "journal", **arguments)
    for found in states(tmp_path / "journal").values():
        assert found.count("COMPLETE") + found.count("PRUNED") == 13
        assert "RUNNING" not in found
    assert sum(f.failed for f in (*resumed.folds, resumed.final)) == 1
    assert choices(resumed) == choices(tune(synthetic(), tmp_path / "whole", **arguments))


@pytest.mark.slow
def test_two_processes_share_the_trials_of_one_journal(tmp_path: Path) -> None:
    processes = [worker(tmp_path, name, "share", 12) for name in ("a", "b")]
    results = []
    for process in processes:
        out, err = process.communicate(timeout=600)
        assert process.returncode == 0, err
        results.append(json.loads(out))
    assert results[0]["auroc"] == results[1]["auroc"]
    assert results[0]["folds"] == results[1]["folds"]
    both = set()
    with opened(tmp_path / "journal") as store:
        for name in ("tuning-0", "tuning-1", "tuning-all"):
            found = optuna.load_study(study_name=name, storage=store).trials
            counted = [t for t in found if t.state in (TrialState.COMPLETE, TrialState.PRUNED)]
            assert len(counted) == 12
            assert all(t.user_attrs["why"] == "not needed" for t in found if t not in counted)
            both |= {t.user_attrs["owner"]["pid"] for t in counted}
            values = [json.dumps(t.params, sort_keys=True) for t in counted]
            assert len(set(values)) > 8  # they do not suggest the same
    assert both == {p.pid for p in processes}
