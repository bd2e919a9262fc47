"""How unlike a corpus of good traces a trace is, as a p-value, beside what length alone says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from validator.columns import Column
from validator.errors import FeatureMismatchError, ParameterError
from validator.metrics.inputs import as_groups
from validator.types import FeatureMatrix, Provenance
from validator.unsupervised.reference import ReferenceDistance

__all__ = ["BESIDE", "DISTANCE", "AnomalyReference", "fit_anomaly"]

Array = NDArray[np.float64]

DISTANCE = "distance"
BESIDE = ("typical_length", "mean_logprob", "min_logprob")
"""What stands beside the distance: ``typical_length`` is minus |log(length / median length)|, with
lengths in tokens of the completion and the median of the traces that were fitted."""
FEWEST = 5
"""Traces without which neither a distance nor a p-value is worth having."""


@dataclass(frozen=True, eq=False)
class AnomalyReference:
    """Good traces: some to measure distances from, the others to know which distances are usual."""

    distance: ReferenceDistance
    """Fitted."""
    median_length: float
    calibration: Mapping[str, Array]
    """Score -> (M,) ascending values of the M good traces that were not fitted."""
    lengths: tuple[int, int]
    """Shortest and longest completion of the good traces, tokens."""
    seed: int
    """Of the division."""

    @property
    def provenance(self) -> Provenance:
        """Of the features it was fitted on."""
        assert self.distance.provenance_ is not None
        return self.distance.provenance_

    @property
    def fitted(self) -> int:
        """How many traces distances are measured from."""
        return len(self.distance.rows_)

    @property
    def calibrated(self) -> int:
        """How many traces say which distances are usual."""
        return len(self.calibration[DISTANCE])

    @property
    def smallest_p(self) -> float:
        """The least p-value that there is: 1 / (M + 1)."""
        return 1 / (self.calibrated + 1)

    def score(self, features: FeatureMatrix) -> dict[str, Array]:
        """Score -> (N,); higher is more like the good traces.

        Raises:
            FeatureMismatchError: another model or feature set.
            ParameterError: some of the traces are among the fitted ones and some are not.
        """
        return _scores(self.distance, self.median_length, features)

    def p_values(self, scores: Mapping[str, Array]) -> dict[str, Array]:
        """Score -> (N,) conformal p-values in [1 / (M + 1), 1]; NaN where a score is NaN.

        (1 + number of the M calibration traces that score no higher) / (M + 1): for a trace drawn
        as the good ones were, P(p <= level) <= level (Bates et al. 2023, arXiv 2104.08279).
        With several traces of a problem this holds between problems only roughly.
        """
        found = {}
        for name, values in scores.items():
            known = self.calibration[name]
            below = np.searchsorted(known, values, side="right")
            found[name] = np.where(np.isnan(values), np.nan, (1 + below) / (known.size + 1))
        return found


def fit_anomaly(
    features: FeatureMatrix, *, method: str = "knn", calibration_share: float = 0.3, seed: int = 0,
) -> AnomalyReference:
    """Divide good traces by problem, fit a distance to the one part, look at the other's distances.

    Args:
        features: of good traces; labels are not looked at.
        method: one of :data:`validator.unsupervised.reference.METHODS`.
        calibration_share: of the problems whose traces are not fitted.
        seed: of the division and of the isolation forest.

    Raises:
        ParameterError: a share outside (0, 1), an unknown method, or fewer than 5 traces in a part.
        FeatureMismatchError: the baseline columns are missing.
    """
    if not 0 < calibration_share < 1:
        raise ParameterError(f"calibration_share must lie in (0, 1), got {calibration_share}")
    problems, index = as_groups(features.problem_ids, len(features))
    order = np.random.default_rng(seed).permutation(problems.size)
    held = (order < round(calibration_share * problems.size))[index]
    inside, outside = np.flatnonzero(~held), np.flatnonzero(held)
    if min(inside.size, outside.size) < FEWEST:
        raise ParameterError(
            f"{len(features)} traces of {problems.size} problems leave {inside.size} to fit and "
            f"{outside.size} to calibrate; each needs {FEWEST}, so give more good traces")
    fitted = features.take(inside)
    distance = ReferenceDistance(method, k=min(10, inside.size), random_state=seed).fit(fitted)
    median = float(np.median(fitted.lengths[:, 1]))
    usual = _scores(distance, median, features.take(outside))
    lengths = features.lengths[:, 1]
    return AnomalyReference(distance, median, {k: np.sort(v) for k, v in usual.items()},
                            (int(lengths.min()), int(lengths.max())), seed)


def _scores(
    distance: ReferenceDistance, median_length: float, features: FeatureMatrix
) -> dict[str, Array]:
    length = features.lengths[:, 1].astype(np.float64)
    scores = {DISTANCE: distance.score(features),
              "typical_length": -np.abs(np.log(length / median_length))}
    missing = [n for n in BESIDE[1:] if str(Column(n)) not in features.names]
    if missing:
        raise FeatureMismatchError(f"the features lack the baseline {missing[0]!r}; extract them "
                                   "with this package, which adds it to every feature set")
    for name in BESIDE[1:]:
        scores[name] = features.select([str(Column(name))])[:, 0].astype(np.float64)
    return scores
