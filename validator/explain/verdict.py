"""What the classifier says of one trace, and which features say it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from validator.classifier import ValidityClassifier
from validator.classifier.importance import shap_values
from validator.errors import ParameterError
from validator.explain.data import Contribution, Contributions, StepView, Verdict
from validator.features.encoding import EncodedTrace
from validator.scoring import Validator
from validator.types import FeatureMatrix, Trace, ValidityScore

__all__ = ["NONE", "judged", "step_views"]

NONE = "none"
"""Name of no classifier."""
SHOWN = 12


def judged(
    scorer: Validator, trace: Trace, features: FeatureMatrix, name: str,
    step_scorer: Validator | None = None,
) -> Verdict:
    """P(valid), its bounds, the contributions, and P(valid) of each step.

    Args:
        scorer: a classifier of steps judges the trace by the step least likely to be valid.
        trace: the trace.
        features: its one row.
        name: of the classifier.
        step_scorer: a classifier of steps beside one of traces.

    Raises:
        TraceError: a classifier of steps, and a trace without steps.
    """
    if scorer.classifier is None:
        return Verdict(NONE, no_contributions="no classifier was given",
                       step_chances=_chances(step_scorer, trace))
    rows, of = features, "the trace"
    chances = None if scorer.of_steps else _chances(step_scorer, trace)
    if scorer.of_steps:
        rows = scorer.extractor.transform_steps([trace])
    scores = scorer.score_features(rows)
    worst = int(np.argmin([s.learned or 0.0 for s in scores]))
    if scorer.of_steps:
        chances, of = _learned(scores), f"step {worst + 1}, the least likely to be valid"
    names = scorer.classifier_columns(rows.names)
    own = rows.take([worst]).select(names)
    found, reason = _contributions(scorer.classifier, own, names, of)
    return Verdict(name, scores[worst].learned, scores[worst].interval, found, reason, chances)


def _contributions(
    classifier: ValidityClassifier, row: NDArray[np.float32], names: tuple[str, ...], of: str
) -> tuple[Contributions | None, str]:
    """The Shapley values of (1, F) features, or why there are none."""
    try:
        values, bias = shap_values(classifier, row)
    except ParameterError as error:
        return None, str(error)
    order = np.argsort(-np.abs(values[0]), kind="stable")
    top = tuple(
        Contribution(names[i], None if np.isnan(row[0, i]) else float(row[0, i]),
                     float(values[0, i]))
        for i in order[:SHOWN] if values[0, i] != 0)
    rest = values[0, order[len(top):]]
    return Contributions(top, float(rest.sum()), int(np.count_nonzero(rest)), float(bias),
                         float(classifier.margin(row)[0]), of), ""


def _chances(scorer: Validator | None, trace: Trace) -> tuple[float, ...] | None:
    if scorer is None or not trace.steps:
        return None
    if not scorer.of_steps:
        raise ParameterError("the step classifier was trained on whole traces; give one that "
                             "`validator steps --save-artifact` wrote")
    scorer.prepare()
    return _learned(scorer.score_features(scorer.extractor.transform_steps([trace])))


def _learned(scores: list[ValidityScore]) -> tuple[float, ...]:
    return tuple(float(s.learned) for s in scores if s.learned is not None)


def step_views(
    encoded: EncodedTrace, surprisal: NDArray[np.float64], chances: tuple[float, ...] | None
) -> tuple[StepView, ...]:
    """Each step with its own log-probability, and P(valid) where a classifier of steps gave one.

    Args:
        encoded: the trace.
        surprisal: (K,) of the completion's tokens, nats.
        chances: one for each step, or None.
    """
    trace, views = encoded.trace, []
    for k, (first, last) in enumerate(encoded.steps or ()):
        start, end = (trace.steps or ())[k]
        own = surprisal[first - encoded.prompt_length : last - encoded.prompt_length]
        views.append(StepView(
            trace.completion[start:end], last - first, -float(own.mean()) if len(own) else None,
            None if chances is None else chances[k],
            None if trace.step_labels is None else trace.step_labels[k]))
    return tuple(views)
