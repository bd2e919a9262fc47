"""Tuning judged from outside: what the search chose is scored on problems it never saw."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock
from sklearn.base import clone

from validator.classifier import load_artifact, save_artifact
from validator.classifier.venn_abers import CALIBRATION
from validator.errors import ArtifactError, ParameterError, ValidatorError
from validator.families import read_by_artifact
from validator.splits import problem_folds
from validator.training.search_space import SearchSpace, Setting
from validator.training.tuning_data import Fold, TuningData
from validator.training.tuning_result import TuningResult, judge
from validator.types import FeatureMatrix, Progress

if TYPE_CHECKING:
    from validator.training.trials import Best, FoldScores, Search

__all__ = ["KINDS_TRIED", "TuningResult", "tune"]

KINDS_TRIED = ("logistic", "xgboost")
"""Kinds that are tried unless told otherwise."""


def tune(
    features: FeatureMatrix | Mapping[str, FeatureMatrix],
    output: Path,
    *,
    n_trials: int,
    n_outer: int = 5,
    n_inner: int = 3,
    seed: int,
    storage: str | Path | None = None,
    study_name: str | None = None,
    timeout: float | None = None,
    kinds: Sequence[str] = KINDS_TRIED,
    n_jobs: int | None = None,
    metadata: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> TuningResult:
    """Nested search: judge tuning on outer folds, then tune on everything, fit and save.

    Every outer fold has a search of its own over problem-grouped inner folds of its training part.
    A last search on all traces chooses the setting that is saved.

    Args:
        features: labelled; several matrices of the same traces, by name, are alternatives of which
            the first is the default.
        output: folder of the artifact.
        n_trials: trials of each search, over all processes and all runs.
        n_outer: outer folds.
        n_inner: inner folds.
        seed: of the folds, the suggestions, the classifiers and the bootstrap.
        storage: a journal file or a database URL [``<output>.tuning.journal``].
        study_name: tells searches in one storage apart ["tuning"].
        timeout: seconds of searching, shared out over the searches; each has at least one
            complete trial all the same.
        kinds: classifiers to try.
        n_jobs: threads of xgboost.
        metadata: further JSON values for the manifest, e.g. the command.
        progress: called with (done, total) trials of all searches.

    Raises:
        LabelError: unlabelled traces, one class only, or too few problems for the folds.
        FeatureMismatchError: matrices of different traces, or without graph columns.
        ParameterError: an argument out of range, or a study of other data in the storage.
        StoreError: a storage that cannot be used.
        ArtifactError: ``output`` holds something else.
    """
    _check_numbers(n_trials, seed, timeout)
    data = TuningData(features)
    outer = problem_folds(data.groups, data.y, n_outer, seed)
    plans = [data.plan(rows, n_inner, seed)
             for rows in (*(train for train, _ in outer), np.arange(data.y.size))]
    space = SearchSpace({name: m.names for name, m in data.matrices.items()}, kinds,
                        n_rows=min(fit.size for plan in plans for fit, _ in plan),
                        seed=seed, n_jobs=n_jobs)
    _require_free(output)
    names = [f"{study_name or 'tuning'}-{part}" for part in (*range(n_outer), "all")]
    bests = _search(
        data, space, plans, names,
        output.with_name(f"{output.name}.tuning.journal") if storage is None else storage,
        n_trials=n_trials, belongs_to=data.fingerprint(space, n_outer, n_inner, seed),
        timeout=timeout, progress=progress)
    result = judge(data, space, outer, bests, output, {
        **data.facts(), "n_outer": n_outer, "n_inner": n_inner, "n_trials": n_trials, "seed": seed,
        "kinds": list(kinds), "studies": names, "search_space": space.describe()})
    _save(data, space.setting(result.final.params), outer, result, metadata or {})
    return result


def _search(
    data: TuningData, space: SearchSpace, plans: Sequence[Sequence[Fold]], names: Sequence[str],
    storage: str | Path, *, n_trials: int, belongs_to: str, timeout: float | None,
    progress: Progress | None,
) -> list[Best]:
    """Run every search; what other processes run meanwhile is waited for only at the end."""
    try:
        from validator.training.trial_storage import opened
        from validator.training.trials import Search
    except ImportError as error:
        raise ValidatorError("tuning needs the optuna package: "
                             "pip install 'spectral-validator[tune]'") from error
    with opened(storage) as store:
        searches = [Search(store, name, space, n_trials, (space.seed, i), belongs_to)
                    for i, name in enumerate(names)]
        objectives = [data.scores(space, plan) for plan in plans]
        _run_all(searches, objectives, n_trials, timeout, progress)
        return [search.best() for search in searches]


def _run_all(searches: Sequence[Search], objectives: Sequence[FoldScores], n_trials: int,
             timeout: float | None, progress: Progress | None) -> None:
    start, share = time.monotonic(), (timeout or np.inf) / len(searches)
    finished = [0] * len(searches)
    for wait in (False, True):
        for i, search in enumerate(searches):
            def report(done: int, i: int = i) -> None:
                finished[i] = done
                if progress is not None:
                    progress(sum(finished), n_trials * len(searches))

            deadline = start + share * (len(searches) if wait else i + 1)
            search.run(objectives[i], deadline=deadline, wait=wait, progress=report)


def _save(data: TuningData, setting: Setting, outer: Sequence[Fold], result: TuningResult,
          metadata: Mapping[str, Any]) -> None:
    """Fit the final setting on everything; its manifest states the outer numbers.

    P(valid) is calibrated on this setting's own out-of-fold margins, which are on the scale of the
    classifier saved; those of the outer folds' choices need not be.
    """
    matrix = data.matrices[setting.feature_set]
    fitted = clone(setting.classifier).fit(data.values(setting), data.y, groups=data.groups)
    notes = {
        **metadata,
        "evaluation": result.to_json(),
        "training_problems": sorted(set(data.groups.tolist())),
        CALIBRATION: {"margins": data.margins(setting, outer).tolist(),
                      "labels": data.y.tolist()},
    }
    with FileLock(result.artifact.with_name(f".{result.artifact.name}.lock")):
        save_artifact(result.artifact, fitted, read_by_artifact(matrix.provenance),
                      setting.columns, notes)


def _check_numbers(n_trials: int, seed: int, timeout: float | None) -> None:
    if n_trials < 1:
        raise ParameterError(f"n_trials must be at least 1, got {n_trials}")
    if seed < 0:
        raise ParameterError(f"seed must not be negative, got {seed}")
    if timeout is not None and not timeout > 0:
        raise ParameterError(f"timeout must be positive, got {timeout}; leave it out for no limit")


def _require_free(output: Path) -> None:
    """Find out before hours of search, not after, that the artifact cannot be written."""
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        if output.exists() and any(output.iterdir()):
            load_artifact(output)
    except (ArtifactError, OSError) as error:
        raise ArtifactError(f"{output} can be no folder for an artifact, or holds other files than "
                            "one of this version; choose another, or empty this one") from error
