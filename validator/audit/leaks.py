"""Does what should not matter tell the classes apart? One test each, one level for all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from validator.audit.alone import Folds, source_scores
from validator.audit.baselines import surface_texts
from validator.audit.formatting import FORMATTING, formatting_features
from validator.audit.judge import Judge
from validator.audit.ngrams import NgramTable
from validator.audit.permutation import (
    blind_folds,
    holm,
    label_aurocs,
    permutation_p_value,
    shuffled_labels,
)
from validator.audit.sample import Sample
from validator.errors import ParameterError
from validator.metrics import Interval, auroc

__all__ = ["LEVEL", "NOTABLE", "SEVERE", "Leak", "centred", "find_leaks", "severity",
           "standardised"]

Array = NDArray[np.float64]
Labels = NDArray[np.int64]

LEVEL = 0.05
"""Chance of any flag at all where labels have nothing to do with anything."""

FEWEST = 99

NOTABLE, SEVERE = 0.55, 0.70
"""Separation max(AUROC, 1 - AUROC) from which a significant leak is called so."""


@dataclass(frozen=True, slots=True)
class Leak:
    """One suspicion and its test."""

    key: str
    """``length``, ``question``, ``formatting``, ``source`` or ``surface``."""
    name: str
    """What separates the classes most, e.g. ``formatting (trailing newline)``."""
    auroc: Interval | None
    """Of that, signed: below one half, more of it means invalid. None where too few resamples of
    the problems hold both classes."""
    within: Interval | None
    """The same inside problems; None where no problem, or too few, hold both classes."""
    p_value: float
    """Of the permutation test of this suspicion alone."""
    adjusted: float
    """The same among all suspicions tested (Holm 1979)."""
    flagged: bool
    """``adjusted`` is at most :data:`LEVEL`."""
    severity: str
    """``slight``, ``notable`` or ``severe`` by the larger separation where flagged, else empty."""

    @property
    def sentence(self) -> str:
        """The finding in words."""
        parts = (("AUROC", self.auroc), ("within problems", self.within))
        numbers = ", ".join(f"{what} {i.estimate:.2f} [{i.low:.2f}, {i.high:.2f}]"
                            for what, i in parts if i is not None)
        if not self.flagged:
            return f"{self.name}: not shown to separate the classes ({numbers})"
        return f"{self.name} alone separates the classes: {numbers} ({self.severity})"


def standardised(statistics: Array, two_sided: bool = True) -> Array:
    """Distance of each statistic (1 + B, S) from its mean, in standard deviations.

    Mean and deviation are those of the real labels' row and the B shuffled ones together, which
    treats them alike and so keeps a test of the distances exact. What no shuffle moves is at 0.
    """
    distance = statistics - statistics.mean(axis=0)
    spread = statistics.std(axis=0)
    # Rounding alone is no spread.
    z: Array = np.zeros_like(distance)
    np.divide(distance, spread, out=z, where=spread > 1e-12)
    return np.abs(z) if two_sided else z


def centred(values: Array, problems: NDArray[Any]) -> Array:
    """Columns (N, K) less the mean of their problem: what differs inside problems."""
    _, index = np.unique(problems, return_inverse=True)
    counts = np.bincount(index)
    means = np.stack([np.bincount(index, column) / counts for column in values.T], axis=1)
    return np.asarray(values - means[index])


def find_leaks(sample: Sample, judge: Judge, *, n_permutations: int = 499, n_splits: int = 5,
               seed: int = 0, table: NgramTable | None = None) -> tuple[Leak, ...]:
    """Test completion length, question length, formatting, source and surface.

    Labels are shuffled under the scheme ``problems`` of
    :func:`validator.audit.permutation.shuffled_labels`. Lengths and formatting: AUROC of each
    number, as it is and less its problem's mean; the largest standardised distance from what
    shuffles give is compared with the largest of each shuffle (Westfall and Young 1993). Source,
    where there are several: the chi-squared distance of their shares of valid traces. Surface:
    the same two AUROC, one-sided, of an out-of-fold nearest-mean classifier on character 1-5-grams
    of question and answer. Holm's correction keeps the chance of any false flag at :data:`LEVEL`.

    Args:
        sample: labelled traces.
        judge: of the same sample; gives the intervals.
        n_permutations: shuffles, at least 99: the smallest of five p-values has to reach 0.01.
        n_splits: folds of surface and source.
        seed: of shuffles and folds.
        table: n-grams of :func:`surface_texts` where they have been counted before.
    """
    if n_permutations < FEWEST:
        raise ParameterError(f"n_permutations must be at least {FEWEST}, got {n_permutations}: "
                             "with fewer shuffles no leak could be significant among five tests")
    y = sample.labels
    labels = np.vstack([y, shuffled_labels(y, sample.problems, n_permutations, seed=seed)])
    folds = blind_folds(sample.problems, n_splits, seed)
    formatting = formatting_features([t.completion for t in sample.traces])
    lengths = {f"completion length in {sample.unit}": sample.lengths,
               "completion length in words": sample.words}
    question = {"question length": sample.question_lengths}
    looks = {f"formatting ({name})": column
             for name, column in zip(FORMATTING, formatting.T, strict=True)}
    found = [_scalars(key, columns, labels, sample.problems) for key, columns in
             (("length", lengths), ("question", question), ("formatting", looks))]
    if judge.several:
        found.append(_source(sample, labels, folds))
    table = table or NgramTable("char").fit(surface_texts(sample.traces))
    found.append(_surface(table, labels, folds, sample.problems))
    adjusted = holm([f.p_value for f in found])
    return tuple(_leak(f, y, judge, a) for f, a in zip(found, adjusted, strict=True))


def severity(*aurocs: float) -> str:
    """``slight``, ``notable`` or ``severe`` by the largest max(AUROC, 1 - AUROC)."""
    separation = max(max(a, 1 - a) for a in aurocs)
    return "severe" if separation >= SEVERE else "notable" if separation >= NOTABLE else "slight"


class _Found(NamedTuple):
    key: str
    name: str
    scores: Array
    p_value: float


def _scalars(key: str, columns: Mapping[str, Array], labels: Labels, problems: NDArray[Any]
             ) -> _Found:
    plain = np.column_stack(list(columns.values()))
    z = standardised(label_aurocs(np.hstack([plain, centred(plain, problems)]), labels))
    worst, top = int(z[0].argmax()) % len(columns), z.max(axis=1)
    return _Found(key, list(columns)[worst], plain[:, worst], permutation_p_value(top[0], top[1:]))


def _source(sample: Sample, labels: Labels, folds: Folds) -> _Found:
    names, index = np.unique(sample.sources, return_inverse=True)
    member = (index[:, None] == np.arange(len(names))).astype(np.float64)
    excess = labels @ member - labels.mean(axis=1, keepdims=True) * member.sum(axis=0)
    distance = (excess**2 / member.sum(axis=0)).sum(axis=1)
    return _Found("source", "source", source_scores(sample.sources, labels[0], folds),
                  permutation_p_value(distance[0], distance[1:]))


def _surface(table: NgramTable, labels: Labels, folds: Folds, problems: NDArray[Any]) -> _Found:
    scores = table.centroid_scores(labels, folds)
    inside = centred(scores.T, problems).T
    values = np.array([[auroc(y, a), auroc(y, b)]
                       for y, a, b in zip(labels, scores, inside, strict=True)])
    top = standardised(values, two_sided=False).max(axis=1)
    return _Found("surface", "text (character n-grams)", scores[0],
                  permutation_p_value(top[0], top[1:]))


def _leak(found: _Found, y: Labels, judge: Judge, adjusted: float) -> Leak:
    flagged = adjusted <= LEVEL
    pooled, within = judge.auroc(found.scores), judge.within(found.scores)
    known = [auroc(y, found.scores), *([within.estimate] if within else [])]
    return Leak(found.key, found.name, pooled, within, found.p_value, adjusted, flagged,
                severity(*known) if flagged else "")
