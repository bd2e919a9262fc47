"""Small labelled feature matrices, and what came of tuning on them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import optuna

from validator.columns import BASELINES, Column
from validator.training.trial_storage import opened
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
