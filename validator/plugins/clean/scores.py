"""Every score of training examples: losses, label-free, learned; none of them reads a label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from validator.errors import ModelError, TraceError
from validator.features.encoding import encode_readable, max_positions
from validator.plugins.clean.losses import LOSSES, TokenLosses, loss_scores, token_losses
from validator.scoring import Validator
from validator.types import FeatureMatrix, Progress, Trace
from validator.unsupervised import ReferenceDistance, score_label_free
from validator.unsupervised.ranks import mean_rank

__all__ = ["P_VALID", "SMALL_LOSS", "ExampleScores", "score_examples", "small_loss"]

Array = NDArray[np.float64]

P_VALID = "p_valid"
SMALL_LOSS = "small_loss"
"""Mean rank of all of :data:`validator.plugins.clean.losses.LOSSES`."""
DISTANCES = ("knn", "mahalanobis")
NEIGHBOURS = 10


@dataclass(frozen=True, eq=False)
class ExampleScores:
    """Scores of the N examples that could be read; higher is more valid."""

    traces: tuple[Trace, ...]
    losses: tuple[TokenLosses, ...]
    lengths: NDArray[np.int64]
    """(N,) tokens of the completions."""
    scores: Mapping[str, Array]
    """Name -> (N,), NaN where undefined."""
    unscorable: Mapping[str, str]
    """Trace id -> why it could not be read."""
    features: FeatureMatrix | None = None
    margins: Array | None = None
    """(N,) what examples of equal P(valid) are ranked by."""

    def ranking(self, name: str) -> Array:
        """(N,) what examples are ranked by under the score ``name``."""
        return self.margins if name == P_VALID and self.margins is not None else self.scores[name]


def score_examples(
    validator: Validator, traces: Sequence[Trace], *, attention: bool = True,
    progress: Progress | None = None,
) -> ExampleScores:
    """Score the examples that can be read.

    Args:
        validator: with a classifier, for ``p_valid``, or without.
        traces: ids distinct.
        attention: read it; without, only losses and lengths are there, for a third of the time.
        progress: called with (done, total) examples, once for losses and once for attention.

    Raises:
        FeatureMismatchError: the classifier is not for this model.
        TraceError: not one example can be read.
    """
    extractor = validator.prepare().extractor
    model, tokenizer = extractor.model_, extractor.tokenizer_
    encoded, reasons = encode_readable(traces, tokenizer, max_positions(model.config))
    readable = [e.trace for e in encoded]
    features, known = None, {}
    if attention and readable:
        features, readable, failed = _features(validator, readable, progress)
        reasons |= failed
        known = {} if failed else extractor.token_surprisals_
    if not readable:
        first = next(iter(reasons.items()), ("none", "there are no examples"))
        raise TraceError(f"not one of {len(traces)} examples can be read; {first[0]}: {first[1]}")
    losses = token_losses(model, tokenizer, readable, known=known, progress=progress)
    found = loss_scores(losses)
    scores = {**found, SMALL_LOSS: small_loss(found)}
    lengths = np.array([loss.given.size for loss in losses], dtype=np.int64)
    scores["completion_length"] = -lengths.astype(np.float64)
    margins = None
    if features is not None:
        scores |= {k: v for k, v in score_label_free(features).items() if k not in scores}
        scores |= _distances(features)
        margins = _learned(validator, features, scores)
    return ExampleScores(
        tuple(readable), tuple(losses), lengths, scores, reasons, features, margins)


def small_loss(losses: Mapping[str, Array]) -> Array:
    """(N,) in [0, 1] the mean rank over :data:`LOSSES`: high where all of the losses are small.

    Small-loss selection keeps what a model finds easy (Han et al. 2018, Co-teaching); ranks put
    losses of different scales together.
    """
    return mean_rank([losses[name] for name in LOSSES])


def _features(
    validator: Validator, traces: Sequence[Trace], progress: Progress | None
) -> tuple[FeatureMatrix | None, list[Trace], dict[str, str]]:
    """Features, the traces that have them, and why the others have none."""
    extractor = validator.extractor
    try:
        return extractor.transform(traces, progress=progress), list(traces), {}
    except (TraceError, ModelError) as error:
        failed: dict[str, str] = {}
        for trace in traces:
            try:
                extractor.transform([trace])
            except (TraceError, ModelError) as own:
                failed[trace.id] = str(own)
        good = [t for t in traces if t.id not in failed]
        if not good or not failed:
            raise error
        return extractor.transform(good), good, failed


def _distances(features: FeatureMatrix) -> dict[str, Array]:
    """Nearness to the examples themselves: that most of them are good is assumed, not known."""
    if len(features) < 2:
        return {}
    neighbours = min(NEIGHBOURS, len(features))
    return {f"distance_{m}": ReferenceDistance(m, k=neighbours).fit(features).score(features)
            for m in DISTANCES}


def _learned(
    validator: Validator, features: FeatureMatrix, scores: dict[str, Array]
) -> Array | None:
    """Put P(valid) among the scores; its margins, None without a classifier."""
    if validator.classifier is None:
        return None
    found = validator.score_features(features)
    scores[P_VALID] = np.array([np.nan if s.learned is None else s.learned for s in found])
    return np.array([np.nan if s.margin is None else s.margin for s in found])
