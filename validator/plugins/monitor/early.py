"""What early stopping would have cost and saved, on answers that were written to the end.

The rule is the one that :func:`~validator.plugins.monitor.sampling.sample_with_early_stopping`
follows: at some numbers of tokens, a sample whose score is below a threshold is stopped, but for
the best few of a problem; of the samples that ended, the one with the highest last score is kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from validator.columns import Column
from validator.errors import ParameterError
from validator.metrics import Interval
from validator.metrics.bootstrap import Resampler, clustered_interval
from validator.plugins.monitor.prefixes import PREFIX_TOKENS, prefix_trace
from validator.types import FeatureMatrix

__all__ = ["Curve", "StoppingOutcome", "StoppingReport", "choose_threshold", "judge_stopping",
           "prefix_curves", "running_baselines", "simulate_stopping", "to_stop"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """The scores of one finished answer while it was written."""

    trace_id: str
    problem_id: str
    label: int
    length: int
    """Tokens of the answer; one more was drawn, which ended it."""
    running: Mapping[int, float]
    """Tokens so far, fewer than ``length`` -> score by which it may be stopped."""
    final: float
    """Score by which it is chosen among those that ended."""


@dataclass(frozen=True)
class StoppingOutcome:
    """By problem, in the order of ``problems``."""

    problems: NDArray[np.str_]
    spent: Array
    """(P,) tokens drawn."""
    full: Array
    """(P,) tokens drawn if none is stopped."""
    right: Array
    """(P,) 1 where the answer kept is valid."""
    right_full: Array
    """(P,) the same if none is stopped."""
    stopped: Array
    """(P,) samples stopped."""
    stopped_valid: Array
    """(P,) of them, those that would have become valid."""

    @property
    def saved(self) -> float:
        """Share of tokens saved."""
        return float(1 - self.spent.sum() / self.full.sum())

    @property
    def loss(self) -> float:
        """Accuracy lost by stopping; negative where it is gained."""
        return float((self.right_full - self.right).mean())


@dataclass(frozen=True)
class StoppingReport:
    """An outcome with 95% intervals over problems."""

    below: float
    saved: Interval
    accuracy: Interval
    accuracy_full: Interval
    loss: Interval
    """Paired."""
    stopped: float
    """Share of samples stopped."""
    stopped_valid: float
    """Share of the valid samples that were stopped."""


def prefix_curves(
    features: FeatureMatrix, scores: Array, chooser: Array | None = None
) -> list[Curve]:
    """Rows of ``transform_prefixes`` -> one curve per trace.

    Args:
        features: labelled.
        scores: (N,) of each row; higher is more valid.
        chooser: (N,) by which an answer is chosen at the end; None for the same.
    """
    rows: dict[str, list[int]] = {}
    for i, row_id in enumerate(features.trace_ids):
        rows.setdefault(prefix_trace(row_id), []).append(i)
    tokens, labels = features.lengths[:, 1], features.labels
    last = scores if chooser is None else chooser
    return [
        Curve(trace, features.traces[own[-1]].problem_id, int(labels[own[-1]]),
              int(tokens[own[-1]]), {int(tokens[i]): float(scores[i]) for i in own[:-1]},
              float(last[own[-1]]))
        for trace, own in rows.items()]


def to_stop(
    scores: Mapping[int, float], survivors: int, below: float, spare: int
) -> list[int]:
    """Which samples to stop now: the worst first, as long as ``spare`` are left.

    Args:
        scores: sample -> score, of those that are still written.
        survivors: samples that are written or have ended.
        below: threshold.
        spare: fewest that are left.
    """
    worst = sorted((s for s in scores if scores[s] < below), key=lambda s: (scores[s], -s))
    return worst[: max(0, survivors - spare)]


def simulate_stopping(
    curves: Sequence[Curve], below: float, *, checks: Sequence[int] = PREFIX_TOKENS, spare: int = 1
) -> StoppingOutcome:
    """Replay early stopping on finished answers.

    Args:
        curves: all samples of each problem.
        below: samples with a lower score are stopped.
        checks: numbers of tokens at which samples are looked at, ascending.
        spare: fewest samples of a problem that are let to end.

    Raises:
        ParameterError: a curve has no score where it is checked.
    """
    by_problem: dict[str, list[Curve]] = {}
    for curve in curves:
        by_problem.setdefault(curve.problem_id, []).append(curve)
    found = [_one_problem(own, below, checks, spare) for own in by_problem.values()]
    columns = np.array(found, dtype=np.float64).T
    return StoppingOutcome(np.array(list(by_problem), dtype=np.str_), *columns)


def _one_problem(
    curves: Sequence[Curve], below: float, checks: Sequence[int], spare: int
) -> tuple[float, ...]:
    stopped: dict[int, int] = {}
    for k in checks:
        running = {i: _score(c, k) for i, c in enumerate(curves)
                   if c.length > k and i not in stopped}
        for i in to_stop(running, len(curves) - len(stopped), below, spare):
            stopped[i] = k
    spent = sum(stopped.get(i, c.length) + 1 for i, c in enumerate(curves))
    ended = [c for i, c in enumerate(curves) if i not in stopped]
    return (spent, sum(c.length + 1 for c in curves), _chosen(ended), _chosen(curves),
            len(stopped), sum(curves[i].label for i in stopped))


def _score(curve: Curve, k: int) -> float:
    if k not in curve.running:
        raise ParameterError(
            f"trace {curve.trace_id!r} has no score at {k} tokens; extract prefixes at every "
            "number of tokens that is checked")
    return curve.running[k]


def _chosen(curves: Sequence[Curve]) -> float:
    return float(max(curves, key=lambda c: c.final).label) if curves else 0.0


def choose_threshold(
    curves: Sequence[Curve], *, most_lost: float = 0.01, checks: Sequence[int] = PREFIX_TOKENS,
    spare: int = 1
) -> float:
    """The threshold that saves most tokens at no more than so much accuracy lost.

    Candidates are the scores that occur, at 40 quantiles, and minus infinity, which stops nothing.
    """
    values = np.array([s for c in curves for s in c.running.values()])
    candidates = np.unique(np.quantile(values, np.linspace(0.0, 0.975, 40)))
    best, saved = -np.inf, 0.0
    for below in candidates:
        found = simulate_stopping(curves, float(below), checks=checks, spare=spare)
        if found.loss <= most_lost and found.saved > saved:
            best, saved = float(below), found.saved
    return best


def judge_stopping(
    curves: Sequence[Curve], below: float, *, checks: Sequence[int] = PREFIX_TOKENS,
    spare: int = 1, seed: int = 0
) -> StoppingReport:
    """Share of tokens saved and accuracy lost, with 95% intervals over problems."""
    found = simulate_stopping(curves, below, checks=checks, spare=spare)
    resampler = Resampler(found.problems, seed=seed)
    order = np.argsort(found.problems)

    def share(top: Array, bottom: Array) -> Interval:
        return clustered_interval(
            lambda counts: (counts @ top[order]) / (counts @ bottom[order]), resampler)

    each = np.ones(len(order))
    per_problem = {p: sum(c.problem_id == p for c in curves) for p in found.problems.tolist()}
    samples = np.array([per_problem[p] for p in found.problems.tolist()])
    valid = max(1, sum(c.label for c in curves))
    return StoppingReport(
        below, share(found.full - found.spent, found.full), share(found.right, each),
        share(found.right_full, each), share(found.right_full - found.right, each),
        float(found.stopped.sum() / samples.sum()), float(found.stopped_valid.sum() / valid))


def running_baselines(features: FeatureMatrix) -> dict[str, Array]:
    """(N,) scores that need no classifier: mean log-probability so far, and minus the length."""
    columns = features.select([str(Column("mean_logprob")), str(Column("completion_length"))])
    return {"mean_logprob": columns[:, 0].astype(np.float64),
            "length": -columns[:, 1].astype(np.float64)}
