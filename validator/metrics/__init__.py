"""Statistics of a validity score: ranking, calibration, selection, and intervals over problems.

The positive class is valid (label 1) and a higher score means more valid, everywhere.
"""

from __future__ import annotations

from validator.metrics.bootstrap import (
    Interval,
    Resampler,
    Statistic,
    auroc_statistic,
    clustered_interval,
    length_matched_statistic,
    mean_statistic,
    paired_difference,
    row_statistic,
    stratified_statistic,
    within_problem_statistic,
)
from validator.metrics.calibration import aurc, brier, ece
from validator.metrics.ranking import (
    auprc,
    auroc,
    length_matched_auroc,
    within_problem_auroc,
    within_problem_values,
)
from validator.metrics.selection import (
    PerProblem,
    best_of_n,
    first_answer,
    majority_vote,
    oracle,
    weighted_vote,
)

__all__ = [
    "Interval",
    "PerProblem",
    "Resampler",
    "Statistic",
    "auprc",
    "aurc",
    "auroc",
    "auroc_statistic",
    "best_of_n",
    "brier",
    "clustered_interval",
    "ece",
    "first_answer",
    "length_matched_auroc",
    "length_matched_statistic",
    "majority_vote",
    "mean_statistic",
    "oracle",
    "paired_difference",
    "row_statistic",
    "stratified_statistic",
    "weighted_vote",
    "within_problem_auroc",
    "within_problem_statistic",
    "within_problem_values",
]
