"""Tuning on what it should not be given: typed errors, before the search and without damage."""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tuning_helpers import NAMES, SMALL, choices, synthetic

from validator.errors import (
    ArtifactError,
    FeatureMismatchError,
    LabelError,
    ParameterError,
    StoreError,
    StoreWarning,
    ValidatorError,
)
from validator.families import column_families
from validator.training.trial_storage import without_password
from validator.training.tune import tune


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here cuts the power, and a journal waits for the disk at every line."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


def test_half_a_line_of_a_dead_writer_is_dropped(tmp_path: Path) -> None:
    first = tune(synthetic(), tmp_path / "a", **SMALL)
    journal = tmp_path / "a.tuning.journal"
    whole = journal.read_bytes()
    journal.write_bytes(whole + b'{"op_code":4,"wor')
    with pytest.warns(StoreWarning, match="half a line"):
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
