"""Which examples look wrong, and why: never a verdict without its reasons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from validator.errors import FeatureMismatchError, ParameterError
from validator.plugins.clean.losses import TokenLosses
from validator.plugins.clean.scores import ExampleScores
from validator.types import Trace
from validator.unsupervised.ranks import mean_rank

__all__ = ["Flag", "LowScore", "flag_examples"]

Array = NDArray[np.float64]

LOW = 5.0
"""Percentile up to which another score is named among the reasons."""
SHOWN = 60
"""Characters of a step in the sentence."""


@dataclass(frozen=True, slots=True)
class LowScore:
    """One score of a flagged example."""

    name: str
    value: float
    percentile: float
    """In [0, 100]: how many of the other examples have a lower one, ties counting half."""


@dataclass(frozen=True, slots=True)
class Flag:
    """One suspicious example and the reasons."""

    id: str
    by: LowScore
    """The score it was flagged by."""
    also: tuple[LowScore, ...]
    """Other scores of which it is among the lowest, lowest first."""
    token: str
    """The completion's least likely token,"""
    token_index: int
    """counted from 0,"""
    token_surprisal: float
    """and minus its log-probability, nats."""
    step: str | None
    """The step whose tokens are the least likely on average; None where there are no steps."""
    step_index: int | None
    step_surprisal: float | None

    @property
    def reason(self) -> str:
        """The same as a sentence."""
        parts = [f"{self.by.name} {self.by.value:.3g}, percentile {self.by.percentile:.1f}"]
        if self.also:
            parts.append("also low: " + ", ".join(
                f"{s.name} ({s.percentile:.1f})" for s in self.also))
        parts.append(f"most surprising token {self.token!r} ({self.token_surprisal:.1f} nats)")
        if self.step is not None:
            text = self.step if len(self.step) <= SHOWN else self.step[: SHOWN - 3] + "..."
            parts.append(f"most surprising step {(self.step_index or 0) + 1} {text!r} "
                         f"({self.step_surprisal:.2f} nats a token)")
        return "; ".join(parts)

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {**asdict(self), "also": [asdict(s) for s in self.also], "reason": self.reason}


def flag_examples(
    found: ExampleScores, by: str, *, share: float | None = None, threshold: float | None = None,
) -> list[Flag]:
    """The examples with the lowest score, lowest first.

    Args:
        found: the scores.
        by: which score decides.
        share: of the examples that have this score, rounded to whole ones.
        threshold: those below it, in place of a share.

    Raises:
        FeatureMismatchError: there is no such score.
        ParameterError: not exactly one of share and threshold, or a share outside (0, 1).
    """
    if by not in found.scores:
        raise FeatureMismatchError(
            f"there is no score {by!r} for these examples; there are {', '.join(found.scores)}")
    if (share is None) == (threshold is None):
        raise ParameterError("give a share or a threshold, and not both")
    if share is not None and not 0 < share < 1:
        raise ParameterError(f"share must lie in (0, 1), got {share}")
    values, ranking = found.scores[by], found.ranking(by)
    known = np.flatnonzero(~np.isnan(values))
    order = known[np.argsort(ranking[known], kind="stable")]
    if threshold is not None:
        chosen = order[values[order] < threshold]
    else:
        chosen = order[: round((share or 0.0) * known.size)]
    places = {name: 100 * mean_rank([found.ranking(name)]) for name in found.scores}
    return [_flag(found, int(i), by, places) for i in chosen]


def _flag(found: ExampleScores, i: int, by: str, places: Mapping[str, Array]) -> Flag:
    lows = sorted((LowScore(n, float(v[i]), float(places[n][i]))
                   for n, v in found.scores.items() if not np.isnan(v[i])),
                  key=lambda s: s.percentile)
    own = next(s for s in lows if s.name == by)
    loss = found.losses[i]
    token = int(loss.given.argmin())
    step = _worst_step(found.traces[i], loss)
    return Flag(found.traces[i].id, own,
                tuple(s for s in lows if s.name != by and s.percentile <= LOW),
                loss.tokens[token], token, float(-loss.given[token]), *step)


def _worst_step(
    trace: Trace, loss: TokenLosses
) -> tuple[str, int, float] | tuple[None, None, None]:
    if not loss.steps:
        return None, None, None
    means = [loss.given[a:b].mean() for a, b in loss.steps]
    k = int(np.argmin(means))
    a, b = loss.steps[k]
    return "".join(loss.tokens[a:b]).strip(), k, float(-means[k])
