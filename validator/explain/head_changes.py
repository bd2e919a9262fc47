"""Mean changes under ablation, with intervals that resample whole problems."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from validator.explain.head_ablation import Ablation
from validator.metrics import Resampler

__all__ = ["Changes", "mean_changes", "separation_changes"]

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Changes:
    """Means and 95% percentile intervals over problems; NaN where nothing is defined."""

    mean: Array
    """(K, Q)."""
    low: Array
    """(K, Q)."""
    high: Array
    """(K, Q)."""


def mean_changes(found: Ablation, n_resamples: int = 1000, seed: int = 0) -> Changes:
    """Mean over traces of what each quantity changes by without each head.

    The interval is a percentile bootstrap that draws problems (Efron and Tibshirani 1993, ch. 13;
    Field and Welsh 2007), the same draws for every head and quantity. A trace for which a quantity
    is undefined does not count in it.

    Raises:
        LabelError: traces of one problem only.
    """
    return _changes(found, [np.ones(len(found.traces))], n_resamples, seed)


def separation_changes(
    found: Ablation, n_resamples: int = 1000, seed: int = 0
) -> Changes | None:
    """Mean change over valid traces less that over invalid ones; None unless both are there.

    Below 0 in a score of validity: without the head it tells valid from invalid less well.
    Raises LabelError as :func:`mean_changes`.
    """
    labels = np.array([-1 if t.label is None else t.label for t in found.traces])
    parts = [(labels == 1).astype(np.float64), (labels == 0).astype(np.float64)]
    if not all(part.any() for part in parts):
        return None
    return _changes(found, parts, n_resamples, seed)


def _changes(found: Ablation, parts: list[Array], n_resamples: int, seed: int) -> Changes:
    """Mean over the first part, less that over the second where there is one."""
    resampler = Resampler([t.problem_id for t in found.traces], n_resamples, seed)
    member = np.zeros((resampler.problems.size, len(found.traces)))
    member[resampler.index, np.arange(len(found.traces))] = 1.0
    changes = found.changes
    shape = (len(changes), changes.shape[2])
    estimate, low, high = (np.full(shape, np.nan) for _ in range(3))
    for k, own in enumerate(changes):  # (N, Q)
        means = [_means(resampler, member * part, own) for part in parts]
        value = means[0] if len(means) == 1 else means[0] - means[1]
        estimate[k] = value[0]
        known = ~np.isnan(value[0])
        low[k, known], high[k, known] = np.nanquantile(value[1:, known], [0.025, 0.975], axis=0)
    return Changes(estimate, low, high)


def _means(resampler: Resampler, member: Array, own: Array) -> Array:
    """(1 + B, Q) mean of the member rows: of all problems once, then of each draw."""
    counts = np.concatenate([np.ones((1, resampler.problems.size)), resampler.counts])
    top = counts @ (member @ np.nan_to_num(own))
    bottom = counts @ (member @ (~np.isnan(own)).astype(np.float64))
    means = np.full(top.shape, np.nan)
    np.divide(top, bottom, out=means, where=bottom > 0)
    return means
