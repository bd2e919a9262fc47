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
from validator.metrics.effects import (
    EffectTable,
    benjamini_hochberg,
    cohens_d,
    cohens_d_statistic,
    effect_table,
    hedges_g,
    mann_whitney_p,
)
from validator.metrics.permutation import permutation_p
from validator.metrics.r_precision import r_precision, r_precision_statistic
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
from validator.metrics.selection_curve import SelectionCurves
from validator.metrics.selective import (
    ReliabilityBins,
    RiskCoverage,
    coverage_at_risk,
    excess_aurc,
    reliability_bins,
    risk_at_coverage,
    risk_coverage,
    selective_coverage_statistic,
    selective_risk_statistic,
)

__all__ = [
    "EffectTable",
    "Interval",
    "PerProblem",
    "ReliabilityBins",
    "Resampler",
    "RiskCoverage",
    "SelectionCurves",
    "Statistic",
    "auprc",
    "aurc",
    "auroc",
    "auroc_statistic",
    "benjamini_hochberg",
    "best_of_n",
    "brier",
    "clustered_interval",
    "cohens_d",
    "cohens_d_statistic",
    "coverage_at_risk",
    "ece",
    "effect_table",
    "excess_aurc",
    "first_answer",
    "hedges_g",
    "length_matched_auroc",
    "length_matched_statistic",
    "majority_vote",
    "mann_whitney_p",
    "mean_statistic",
    "oracle",
    "paired_difference",
    "permutation_p",
    "r_precision",
    "r_precision_statistic",
    "reliability_bins",
    "risk_at_coverage",
    "risk_coverage",
    "row_statistic",
    "selective_coverage_statistic",
    "selective_risk_statistic",
    "stratified_statistic",
    "weighted_vote",
    "within_problem_auroc",
    "within_problem_statistic",
    "within_problem_values",
]
