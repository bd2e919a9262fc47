"""A classifier of one's own examples against their corrupted copies, used on other problems.

No label is needed: the examples are taken as good, as most of them are, and each gets a corrupted
copy. Examples are scored by a classifier that saw neither them, nor their copies, nor another
example of the same problem.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone

from validator.classifier import ValidityClassifier
from validator.errors import FeatureMismatchError, LabelError
from validator.families import learned_names
from validator.metrics.inputs import as_groups
from validator.plugins.clean.planting import KINDS, plant_each
from validator.plugins.clean.scores import ExampleScores
from validator.scoring import Validator
from validator.types import FeatureMatrix, Progress, Trace

__all__ = ["PLANTED", "corrupted_copies", "planted_scores", "problem_halves", "with_planted"]

Array = NDArray[np.float64]

PLANTED = "planted"
"""The score's name."""


def with_planted(
    found: ExampleScores, validator: Validator, classifier: ValidityClassifier, *,
    kinds: Sequence[str] = KINDS, seed: int = 0, progress: Progress | None = None,
) -> ExampleScores:
    """The same with one score more: that of a classifier trained on planted corruption.

    Raises:
        FeatureMismatchError: the attention of the examples was not read.
        LabelError: too few problems, or examples in which nothing can be corrupted.
    """
    if found.features is None:
        raise FeatureMismatchError("planted corruption is told from its attention, which was not "
                                   "read; score the examples with attention")
    copies = corrupted_copies(found.traces, kinds, seed)
    if not copies:
        raise LabelError("nothing can be corrupted in these examples: no number, no three steps, "
                         "no second prompt; leave out the score of planted corruption")
    read = validator.extractor.transform(copies, progress=progress)
    scores = planted_scores(found.features, read, classifier, seed=seed)
    return replace(found, scores={**found.scores, PLANTED: scores})


def corrupted_copies(
    traces: Sequence[Trace], kinds: Sequence[str] = KINDS, seed: int = 0, parts: int = 2
) -> list[Trace]:
    """A copy of each trace that allows one; a mismatched prompt comes from its own part, so that
    no prompt is on both sides."""
    part = problem_halves([t.problem_id for t in traces], parts, seed)
    copies: list[Trace] = []
    for k in range(parts):
        own = [t for t, p in zip(traces, part, strict=True) if p == k]
        copies += plant_each(own, [t.prompt for t in own], seed, kinds)
    return copies


def planted_scores(
    examples: FeatureMatrix, copies: FeatureMatrix, classifier: ValidityClassifier, *,
    columns: Sequence[str] | None = None, parts: int = 2, seed: int = 0,
) -> Array:
    """(N,) log-odds of valid of each example, by a classifier trained on the other parts.

    Args:
        examples: as they are; labels are not looked at.
        copies: corrupted copies of some or all, of the same problems.
        classifier: unfitted; cloned.
        columns: what it reads; by default all but baselines and hidden states.
        parts: how many the problems are divided into.
        seed: of the division.

    Raises:
        FeatureMismatchError: examples and copies of different models or feature sets.
        LabelError: too few problems, or a part without copies in the others.
    """
    examples.provenance.require_equal(copies.provenance, "the copies' features")
    if examples.names != copies.names:
        raise FeatureMismatchError("examples and copies have different columns")
    names = learned_names(examples.names) if columns is None else tuple(columns)
    good, bad = examples.select(names), copies.select(names)
    part = problem_halves(
        [*examples.problem_ids.tolist(), *copies.problem_ids.tolist()], parts, seed)
    own, others = part[: len(examples)], part[len(examples):]
    scores = np.full(len(examples), np.nan)
    for k in range(parts):
        seen, copied, test = own != k, others != k, own == k
        if not test.any():
            continue
        if not seen.any() or not copied.any():
            raise LabelError(f"part {k + 1} of {parts} has no examples or no corrupted copies of "
                             "other problems to be judged by; give more problems")
        X = np.vstack([good[seen], bad[copied]])
        y = np.r_[np.ones(seen.sum(), dtype=np.int64), np.zeros(copied.sum(), dtype=np.int64)]
        groups = np.r_[examples.problem_ids[seen], copies.problem_ids[copied]]
        fitted = clone(classifier).fit(X, y, groups=groups)
        scores[test] = fitted.decision_function(good[test])
    return scores


def problem_halves(problem_ids: Sequence[str], parts: int, seed: int) -> NDArray[np.int64]:
    """(N,) part of each row, in 0 .. parts - 1, by problem; parts differ by one problem at most.

    Raises LabelError for fewer problems than parts.
    """
    problems, index = as_groups(problem_ids, len(problem_ids))
    if problems.size < parts:
        raise LabelError(f"{problems.size} problems cannot make {parts} parts; give examples of "
                         "more problems")
    order = np.random.default_rng(seed).permutation(problems.size)
    return (order % parts)[index].astype(np.int64)
