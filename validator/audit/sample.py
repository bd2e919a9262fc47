"""What is audited: labelled traces, with lengths in the finest unit known, and who they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from validator.errors import LabelError
from validator.types import FeatureMatrix, Trace

__all__ = ["Composition", "Sample", "SourceCount", "composition", "question_texts"]


@dataclass(frozen=True, slots=True)
class Sample:
    """N labelled traces. Made by :meth:`of_features` or :meth:`of_traces`.

    Lengths are tokens where features are known. Of text alone they are characters, white space at
    both ends not counted: that is formatting, and is looked at as such.
    """

    traces: tuple[Trace, ...]
    labels: NDArray[np.int64]
    """(N,) 1 valid, 0 invalid."""
    problems: NDArray[np.str_]
    """(N,) problem ids."""
    lengths: NDArray[np.float64]
    """(N,) of the completion, in :attr:`unit`."""
    question_lengths: NDArray[np.float64]
    """(N,) of the prompt in tokens, or of the question in characters."""
    unit: str
    features: FeatureMatrix | None
    """The labelled rows of the features, in the order of :attr:`traces`; None for text alone."""
    unlabelled: int
    """Traces that were left out because they have no label."""

    @classmethod
    def of_features(cls, features: FeatureMatrix) -> Sample:
        """The labelled rows of a feature matrix. Raises LabelError if one class is missing."""
        rows = _labelled(features.traces)
        known = features.take(rows)
        lengths = known.lengths.astype(np.float64)
        return cls(known.traces, known.labels, known.problem_ids, lengths[:, 1], lengths[:, 0],
                   "tokens", known, len(features) - len(rows))

    @classmethod
    def of_traces(cls, traces: Sequence[Trace]) -> Sample:
        """The labelled traces, read as text. Raises LabelError if one class is missing."""
        known = tuple(traces[i] for i in _labelled(traces))
        return cls(
            known, np.array([t.label for t in known], dtype=np.int64),
            np.array([t.problem_id for t in known], dtype=np.str_),
            np.array([len(t.completion.strip()) for t in known], dtype=np.float64),
            np.array([len(q) for q in question_texts(known)], dtype=np.float64),
            "characters", None, len(traces) - len(known))

    @property
    def sources(self) -> NDArray[np.str_]:
        """(N,) who wrote each completion."""
        return np.array([t.source for t in self.traces], dtype=np.str_)

    @property
    def words(self) -> NDArray[np.float64]:
        """(N,) words of each completion."""
        return np.array([len(t.completion.split()) for t in self.traces], dtype=np.float64)

    @property
    def steps(self) -> NDArray[np.float64]:
        """(N,) steps of each completion, or its lines where any trace has no steps."""
        if all(t.steps is not None for t in self.traces):
            return np.array([len(t.steps or ()) for t in self.traces], dtype=np.float64)
        lines = [sum(bool(line.strip()) for line in t.completion.splitlines())
                 for t in self.traces]
        return np.array(lines, dtype=np.float64)


@dataclass(frozen=True, slots=True)
class SourceCount:
    """One source: its traces and how many are valid."""

    source: str
    traces: int
    valid: int


@dataclass(frozen=True, slots=True)
class Composition:
    """What the sample is made of."""

    traces: int
    valid: int
    unlabelled: int
    problems: int
    smallest: int
    """Traces of the problem that has fewest."""
    median: float
    """Traces per problem."""
    largest: int
    mixed: int
    """Problems with a valid and an invalid trace; the others cannot count within problems."""
    sources: tuple[SourceCount, ...]
    """By falling number of traces."""
    statuses: Mapping[str, int]


def composition(sample: Sample) -> Composition:
    """Count classes, problems, sources and statuses."""
    _, index = np.unique(sample.problems, return_inverse=True)
    sizes, valid = np.bincount(index), np.bincount(index, sample.labels)
    traces = Counter(sample.sources.tolist())
    right = Counter(sample.sources[sample.labels == 1].tolist())
    return Composition(
        traces=len(sample.traces), valid=int(sample.labels.sum()), unlabelled=sample.unlabelled,
        problems=len(sizes), smallest=int(sizes.min()), median=float(np.median(sizes)),
        largest=int(sizes.max()), mixed=int(((valid > 0) & (valid < sizes)).sum()),
        sources=tuple(SourceCount(s, n, right[s]) for s, n in traces.most_common()),
        statuses=dict(Counter(t.status for t in sample.traces)),
    )


def question_texts(traces: Sequence[Trace]) -> list[str]:
    """Each prompt without the characters that all prompts share at their start and at their end.

    What is shared (exemplars, instructions, ``Answer:``) is no part of the question. Empty for
    all where every prompt is the same.
    """
    start = _shared([t.prompt for t in traces])
    end = _shared([t.prompt[start:][::-1] for t in traces])
    return [t.prompt[start:len(t.prompt) - end] for t in traces]


def _shared(texts: Sequence[str]) -> int:
    """Leading characters that all texts share: those of the first and the last in sorted order."""
    low, high = min(texts), max(texts)
    differ = (i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b)
    return next(differ, len(low))


def _labelled(traces: Sequence[Trace]) -> list[int]:
    rows = [i for i, t in enumerate(traces) if t.label is not None]
    valid = sum(traces[i].label == 1 for i in rows)
    if valid in (0, len(rows)):
        raise LabelError(f"{valid} of {len(rows)} labelled traces are valid ({len(traces)} traces "
                         "in all); an audit needs valid and invalid traces")
    return rows
