"""Where each out-of-fold step score, and each rule that needs none, puts the first error."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from validator.errors import LabelError
from validator.metrics import Resampler, Statistic
from validator.metrics.localization import (
    NO_ERROR,
    accuracy_statistic,
    f1_statistic,
    first_below,
    hits,
    lowest_steps,
    matched_weights,
    random_hits,
)
from validator.training.steps import CrossValidatedSteps

__all__ = ["BLIND", "LOCATION_METRICS", "Location"]

LOCATION_METRICS = {
    "lowest": "exact",
    "lowest_near": "within one step",
    "exact": "exact",
    "near": "within one step",
    "none": "no error seen",
    "f1": "F1",
    "f1_at_length": "F1 at equal length",
}
"""Every measure of a localisation and its name in tables. ``lowest``: accuracy on traces with an
error when the lowest step is named; ``exact``: when it is the first below a threshold; ``none``:
accuracy on traces without an error."""
BLIND = {"first": "always the first step", "usual": "most frequent in training",
         "random": "at random (expected)"}
"""Rules that look at no step."""

Chances = NDArray[np.float64]


@dataclass(frozen=True)
class Placed:
    """(n,) chances in [0, 1] that a rule is right about each trace."""

    lowest: Chances
    """When it has to name a step."""
    lowest_near: Chances
    exact: Chances
    """When it may find no error."""
    near: Chances


@dataclass(frozen=True)
class Location:
    """The n traces whose first error is known, and what each rule says of them."""

    truth: NDArray[np.int64]
    """(n,) index of the first error, or NO_ERROR."""
    problems: NDArray[np.str_]
    """(n,)"""
    lengths: NDArray[np.int64]
    """(n,) tokens of the steps."""
    placed: Mapping[str, Placed]

    @classmethod
    def of(cls, oof: CrossValidatedSteps) -> Location | None:
        """The rules' predictions; None where no trace with an error can be judged."""
        table = oof.table
        first = np.array([rows[0] for rows in table.rows])
        judged = table.judged[oof.fold[first[table.judged]] >= 0]
        truth, fold = table.first_errors[judged], oof.fold[first[judged]]
        undecided = any(np.isnan(t).any() for t in oof.thresholds.values())
        if undecided or not (truth >= 0).any():
            return None
        placed = {
            key: _placed([s[table.rows[m]] for m in judged], oof.thresholds[key][fold], truth)
            for key, s in oof.scores.items()}
        sizes = table.sizes[judged]
        usual = np.minimum(oof.usual_error[fold], sizes - 1)
        blind = {"first": _named(np.zeros_like(truth), truth), "usual": _named(usual, truth),
                 "random": Placed(
                     random_hits(sizes, truth), random_hits(sizes, truth, 1),
                     random_hits(sizes, truth, with_none=True),
                     random_hits(sizes, truth, 1, with_none=True))}
        return cls(truth, table.problem_ids[first[judged]], table.trace_lengths[judged],
                   {**blind, **placed})

    def statistics(self, resampler: Resampler) -> dict[str, dict[str, Statistic | None]]:
        """Rule -> key of :data:`LOCATION_METRICS` -> statistic; None where it is undefined."""
        try:
            weights = matched_weights(self.lengths, self.truth)
        except LabelError:  # all traces have an error, or those that have none differ in length
            weights = None
        return {key: self._of_rule(placed, weights, resampler)
                for key, placed in self.placed.items()}

    def _of_rule(
        self, placed: Placed, weights: Chances | None, resampler: Resampler
    ) -> dict[str, Statistic | None]:
        wrong, fine = self.truth >= 0, self.truth == NO_ERROR
        found: dict[str, Statistic | None] = {
            metric: accuracy_statistic(
                getattr(placed, metric)[wrong], self.problems[wrong], resampler)
            for metric in ("lowest", "lowest_near", "exact", "near")}
        if not fine.any():
            return found | {"none": None, "f1": None, "f1_at_length": None}
        right = placed.exact, self.truth, self.problems, resampler
        return found | {
            "none": accuracy_statistic(placed.exact[fine], self.problems[fine], resampler),
            "f1": f1_statistic(*right),
            "f1_at_length": None if weights is None else f1_statistic(*right, weights)}


def _placed(
    scores: list[NDArray[np.float64]], thresholds: NDArray[np.float64], truth: NDArray[np.int64]
) -> Placed:
    lowest, below = lowest_steps(scores), first_below(scores, thresholds)
    return Placed(hits(lowest, truth), hits(lowest, truth, 1), hits(below, truth),
                  hits(below, truth, 1))


def _named(predicted: NDArray[np.int64], truth: NDArray[np.int64]) -> Placed:
    """The same answer whether or not it may be that there is no error."""
    exact, near = hits(predicted, truth), hits(predicted, truth, 1)
    return Placed(exact, near, exact, near)
