"""A trace, a scorer and a reference -> an explanation."""

from __future__ import annotations

from collections.abc import Sequence

from validator.columns import BASELINES
from validator.errors import ParameterError
from validator.explain.compare import baseline_views, deviations, nearest, quantile_bands
from validator.explain.data import BaselineView, Explanation, Neighbour, Verdict
from validator.explain.reference import Reference
from validator.explain.spectra import null_band, read_trace
from validator.explain.verdict import judged, step_views
from validator.scoring import Validator
from validator.types import FeatureMatrix, Progress, Trace

__all__ = ["explain_trace"]

STAGES = 4


def explain_trace(
    scorer: Validator, trace: Trace, reference: Reference | FeatureMatrix, *,
    span: str = "completion", step_scorer: Validator | None = None, classifier: str | None = None,
    neighbours: int = 3, seed: int = 0, progress: Progress | None = None,
) -> Explanation:
    """Explain one trace.

    Args:
        scorer: reads and scores; without a classifier there is no P(valid).
        trace: at least 3 tokens in the span.
        reference: labelled traces of the same kind, at least 5 of them valid, read with the same
            model and feature set. The trace itself is left out of it.
        span: of the graphs that are shown: ``completion``, or ``whole`` with the prompt.
        step_scorer: a classifier of steps, for traces with steps.
        classifier: its name, for people.
        neighbours: how many valid and invalid ones are shown.
        seed: of k-means.
        progress: called with (done, total) stages.

    Raises:
        LabelError: fewer than 5 valid reference traces.
        FeatureMismatchError: reference, classifier and model do not belong together.
        TraceError: the trace cannot be read, or its graph cannot be drawn.
        ParameterError: a parameter out of its range.
    """
    if neighbours < 1:
        raise ParameterError(f"neighbours must be at least 1, got {neighbours}")
    tick = progress or (lambda done, total: None)
    scorer.prepare()
    reading = read_trace(scorer.extractor, trace, span, seed)
    tick(1, STAGES)
    features = scorer.extractor.transform([trace])
    tick(2, STAGES)
    if isinstance(reference, FeatureMatrix):
        reference = Reference.of(reference, "the features given")
    reference = reference.without(trace)
    own = reference.grid_of(features)[0]
    departs = deviations(reference, own)
    near, usual = nearest(reference, trace, own, neighbours)
    baselines = baseline_views(
        reference, features.select([f"{b}__baseline" for b in BASELINES])[0])
    verdict = judged(scorer, trace, features, classifier or "the classifier given", step_scorer)
    tick(3, STAGES)
    null = null_band(*reading.span, reading.heads)
    tick(4, STAGES)
    counts = (len(reference.where(1)), len(reference.where(0)))
    lengths = (int(features.lengths[0, 0]), int(features.lengths[0, 1]))
    return Explanation(
        trace, span, reading.tokens, reading.encoded.prompt_length - reading.span[0], lengths,
        reading.graphs, null, departs, quantile_bands(reference, span), baselines, near, usual,
        step_views(reading.encoded, reading.surprisal, verdict.step_chances), verdict,
        reference.name, counts, reference.provenance,
        _notes(trace, reference, baselines, near, usual, verdict, features), seed)


def _notes(
    trace: Trace, reference: Reference, baselines: Sequence[BaselineView],
    near: dict[int, tuple[Neighbour, ...]], usual: tuple[float, float], verdict: Verdict,
    features: FeatureMatrix,
) -> tuple[str, ...]:
    """What makes the numbers mean less than they seem to."""
    notes = []
    valid = reference.baselines[reference.where(1), BASELINES.index("completion_length")]
    length = next(b.value for b in baselines if b.name == "completion_length")
    if not valid.min() <= length <= valid.max():
        notes.append(
            f"The completion has {length:.0f} tokens; the valid reference traces have "
            f"{valid.min():.0f} to {valid.max():.0f}. Many descriptors follow length, so that what "
            "departs from their band may be length alone.")
    closest = min(n.distance for found in near.values() for n in found)
    if closest > usual[1]:
        notes.append(
            f"The nearest reference trace is {closest:.2f} away; within the reference the nearest "
            f"is {usual[0]:.2f} away at the median and {usual[1]:.2f} at the 95th percentile. The "
            "trace is of another kind than the reference"
            + (", and P(valid) may not hold for it." if verdict.p_valid is not None else "."))
    if not len(reference.where(0)):
        notes.append("The reference has no invalid traces: nothing shows what is usual for them.")
    reason = features.nan_reasons.get(trace.id)
    if reason is not None:
        notes.append(f"Some features are undefined for this trace: {reason}.")
    return tuple(notes)
