"""A statistic with its bootstrap draws, so that it can be averaged over models and compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from validator.metrics import Interval, Resampler, Statistic

__all__ = ["Draws"]


@dataclass(frozen=True, slots=True, eq=False)
class Draws:
    """One number, and what it is on B resamples of problems."""

    estimate: float
    values: NDArray[np.float64]
    """(B,) NaN where a resample leaves it undefined."""

    @classmethod
    def of(cls, statistic: Statistic, resampler: Resampler) -> Draws:
        """The statistic on the data and on every resample."""
        whole = statistic(np.ones((1, len(resampler.problems)), dtype=np.int64))
        return cls(float(whole[0]), statistic(resampler.counts))

    @classmethod
    def mean(cls, parts: Sequence[Draws]) -> Draws:
        """The mean over models, whose problems were resampled apart.

        Its interval says how sure the mean over these models is, not what a further one would give.
        """
        return cls(float(np.mean([p.estimate for p in parts])),
                   np.mean([p.values for p in parts], axis=0))

    def __sub__(self, other: Draws) -> Draws:
        return Draws(self.estimate - other.estimate, self.values - other.values)

    def interval(self, level: float = 0.95) -> Interval:
        """Percentile interval of the defined draws."""
        usable = self.values[~np.isnan(self.values)]
        low, high = np.quantile(usable, [(1 - level) / 2, (1 + level) / 2])
        return Interval(self.estimate, float(low), float(high),
                        int(self.values.size - usable.size))
