"""What choosing a checkpoint by a criterion is worth: rank correlation and top-1 regret."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from validator.audit.correlation import spearman
from validator.errors import ParameterError

__all__ = ["Criterion", "Judgement", "judge_criterion", "pick", "rank_order"]

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Criterion:
    """A number of each checkpoint by which one could be chosen."""

    name: str
    values: tuple[float, ...]
    """(K,) by checkpoint, earliest first; NaN where a checkpoint has none."""
    higher_is_better: bool = True
    """False of a loss."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a criterion is worth against the true accuracy of the checkpoints."""

    criterion: str
    higher_is_better: bool
    picked: int | None
    """Position of the checkpoint it chooses, or None where it has no value at all."""
    accuracy: float | None
    """True accuracy of that checkpoint; None where it is not known."""
    regret: float | None
    """Best true accuracy less that of the chosen one, in [0, 1]; 0 is the best choice."""
    spearman: float | None
    """Spearman's rho with true accuracy over the checkpoints that have both, in [-1, 1], positive
    where the criterion points the right way; None for a constant or fewer than three."""
    compared: int
    """How many checkpoints have both."""


def pick(values: ArrayLike, *, higher_is_better: bool = True) -> int | None:
    """Position of the best of K values; the earliest of equal ones, never a NaN; None if all are.

    The earliest, because of two checkpoints that a criterion cannot tell apart the one with less
    training costs less.
    """
    signed = _signed(values, higher_is_better)
    return None if np.isnan(signed).all() else int(np.nanargmax(signed))


def rank_order(values: ArrayLike, *, higher_is_better: bool = True) -> list[int]:
    """Positions of K values, best first; the earlier of equal ones first, NaN last, none left out.
    """
    signed = _signed(values, higher_is_better)
    order = np.argsort(np.where(np.isnan(signed), np.inf, -signed), kind="stable")
    return [int(i) for i in order]


def judge_criterion(criterion: Criterion, accuracy: Sequence[float]) -> Judgement:
    """What choosing by the criterion is worth.

    Args:
        criterion: K values.
        accuracy: (K,) true accuracy of each checkpoint, NaN where it is not known.

    Raises:
        ParameterError: not one accuracy for each value.
    """
    signed = _signed(criterion.values, criterion.higher_is_better)
    truth = np.asarray(accuracy, dtype=np.float64)
    if truth.shape != signed.shape:
        raise ParameterError(
            f"criterion {criterion.name!r} has {signed.size} values for {truth.size} accuracies; "
            "expected one of each for every checkpoint")
    both = np.flatnonzero(~np.isnan(signed) & ~np.isnan(truth))
    picked = pick(criterion.values, higher_is_better=criterion.higher_is_better)
    own = None if picked is None or np.isnan(truth[picked]) else float(truth[picked])
    rho = float(spearman(signed[both, None], truth[both])[0])
    return Judgement(
        criterion.name, criterion.higher_is_better, picked, own,
        None if own is None else float(np.nanmax(truth)) - own,
        None if np.isnan(rho) else rho, len(both))


def _signed(values: ArrayLike, higher_is_better: bool) -> Array:
    given = np.asarray(values, dtype=np.float64)
    return given if higher_is_better else -given
