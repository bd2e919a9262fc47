"""What an anomaly score may be worth: whether it is a length meter, and what labels say of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from validator.audit.correlation import spearman
from validator.errors import LabelError, ParameterError
from validator.metrics import Interval, auroc_statistic, paired_difference
from validator.training.judge import Judge, Verdict
from validator.types import FeatureMatrix, Trace
from validator.unsupervised.anomaly import BESIDE, DISTANCE, AnomalyReference

__all__ = ["AnomalyReport", "AnomalyRow", "ScoredTrace", "judge_anomalies"]

METER = 0.5
"""|Spearman with length| above which a score is called a length meter."""


@dataclass(frozen=True, slots=True)
class ScoredTrace:
    """One new trace."""

    id: str
    scores: Mapping[str, float]
    """Higher is more like the good traces."""
    p_values: Mapping[str, float]
    anomalous: bool
    """By the distance, at the level asked for."""


@dataclass(frozen=True, slots=True)
class AnomalyRow:
    """One score of the new traces."""

    name: str
    flagged: float
    """Share of the traces whose p-value is at most the level."""
    length: float | None
    """Spearman's rho with the completion's tokens; None for a constant."""
    verdict: Verdict | None
    """By labels; None where there are none of both classes."""


@dataclass(frozen=True)
class AnomalyReport:
    """New traces beside a reference."""

    traces: tuple[ScoredTrace, ...]
    rows: tuple[AnomalyRow, ...]
    """The distance first, then what stands beside it."""
    over: Mapping[str, Interval]
    """Score beside it -> AUROC of the distance less that of the score, paired; empty without
    labels."""
    level: float
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values; an undefined number is null."""
        plain: dict[str, Any] = _finite(asdict(self))
        return plain


def judge_anomalies(
    reference: AnomalyReference, features: FeatureMatrix, *, level: float = 0.05,
    n_resamples: int = 1000, seed: int = 0,
) -> AnomalyReport:
    """Score new traces, and say what to make of the scores.

    Args:
        reference: fitted on good traces of the same kind.
        features: of new ones; labels are used where all traces have one.
        level: p-value up to which a trace is called anomalous.
        n_resamples: of problems, for intervals.
        seed: of the resamples.

    Raises:
        ParameterError: a level outside (0, 1), or traces of the reference among the new ones.
        FeatureMismatchError: another model or feature set than the reference's.
    """
    if not 0 < level < 1:
        raise ParameterError(f"level must lie in (0, 1), got {level}")
    scores = reference.score(features)
    p_values = reference.p_values(scores)
    judge = _judge(features, n_resamples, seed)
    length = spearman(np.column_stack(list(scores.values())), features.lengths[:, 1])
    rows = tuple(
        AnomalyRow(name, float(np.mean(p_values[name] <= level)),
                   None if np.isnan(rho) else float(rho),
                   None if judge is None else judge.verdict(_ranked(values)))
        for (name, values), rho in zip(scores.items(), length, strict=True))
    traces = tuple(
        ScoredTrace(t.id, {n: float(v[i]) for n, v in scores.items()},
                    {n: float(v[i]) for n, v in p_values.items()},
                    bool(p_values[DISTANCE][i] <= level))
        for i, t in enumerate(features.traces))
    over = {} if judge is None else {n: _over(judge, features.labels, scores, n) for n in BESIDE}
    return AnomalyReport(traces, rows, over, level, _warnings(
        reference, features, rows, over, p_values, level))


def _judge(features: FeatureMatrix, n_resamples: int, seed: int) -> Judge | None:
    if {t.label for t in features.traces} != {0, 1}:
        return None
    try:
        return Judge(features.labels, features.problem_ids, features.lengths[:, 1],
                     [None] * len(features), n_resamples, seed)
    except LabelError:
        return None


def _ranked(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(np.isnan(values), -np.inf, values)


def _over(judge: Judge, labels: NDArray[np.int64], scores: Mapping[str, NDArray[np.float64]],
          name: str) -> Interval:
    own, other = (auroc_statistic(labels, _ranked(scores[n]), judge.resampler)
                  for n in (DISTANCE, name))
    return paired_difference(own, other, judge.resampler)


def _warnings(
    reference: AnomalyReference, features: FeatureMatrix, rows: tuple[AnomalyRow, ...],
    over: Mapping[str, Interval], p_values: Mapping[str, NDArray[np.float64]], level: float,
) -> tuple[str, ...]:
    told = []
    if reference.smallest_p > level:
        told.append(f"{reference.calibrated} calibration traces give no p-value below "
                    f"{reference.smallest_p:.3f}, so that nothing is anomalous at {level}; fit on "
                    "more good traces.")
    if rows[0].length is not None and abs(rows[0].length) > METER:
        told.append(f"The distance follows length (Spearman {rows[0].length:+.2f}): it may be a "
                    "length meter. Compare it with typical_length, and at equal length.")
    shortest, longest = reference.lengths
    lengths = features.lengths[:, 1]
    outside = float(np.mean((lengths < shortest) | (lengths > longest)))
    if outside:
        told.append(f"{100 * outside:.0f}% of the completions have fewer than {shortest} or more "
                    f"than {longest} tokens, as no good trace has: length alone can make them "
                    "anomalous.")
    told += _against_beside(p_values, over, level)
    prompts = {t.prompt for t in features.traces}
    if not over:
        told.append(_unlabelled(features.traces))
    if len(prompts) == 1 and len(features) > 1:
        told.append("All traces have one prompt: what is said of them may hold for it alone.")
    return tuple(told)


def _against_beside(
    p_values: Mapping[str, NDArray[np.float64]], over: Mapping[str, Interval], level: float
) -> list[str]:
    own, told = p_values[DISTANCE] <= level, []
    for name in BESIDE:
        both = own & (p_values[name] <= level)
        if own.any() and both.sum() > own.sum() / 2:
            told.append(f"{name} alone flags {both.sum()} of the {own.sum()} anomalous traces.")
        if name in over and over[name].low <= 0:
            gain = over[name]
            said = "is worse than" if gain.high < 0 else "cannot be shown to beat"
            told.append(f"By the labels the distance {said} {name}: AUROC {gain.estimate:+.3f} "
                        f"[{gain.low:+.3f}, {gain.high:+.3f}].")
    return told


def _unlabelled(traces: tuple[Trace, ...]) -> str:
    known = sum(t.label is not None for t in traces)
    return (f"{known} of {len(traces)} traces have a label, not all or not of both classes: "
            "nothing here says that anomalous traces are invalid ones.")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
