"""One search over settings, shared by any number of processes, resumed after any of them dies."""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.pruners import MedianPruner
from optuna.samplers import BaseSampler, TPESampler
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, Trial, TrialState
from sklearn.exceptions import ConvergenceWarning

from validator.errors import ParameterError
from validator.training.search_space import SearchSpace
from validator.training.trial_storage import is_alive, this_process

__all__ = ["Best", "FoldScores", "Search"]

FoldScores = Callable[[Mapping[str, Any]], Iterator[float]]
"""Parameters -> the AUROC of each inner fold, computed as it is asked for."""

BEAT = 20.0
"""Seconds between two signs of life of a running trial."""

LEASE = 180.0
"""Seconds without one after which a trial of another machine is taken for dead."""

POLL = 0.5
"""Seconds between two looks at the trials of other processes."""

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
TAKEN = (*FINISHED, TrialState.RUNNING)


@dataclass(frozen=True, slots=True)
class Best:
    """The outcome of one search."""

    params: Mapping[str, Any]
    value: float
    """Mean inner-fold AUROC: optimistic, as it is the best of all that were tried."""
    finished: int
    """Trials that count: complete or pruned."""
    pruned: int
    failed: int
    """Trials of processes that died or were interrupted; others took their place."""
    unconverged: int
    """Fits that stopped at their limit of iterations, in all trials."""


class Search:
    """``n_trials`` trials of one study, whichever processes run them.

    Suggestions follow from the seed, the place of a trial among those that count and their
    results: one process alone repeats itself, and so does one that was killed and started again.

    Args:
        storage: from :func:`validator.training.trial_storage.opened`.
        name: of the study.
        space: what may be chosen.
        n_trials: complete and pruned trials in all.
        seed: any sequence of non-negative integers.
        belongs_to: fingerprint of the data and folds, which every process must have in common.

    Raises:
        ParameterError: the storage has a study of this name for other data or folds.
    """

    def __init__(self, storage: BaseStorage, name: str, space: SearchSpace, n_trials: int,
                 seed: tuple[int, ...], belongs_to: str) -> None:
        self.study = optuna.create_study(
            storage=storage, study_name=name, direction="maximize", load_if_exists=True,
            pruner=MedianPruner())
        self.space, self.n_trials, self.seed = space, n_trials, seed
        self._seen: dict[int, tuple[Any, float]] = {}
        if "belongs_to" not in self.study.user_attrs:
            self.study.set_user_attr("belongs_to", belongs_to)
        if self.study.user_attrs["belongs_to"] != belongs_to:
            raise ParameterError(
                f"the storage has a study {name!r} for other features, folds, seed or kinds; give "
                "another study name or storage, or the arguments it was started with")

    def run(self, scores: FoldScores, *, deadline: float = np.inf, wait: bool = False,
            progress: Callable[[int], None] | None = None) -> None:
        """Run trials until enough have finished or are running elsewhere.

        ``deadline`` on the clock of :func:`time.monotonic`; past it no trial is started once one
        is complete. ``wait``: until those that run elsewhere have finished or their process died.
        ``progress``: called with the number of finished trials.
        """
        while True:
            self._fail_dead()
            trials = self._trials()
            finished = sum(t.state in FINISHED for t in trials)
            running = sum(t.state is TrialState.RUNNING for t in trials)
            if progress is not None:
                progress(min(finished, self.n_trials))
            complete = any(t.state is TrialState.COMPLETE for t in trials)
            if finished + running < self.n_trials and (
                    not complete or time.monotonic() < deadline):
                self._one(scores)
            elif running and wait:
                time.sleep(POLL)
            else:
                return

    def best(self) -> Best:
        """The complete trial of the highest value, the earliest of equals.

        Raises ParameterError where no trial could be completed, with the reason of one.
        """
        trials = self._trials()
        complete = [t for t in trials if t.state is TrialState.COMPLETE]
        if not complete:
            why = next((t.user_attrs["why"] for t in trials if "why" in t.user_attrs), "none ran")
            raise ParameterError(f"none of {len(trials)} settings could be fitted: {why}")
        found = max(complete, key=lambda t: (float(t.value or 0.0), -t.number))
        return Best(
            found.params, float(found.value or 0.0),
            sum(t.state in FINISHED for t in trials),
            sum(t.state is TrialState.PRUNED for t in trials),
            sum(t.state is TrialState.FAIL for t in trials),
            sum(t.user_attrs.get("unconverged_fits", 0) for t in trials))

    def _trials(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False)

    def _one(self, scores: FoldScores) -> None:
        trial = self.study.ask()
        trial.set_user_attr("owner", this_process())
        place = sum(t.state in TAKEN for t in self._trials() if t.number < trial.number)
        if place >= self.n_trials:  # another process was quicker; the last one is its
            trial.set_user_attr("why", "not needed")
            self.study.tell(trial, state=TrialState.FAIL)
            return
        self.study.sampler = self._sampler(place)
        try:
            with _beating(trial):
                state, value = _judge(trial, self.space, scores)
            self.study.tell(trial, value, state, skip_if_finished=True)
        except UpdateFinishedTrialError:
            return  # this process stood still for so long that it was taken for dead
        except BaseException:
            self.study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)
            raise

    def _sampler(self, place: int) -> BaseSampler:
        """The untuned setting first, then a tree-structured Parzen estimator."""
        if place == 0:
            return _Untuned(self.space.defaults)
        seed = np.random.SeedSequence([*self.seed, place]).generate_state(1)[0]
        return TPESampler(seed=int(seed))

    def _fail_dead(self) -> None:
        """Fail the running trials whose process died; none that may still be alive."""
        for t in self._trials():
            if t.state is not TrialState.RUNNING or not self._is_dead(t):
                continue
            try:
                self.study.tell(t.number, state=TrialState.FAIL, skip_if_finished=True)
            except UpdateFinishedTrialError:
                continue  # it finished, or another process failed it, in this moment

    def _is_dead(self, trial: FrozenTrial) -> bool:
        """Asked of the system where it can tell, and of the signs of life where it cannot.

        The time is that of this process, from when it first saw the last sign: the clocks of two
        machines need not agree.
        """
        alive = is_alive(trial.user_attrs.get("owner", {}))
        if alive is not None:
            return not alive
        beat = trial.user_attrs.get("beat")
        last, since = self._seen.setdefault(trial.number, (beat, time.monotonic()))
        if last != beat:
            self._seen[trial.number] = beat, time.monotonic()
            return False
        return time.monotonic() - since > LEASE


def _judge(trial: Trial, space: SearchSpace, scores: FoldScores
           ) -> tuple[TrialState, float | None]:
    """Fold by fold, with the mean so far reported; pruned where it is below the median's."""
    values: list[float] = []
    with _counting_unconverged(trial):
        try:
            for step, score in enumerate(scores(space.suggest(trial))):
                values.append(score)
                trial.report(float(np.mean(values)), step)
                if trial.should_prune():
                    return TrialState.PRUNED, None
        except ParameterError as error:  # no column is left, or more components than directions
            trial.set_user_attr("why", str(error))
            return TrialState.PRUNED, None
    return TrialState.COMPLETE, float(np.mean(values))


@contextmanager
def _counting_unconverged(trial: Trial) -> Iterator[None]:
    """Fits that did not converge are counted on the trial; hundreds of warnings tell no more."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        yield
    unconverged = sum(issubclass(w.category, ConvergenceWarning) for w in caught)
    if unconverged:
        trial.set_user_attr("unconverged_fits", unconverged)
    for w in caught:
        if not issubclass(w.category, ConvergenceWarning):
            warnings.warn_explicit(w.message, w.category, w.filename, w.lineno)


@contextmanager
def _beating(trial: Trial) -> Iterator[None]:
    """Write a sign of life every :data:`BEAT` seconds, for processes on other machines."""
    done = threading.Event()

    def beat() -> None:
        count = 0
        while not done.wait(BEAT):
            count += 1
            try:
                trial.set_user_attr("beat", count)
            except UpdateFinishedTrialError:
                return

    thread = threading.Thread(target=beat, name="tuning-beat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


class _Untuned(BaseSampler):
    """Suggests the defaults."""

    def __init__(self, defaults: Mapping[str, Any]) -> None:
        self.defaults = defaults

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial
                                    ) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(self, study: optuna.Study, trial: FrozenTrial,
                        search_space: dict[str, BaseDistribution]) -> dict[str, Any]:
        return {}

    def sample_independent(self, study: optuna.Study, trial: FrozenTrial, param_name: str,
                           param_distribution: BaseDistribution) -> Any:
        return self.defaults[param_name]
