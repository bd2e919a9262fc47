"""What tuning may choose: every setting reads what it says, and never baselines or states."""

from __future__ import annotations

import json
import random
from typing import Any

import numpy as np
import pytest
from tuning_helpers import NAMES, SIGNAL, synthetic

from validator.classifier import ValidityClassifier
from validator.columns import Column
from validator.errors import ParameterError
from validator.families import learned_names
from validator.training.search_space import SearchSpace


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
