"""Tuning: judged on problems that no search saw, repeatable, resumed as if nothing had been."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from tuning_helpers import NAMES, SIGNAL, SMALL, choices, states, synthetic

from validator.classifier import ValidityClassifier, load_artifact
from validator.columns import Column
from validator.families import learned_names
from validator.metrics import Interval
from validator.splits import problem_folds
from validator.training.search_space import SearchSpace
from validator.training.trials import Search
from validator.training.tune import tune
from validator.training.tuning_data import TuningData
from validator.types import Provenance


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here cuts the power, and a journal waits for the disk at every line."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


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
