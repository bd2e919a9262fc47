"""What tuning is worth: outer-fold scores of the tuned and the untuned, with paired intervals."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from validator.classifier import ValidityClassifier
from validator.columns import Column
from validator.families import learned_names
from validator.metrics import (
    Interval,
    Resampler,
    Statistic,
    auroc,
    auroc_statistic,
    clustered_interval,
    paired_difference,
    stratified_statistic,
)
from validator.training.search_space import SearchSpace, Setting
from validator.training.tuning_data import Fold, TuningData
from validator.types import FeatureMatrix

if TYPE_CHECKING:
    from validator.training.trials import Best

__all__ = ["TunedFold", "TuningResult", "judge"]

Scores = NDArray[np.float64]

RESAMPLES = 1000


@dataclass(frozen=True, slots=True)
class TunedFold:
    """One search and, unless it was on all traces, how its choice did on the outer test part."""

    params: Mapping[str, Any]
    feature_set: str
    n_columns: int
    inner_best: float
    """Mean inner-fold AUROC of the chosen setting: too high for being the best of many, too low for
    fits to fewer problems."""
    finished: int
    pruned: int
    failed: int
    """Trials of processes that died, which others replaced."""
    unconverged: int
    """Fits of the search that stopped at their limit of iterations."""
    tuned: float | None = None
    """AUROC on the outer test part; None on all traces, or where it holds one class."""
    default: float | None = None


@dataclass(frozen=True)
class TuningResult:
    """What :func:`tune` did and what it is worth."""

    artifact: Path
    auroc: Mapping[str, Interval]
    """``tuned``, ``default`` and baselines -> AUROC over pairs of traces of the same outer fold,
    that is, over pairs which one model scored."""
    difference: Interval
    """Tuned minus default, paired."""
    pooled: Mapping[str, Interval]
    """The same and ``difference`` over all pairs. Some of these compare margins of different
    models, which need not be on one scale when folds choose different classifiers."""
    folds: tuple[TunedFold, ...]
    final: TunedFold
    """The search on all traces, whose setting the artifact holds."""
    facts: Mapping[str, Any]
    """Traces, problems, folds, trials, seed, kinds, feature sets, the search space."""

    @property
    def inner_best(self) -> float:
        """Mean over outer folds of the best inner value, which estimates nothing outside."""
        return float(np.mean([f.inner_best for f in self.folds]))

    @property
    def verdict(self) -> str:
        """Whether tuning helped, in plain words."""
        d = self.difference
        numbers = f"AUROC {d.estimate:+.3f} [{d.low:+.3f}, {d.high:+.3f}]"
        if d.low > 0:
            verb = "Tuning helped"
        elif d.high < 0:
            verb = "Tuning made the score worse"
        elif d.estimate > 0:
            verb = "It cannot be shown that tuning helped"
        else:
            verb = "Tuning did not help"
        return (f"{verb}: {numbers} against the untuned default on problems neither had seen. The "
                f"best of {self.facts['n_trials']} inner values was {self.inner_best:.3f} on "
                "average: too high for being the best of many, too low for training on fewer "
                "problems; only the outer folds' number counts.")

    def to_json(self) -> dict[str, Any]:
        """The same as plain JSON values, without the artifact's path."""
        values = {key: value for key, value in asdict(self).items() if key != "artifact"}
        plain: dict[str, Any] = json.loads(json.dumps(values))
        return {**plain, "inner_best": self.inner_best, "verdict": self.verdict}


def judge(data: TuningData, space: SearchSpace, outer: Sequence[Fold], bests: Sequence[Best],
          output: Path, facts: Mapping[str, Any]) -> TuningResult:
    """Fit each fold's choice, and the untuned default, on its training part; score the rest.

    ``bests``: of each outer fold's search, then of the search on all traces.
    """
    untuned = Setting(
        next(iter(data.matrices)), learned_names(data.first.names),
        ValidityClassifier(space.defaults["kind"], random_state=space.seed, n_jobs=space.n_jobs))
    scores = {"tuned": np.full(data.y.size, np.nan), "default": data.margins(untuned, outer),
              **_baselines(data.first)}
    folds, fold_of_row = [], np.empty(data.y.size, dtype=np.int64)
    for i, (fold, best) in enumerate(zip(outer, bests[:-1], strict=True)):
        setting, test = space.setting(best.params), fold[1]
        fold_of_row[test] = i
        scores["tuned"][test] = data.margins(setting, [fold])[test]
        folds.append(_fold(setting, best, *(_auroc(data.y[test], scores[key][test])
                                            for key in ("tuned", "default"))))
    final = _fold(space.setting(bests[-1].params), bests[-1])
    resampler = Resampler(data.groups, RESAMPLES, space.seed)
    same = {key: stratified_statistic(data.y, s, fold_of_row, resampler)
            for key, s in scores.items()}
    pooled = {key: auroc_statistic(data.y, s, resampler) for key, s in scores.items()}
    values, difference = _intervals(pooled, resampler)
    return TuningResult(output, *_intervals(same, resampler), {**values, "difference": difference},
                        tuple(folds), final, {**facts, "resamples": RESAMPLES})


def _intervals(statistics: Mapping[str, Statistic], resampler: Resampler
               ) -> tuple[dict[str, Interval], Interval]:
    """Of each score, and of tuned minus default on the same resamples."""
    return ({key: clustered_interval(s, resampler) for key, s in statistics.items()},
            paired_difference(statistics["tuned"], statistics["default"], resampler))


def _auroc(labels: NDArray[np.int64], scores: Scores) -> float | None:
    return auroc(labels, scores) if np.unique(labels).size == 2 else None


def _fold(setting: Setting, best: Best, tuned: float | None = None, default: float | None = None
          ) -> TunedFold:
    return TunedFold(dict(best.params), setting.feature_set, len(setting.columns), best.value,
                     best.finished, best.pruned, best.failed, best.unconverged, tuned, default)


def _baselines(features: FeatureMatrix) -> dict[str, Scores]:
    """What every score stands beside, as far as the features carry it."""
    wanted = {"logprob": str(Column("mean_logprob")), "length": str(Column("completion_length"))}
    return {key: features.select([name])[:, 0].astype(np.float64)
            for key, name in wanted.items() if name in features.names}
