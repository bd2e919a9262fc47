"""Tuning: judged on problems no search saw, repeatable, shared by processes, outlives them."""

from __future__ import annotations

import dataclasses
import json
import os
import random
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
from numpy.typing import NDArray
from optuna.trial import TrialState
from sklearn.metrics import roc_auc_score

from validator.classifier import ValidityClassifier, load_artifact
from validator.columns import BASELINES, Column
from validator.errors import (
    ArtifactError,
    FeatureMismatchError,
    LabelError,
    ParameterError,
    StoreError,
    ValidatorError,
)
from validator.families import column_families, learned_names
from validator.metrics import Interval
from validator.splits import problem_folds
from validator.training import trials
from validator.training.search_space import SearchSpace
from validator.training.trial_storage import is_alive, opened, this_process, without_password
from validator.training.trials import Search
from validator.training.tune import tune
from validator.training.tuning_data import TuningData
from validator.training.tuning_result import TuningResult
from validator.types import FeatureMatrix, Provenance, Trace

NAMES = tuple(
    [str(Column(b)) for b in BASELINES]
    + [str(Column("fiedler_value", layer, None, span))
       for layer in range(3) for span in ("completion", "whole")]
    + [str(Column("attended_mean", layer, 0, "completion", "surprisal")) for layer in range(3)]
    + [str(Column("state_mean", 0, None, "completion", parameter=0.0, parameter_key="d"))]
)
SIGNAL = len(BASELINES)
SMALL: dict[str, Any] = {"n_outer": 2, "n_inner": 2, "n_trials": 4, "seed": 0,
                         "kinds": ("logistic",)}


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here cuts the power, and a journal waits for the disk at every line."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


def synthetic(effect: float = 1.0, seed: int = 0, problems: int = 24, n: int = 4) -> FeatureMatrix:
    """Traces whose first graph column carries the label, by ``effect`` deviations."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, problems * n)
    values = rng.normal(size=(problems * n, len(NAMES))).astype(np.float32)
    values[:, SIGNAL] += effect * labels
    traces = tuple(Trace(f"p{i // n}#{i % n}", f"p{i // n}", "Q:", " a", int(y))
                   for i, y in enumerate(labels))
    lengths = np.full((len(labels), 2), 9)
    return FeatureMatrix(values, NAMES, traces, lengths, Provenance("m", "r", "default", 1))


def choices(result: TuningResult) -> list[tuple[Mapping[str, Any], float]]:
    return [(f.params, f.inner_best) for f in (*result.folds, result.final)]


def states(storage: str | Path) -> dict[str, list[str]]:
    with opened(storage) as store:
        return {s.study_name: [t.state.name for t in optuna.load_study(
            study_name=s.study_name, storage=store).trials]
            for s in optuna.get_all_study_summaries(store)}


# ---- what is chosen among


def drawn(space: SearchSpace, seed: int) -> dict[str, Any]:
    """Parameters as chance has them."""
    rng = random.Random(seed)

    class Chance:
        def suggest_categorical(self, name: str, choices: Any) -> Any:
            return rng.choice(choices)

        def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
            return rng.randint(low, high)

        def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
            return rng.uniform(low, high)

    return space.suggest(Chance())


def test_settings_read_what_they_say_and_never_baselines_or_states() -> None:
    space = SearchSpace({"a": NAMES}, ("logistic", "xgboost", "mlp"), n_rows=40, seed=7)
    asked, empty = set(), 0
    for seed in range(300):
        params = drawn(space, seed)
        asked |= params.keys()
        try:
            setting = space.setting(params)
        except ParameterError as error:
            assert "no column" in str(error)  # noqa: PT017  the combination decides
            empty += 1
            continue
        parsed = [Column.parse(n) for n in setting.columns]
        assert not any(c.is_baseline or c.is_state for c in parsed)
        if params["spans"] != "all":
            assert {c.span for c in parsed} == {params["spans"]}
        if params.get("graphs") == "heads":
            assert all(c.head == 0 for c in parsed)
        if params.get("family") == "spectra":
            assert all(c.signal == "" for c in parsed)
        thirds = {"first third": {0}, "middle third": {1}, "last third": {2},
                  "first two thirds": {0, 1}, "last two thirds": {1, 2}, "all": {0, 1, 2}}
        assert {c.layer for c in parsed} == thirds[params["layers"]]
        model = setting.classifier
        assert (model.kind, model.random_state) == (params["kind"], 7)
        kept = min(params.get("selected_columns", len(parsed)), len(parsed))
        if model.kind == "logistic":
            assert float(model.C) == pytest.approx(
                params["logistic_C_times_columns"] / kept)
        if model.kind == "mlp":
            assert model.alpha == pytest.approx(params["mlp_alpha_per_column"] * kept)
        for parameter, dimension in (("n_components", "principal_components"),
                                     ("n_features", "selected_columns")):
            most = params.get(dimension, len(parsed))
            assert getattr(model, parameter) == (most if most < len(parsed) else None)
    assert asked == {d["name"] for d in space.describe()}
    assert 0 < empty < 60  # spectra of heads are not there


def test_the_default_is_the_untuned_classifier() -> None:
    space = SearchSpace({"a": NAMES}, ("xgboost", "logistic"), n_rows=40, seed=0)
    setting = space.setting(space.defaults)
    features = synthetic()
    assert setting.columns == learned_names(NAMES)
    X = features.select(setting.columns)
    tuned = setting.classifier.fit(X, features.labels).decision_function(X)
    untuned = ValidityClassifier().fit(X, features.labels).decision_function(X)
    np.testing.assert_allclose(tuned, untuned, rtol=1e-9)


def test_feature_sets_have_dimensions_of_their_own() -> None:
    few = NAMES[:SIGNAL + 2]
    space = SearchSpace({"all": NAMES, "few": few}, ("logistic",), n_rows=40, seed=0)
    names = [d["name"] for d in space.describe()]
    assert names[0] == "feature_set"
    assert "layers of all" in names
    assert "layers of few" not in names  # it has one layer
    seen = {space.setting(p).columns for p in (drawn(space, s) for s in range(40))
            if p["feature_set"] == "few"}
    assert seen <= {few[SIGNAL:], few[SIGNAL:-1], few[-1:]}
    json.dumps(space.describe(), allow_nan=False)


# ---- nested


def test_no_problem_crosses_a_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A spy on every fit and every prediction, which knows the rows by their values."""
    features = synthetic()
    row_of = {float(v): i for i, row in enumerate(features.values) for v in row}
    problems, fitted = features.problem_ids, {}
    now: list[str] = [""]
    events: list[tuple[str, set[str], set[str]]] = []
    fit, margin, run = (ValidityClassifier.fit, ValidityClassifier.decision_function, Search.run)

    def rows(X: NDArray[Any]) -> set[str]:
        return {str(problems[row_of[float(v)]]) for v in X[:, 0]}

    def spied_fit(self: Any, X: Any, y: Any, groups: Any = None, **kw: Any) -> Any:
        fitted[id(self)] = rows(X)
        assert set(groups) == fitted[id(self)]
        return fit(self, X, y, groups=groups, **kw)

    def spied_margin(self: Any, X: Any) -> Any:
        events.append((now[0], fitted[id(self)], rows(X)))
        return margin(self, X)

    def spied_run(self: Search, *args: Any, **kw: Any) -> None:
        now[0] = self.study.study_name
        run(self, *args, **kw)
        now[0] = ""

    monkeypatch.setattr(ValidityClassifier, "fit", spied_fit)
    monkeypatch.setattr(ValidityClassifier, "decision_function", spied_margin)
    monkeypatch.setattr(Search, "run", spied_run)
    tune(features, tmp_path / "a", **SMALL)
    assert all(not trained & scored for _, trained, scored in events)
    for i, (_, test) in enumerate(problem_folds(problems, features.labels, 2, 0)):
        mine = [(a, b) for name, a, b in events if name == f"tuning-{i}"]
        assert len(mine) >= 4
        assert all(not (a | b) & set(problems[test]) for a, b in mine)
    outside = [b for name, _, b in events if name == ""]
    assert set().union(*outside) == set(problems)


def test_the_numbers_are_those_of_the_outer_folds_by_hand(tmp_path: Path) -> None:
    features = synthetic(1.5)
    y, groups = features.labels, features.problem_ids
    result = tune(features, tmp_path / "a", **SMALL)
    space = SearchSpace({"features": NAMES}, ("logistic",), seed=0, n_rows=min(
        len(fit) for train, _ in problem_folds(groups, y, 2, 0)
        for fit, _ in problem_folds(groups[train], y[train], 2, 0)))
    assert result.facts["search_space"] == space.describe()
    sums = {"tuned": 0.0, "default": 0.0}
    pairs = 0
    for (train, test), fold in zip(problem_folds(groups, y, 2, 0), result.folds, strict=True):
        setting = space.setting(fold.params)
        count = int(y[test].sum() * (1 - y[test]).sum())
        pairs += count
        for key, columns, model in (
                ("tuned", setting.columns, setting.classifier),
                ("default", learned_names(NAMES), ValidityClassifier())):
            X = features.select(columns)
            model.fit(X[train], y[train])
            value = roc_auc_score(y[test], model.decision_function(X[test]))
            assert getattr(fold, key) == pytest.approx(value)
            sums[key] += count * value
        inner = [
            roc_auc_score(y[train[out]], setting.classifier.fit(
                features.select(setting.columns)[train[fit]], y[train[fit]]).decision_function(
                    features.select(setting.columns)[train[out]]))
            for fit, out in problem_folds(groups[train], y[train], 2, 0)]
        assert fold.inner_best == pytest.approx(np.mean(inner))
    for key, total in sums.items():
        assert result.auroc[key].estimate == pytest.approx(total / pairs)
    d = result.difference
    assert d.estimate == pytest.approx((sums["tuned"] - sums["default"]) / pairs)
    assert d.low <= d.estimate <= d.high
    length = features.select([str(Column("completion_length"))])[:, 0]
    assert result.pooled["length"].estimate == pytest.approx(roc_auc_score(y, length))


def test_the_artifact_is_the_final_choice_and_says_what_it_is_worth(tmp_path: Path) -> None:
    features = synthetic(1.5)
    result = tune(features, tmp_path / "a", metadata={"command": "x"}, **SMALL)
    artifact = load_artifact(result.artifact)
    notes = artifact.manifest["metadata"]
    assert notes["command"] == "x"
    assert notes["evaluation"] == result.to_json()
    assert notes["evaluation"]["auroc"]["tuned"]["estimate"] == result.auroc["tuned"].estimate
    assert notes["training_problems"] == sorted(set(features.problem_ids.tolist()))
    assert len(notes["calibration"]["margins"]) == len(features)
    assert artifact.provenance == features.provenance
    space = SearchSpace({"features": NAMES}, ("logistic",), seed=0, n_rows=20)
    setting = space.setting(result.final.params)
    assert artifact.feature_names == setting.columns
    X = features.select(setting.columns)
    by_hand = setting.classifier.fit(X, features.labels)
    np.testing.assert_allclose(
        artifact.classifier.decision_function(X), by_hand.decision_function(X))


def test_alternatives_are_found_and_the_better_one_is_saved(tmp_path: Path) -> None:
    """The default set is noise; the other carries the label."""
    noise, good = synthetic(0.0), synthetic(0.0)
    values = good.values.copy()
    values[:, SIGNAL:] += 3.0 * good.labels[:, None]
    good = dataclasses.replace(
        good, values=values, provenance=Provenance("m", "r", "better", 1))
    result = tune({"noise": noise, "good": good}, tmp_path / "a", **{**SMALL, "n_trials": 12})
    assert [f.feature_set for f in (*result.folds, result.final)] == ["good"] * 3
    assert load_artifact(tmp_path / "a").provenance.feature_set == "better"
    assert result.difference.low > 0.2
    assert result.verdict.startswith("Tuning helped: AUROC +0.")


def test_the_verdict_says_which_way_and_whether_it_can_be_told(tmp_path: Path) -> None:
    result = tune(synthetic(), tmp_path / "a", **{**SMALL, "n_trials": 1})
    said = {low: dataclasses.replace(result, difference=Interval(middle, low, high)).verdict
            for middle, low, high in ((0.02, 0.01, 0.03), (-0.02, -0.03, -0.01),
                                      (0.01, -0.02, 0.03), (-0.003, -0.011, 0.004))}
    assert said[0.01].startswith("Tuning helped: AUROC +0.020 [+0.010, +0.030]")
    assert said[-0.03].startswith("Tuning made the score worse: AUROC -0.020")
    assert said[-0.02].startswith("It cannot be shown that tuning helped: AUROC +0.010")
    assert said[-0.011].startswith("Tuning did not help: AUROC -0.003 [-0.011, +0.004]")


@pytest.mark.slow
def test_shuffled_labels_are_a_half_outside_and_more_inside(tmp_path: Path) -> None:
    """What a search believes about noise is the reason for the outer folds."""
    outer, inner = [], []
    for seed in range(10):
        result = tune(synthetic(0.0, seed), tmp_path / f"{seed}", **{
            **SMALL, "n_trials": 16, "seed": seed})
        outer.append(result.auroc["tuned"].estimate)
        inner.append(result.inner_best)
    assert abs(np.mean(outer) - 0.5) < 0.05
    assert np.mean(inner) > 0.57
    assert np.mean(np.array(inner) > outer) >= 0.8


# ---- repeatable, resumable


def test_the_same_seed_gives_the_same_result_and_another_does_not(tmp_path: Path) -> None:
    arguments = {**SMALL, "n_trials": 12, "kinds": ("logistic", "xgboost")}
    first = tune(synthetic(), tmp_path / "a", **arguments)
    second = tune(synthetic(), tmp_path / "b", **arguments)
    assert first.to_json() == second.to_json()
    assert ((tmp_path / "a" / "manifest.json").read_bytes()
            == (tmp_path / "b" / "manifest.json").read_bytes())
    few = [tune(synthetic(), tmp_path / f"few{seed}", **{**SMALL, "seed": seed})
           for seed in (0, 1)]
    assert choices(few[0]) != choices(few[1])


def test_an_interrupted_search_ends_as_if_it_had_not_been(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Past the random trials too, where suggestions follow from what was found."""
    arguments = {**SMALL, "n_trials": 13}
    whole = tune(synthetic(), tmp_path / "a", **arguments)
    margins, calls = TuningData.margins, [0]

    def interrupted(self: TuningData, *args: Any) -> Any:
        calls[0] += 1
        if calls[0] == 25:
            raise KeyboardInterrupt
        return margins(self, *args)

    monkeypatch.setattr(TuningData, "margins", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tune(synthetic(), tmp_path / "b", **arguments)
    resumed = tune(synthetic(), tmp_path / "b", **arguments)
    assert choices(resumed) == choices(whole)
    assert sum(f.failed for f in (*resumed.folds, resumed.final)) == 1
    assert [f.finished for f in (*resumed.folds, resumed.final)] == [13] * 3
    assert resumed.auroc == whole.auroc


def test_more_trials_go_on_where_fewer_stopped(tmp_path: Path) -> None:
    tune(synthetic(), tmp_path / "a", **{**SMALL, "n_trials": 3})
    more = tune(synthetic(), tmp_path / "a", **{**SMALL, "n_trials": 6})
    assert states(tmp_path / "a.tuning.journal")["tuning-all"].count("FAIL") == 0
    assert [f.finished for f in more.folds] == [6, 6]
    at_once = tune(synthetic(), tmp_path / "b", **{**SMALL, "n_trials": 6})
    assert choices(more) == choices(at_once)


@pytest.mark.parametrize("form", ["sqlite:///{}/trials.db", "{}/elsewhere/trials.journal"])
def test_any_storage_and_nothing_is_computed_twice(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = form.format(tmp_path)
    first = tune(synthetic(), tmp_path / "a", storage=storage, **SMALL)
    assert {name: len(s) for name, s in states(storage).items()} == {
        "tuning-0": 4, "tuning-1": 4, "tuning-all": 4}
    assert not (tmp_path / "a.tuning.journal").exists()
    monkeypatch.setattr(Search, "_one", None)  # would be called for a trial
    second = tune(synthetic(), tmp_path / "b", storage=storage, **SMALL)
    assert choices(second) == choices(first)


def test_out_of_time_each_search_still_has_the_untuned_setting(tmp_path: Path) -> None:
    result = tune(synthetic(), tmp_path / "a", timeout=1e-6, **SMALL)
    assert [f.finished for f in (*result.folds, result.final)] == [1, 1, 1]
    assert result.difference == Interval(0.0, 0.0, 0.0)
    assert result.verdict.startswith("Tuning did not help")


def test_progress_rises_to_the_total_and_logging_is_left_as_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said: list[tuple[int, int]] = []
    before = optuna.logging.get_verbosity()
    tune(synthetic(), tmp_path / "a", progress=lambda *s: said.append(s), **SMALL)
    assert [done for done, _ in said] == sorted(done for done, _ in said)
    assert (said[0], said[-1]) == ((0, 12), (12, 12))
    assert optuna.logging.get_verbosity() == before
    assert capsys.readouterr() == ("", "")


# ---- one search


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


def test_a_trial_of_a_living_process_is_neither_failed_nor_run_twice(storage: Any) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as living:
        stat = Path(f"/proc/{living.pid}/stat")
        if not stat.exists():
            pytest.skip("no /proc here")
        started = stat.read_text().rpartition(")")[2].split()[19]
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
from test_tune import SMALL, synthetic
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


# ---- bad input


def test_half_a_line_of_a_dead_writer_is_dropped(tmp_path: Path) -> None:
    first = tune(synthetic(), tmp_path / "a", **SMALL)
    journal = tmp_path / "a.tuning.journal"
    whole = journal.read_bytes()
    journal.write_bytes(whole + b'{"op_code":4,"wor')
    assert choices(tune(synthetic(), tmp_path / "a", **SMALL)) == choices(first)
    assert journal.read_bytes().startswith(whole)
    journal.write_bytes(whole + b"{half\n" + whole)
    with pytest.raises(StoreError, match="damaged journal"):
        tune(synthetic(), tmp_path / "a", **SMALL)


@pytest.mark.parametrize("content", [b"PAR1 something", b"a line\nanother", b"{}\n", b"[1]\n2"])
def test_a_file_that_is_no_journal_is_left_alone(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_bytes(content)
    with pytest.raises(StoreError, match="another file"):
        tune(synthetic(), tmp_path / "a", storage=file, **SMALL)
    assert file.read_bytes() == content


def test_passwords_are_shown_to_nobody(tmp_path: Path) -> None:
    url = "postgresql://someone:s3cr%40t@nowhere.invalid:5432/trials"
    assert without_password(url) == "postgresql://someone:***@nowhere.invalid:5432/trials"
    assert without_password("sqlite:///x.db") == "sqlite:///x.db"
    assert without_password("a:b@c.journal") == "a:b@c.journal"
    with pytest.raises(StoreError, match=r"someone:\*\*\*@nowhere") as raised:
        tune(synthetic(), tmp_path / "a", storage=url, **SMALL)
    assert "s3cr" not in str(raised.value)


@pytest.mark.parametrize(("change", "error", "message"), [
    ({"n_trials": 0}, ParameterError, "n_trials must be at least 1"),
    ({"timeout": 0}, ParameterError, "timeout must be positive"),
    ({"seed": -1}, ParameterError, "seed must not be negative"),
    ({"kinds": ("forest",)}, ParameterError, "kinds must be some of"),
    ({"kinds": ()}, ParameterError, "kinds must be some of"),
    ({"n_outer": 1}, ParameterError, "n_splits must be at least 2"),
    ({"n_outer": 25}, LabelError, "24 problems cannot make 25 folds"),
    ({"storage": "nosuchdb://x/y"}, StoreError, "cannot open nosuchdb"),
    ({"storage": "/proc/none/journal"}, StoreError, "cannot write"),
])
def test_bad_arguments_are_typed_errors(
    change: dict[str, Any], error: type[ValidatorError], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        tune(synthetic(), tmp_path / "a", **{**SMALL, **change})
    assert not (tmp_path / "a").exists()


def test_bad_features_are_typed_errors(tmp_path: Path) -> None:
    features = synthetic()
    blank = dataclasses.replace(features.traces[0], label=None)
    other = dataclasses.replace(features.traces[0], label=1 - features.labels[0])
    rest = features.traces[1:]
    bad: list[tuple[Any, type[ValidatorError], str]] = [
        (dataclasses.replace(features, traces=(blank, *rest)), LabelError, "have no label"),
        (features.take(np.flatnonzero(features.labels)), LabelError, "only one class"),
        ({}, ParameterError, "no features"),
        ({"a": features, "b": features.take(range(1, len(features)))}, FeatureMismatchError,
         "'b' and 'a' are features of different traces"),
        ({"a": features, "b": dataclasses.replace(features, traces=(other, *rest))},
         FeatureMismatchError, "disagree on their labels"),
        (dataclasses.replace(features, names=NAMES[:5], values=features.values[:, :5]),
         FeatureMismatchError, "only baselines and hidden states"),
    ]
    for given, error, message in bad:
        with pytest.raises(error, match=message):
            tune(given, tmp_path / "a", **SMALL)
    assert list(column_families(NAMES[:5])["learned"]) == []


def test_a_study_of_other_data_or_folds_is_refused(tmp_path: Path) -> None:
    tune(synthetic(), tmp_path / "a", **SMALL)
    for change in ({"seed": 1}, {"n_inner": 3}, {"kinds": ("xgboost",)}):
        with pytest.raises(ParameterError, match="study 'tuning-0' for other features"):
            tune(synthetic(), tmp_path / "a", **{**SMALL, **change})
    with pytest.raises(ParameterError, match="for other features"):
        tune(synthetic(seed=5), tmp_path / "a", **SMALL)
    tune(synthetic(seed=5), tmp_path / "a", study_name="again", **SMALL)


def test_a_folder_of_other_things_is_refused_before_the_search(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "thesis.tex").touch()
    with pytest.raises(ArtifactError, match="holds other files"):
        tune(synthetic(), tmp_path / "a", **SMALL)
    assert not (tmp_path / "a.tuning.journal").exists()


def test_without_optuna_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("optuna", "validator.training.trials"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ValidatorError, match=r"spectral-validator\[tune\]"):
        tune(synthetic(), tmp_path / "a", **SMALL)
