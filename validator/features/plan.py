"""What is read of a trace: which columns, of which layers and heads, of which stretch of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from validator.errors import TraceError
from validator.features.encoding import EncodedTrace
from validator.features.featureset import FeatureSet
from validator.features.reduction import Request
from validator.features.spans import FROM_PROMPT, Range, trace_spans
from validator.features.spectra import ExactSolver, Solver
from validator.features.tokens import TokenScores

__all__ = ["ReadPlan", "View", "prefix_request", "request_rows", "token_signal"]


@dataclass(frozen=True, slots=True)
class ReadPlan:
    """Everything that decides a row's values besides its tokens and the model."""

    features: FeatureSet
    solver: Solver = field(default_factory=ExactSolver)
    layers: tuple[int, ...] | None = None
    """True layer indices, or None for all."""
    heads: tuple[int, ...] | None = None
    by_step: bool = False
    """One row per step instead of one per trace."""
    prefixes: tuple[int, ...] = ()
    """One row for the first so many tokens of each completion, and one for all of it."""

    def views(self, trace: EncodedTrace) -> list[View]:
        """What gets a row of its own."""
        if self.prefixes:
            return View.prefixes(trace, self.prefixes)
        return View.of(trace, self.by_step)

    @property
    def graph(self) -> str:
        """Which attention maps are kept: ``each`` head's, their ``mean``, or none."""
        kinds = {g.heads for g in self.features.graphs}
        return "each" if "each" in kinds else "mean" if kinds else ""

    @property
    def whole_graph(self) -> bool:
        """Whether the graph reaches back before the completion."""
        return any(
            {"whole", "prompt", FROM_PROMPT} & set(g.spans) or "permuted" in g.nulls
            for g in self.features.graphs)

    @property
    def attended(self) -> tuple[str, ...]:
        """Token signals that heads average."""
        return self.features.heads.attended if self.features.heads else ()

    @property
    def lookback(self) -> bool:
        """Whether the attention on the prompt is needed."""
        heads = self.features.heads
        return heads is not None and "lookback_ratio" in heads.descriptors

    @property
    def renyi(self) -> bool:
        """Whether Renyi entropies are needed."""
        heads = self.features.heads
        return heads is not None and "renyi_entropy" in heads.descriptors


@dataclass(frozen=True, slots=True)
class View:
    """A stretch of a trace that gets a row of its own: a prompt, and a completion that follows it.

    Causal attention does not see what comes later, so the row of a view is what a trace cut off
    at ``end`` with its prompt ending at ``border`` would get.
    """

    trace: EncodedTrace
    border: int
    end: int
    step: int | None = None
    """Number of the step that the view is about, or None for the whole completion."""

    @classmethod
    def of(cls, trace: EncodedTrace, by_step: bool) -> list[View]:
        """The trace itself; or each of its steps, seen from all that precedes it.

        Raises:
            TraceError: a step without tokens, naming it.
        """
        if not by_step:
            return [cls(trace, trace.prompt_length, len(trace.ids))]
        steps = trace.steps or ()
        for k, (first, last) in enumerate(steps):
            if first >= last:
                raise TraceError(
                    f"trace {trace.trace.id!r}: step {k} has no token of its own; merge it with "
                    "its neighbour", trace_id=trace.trace.id)
        return [cls(trace, first, last, k) for k, (first, last) in enumerate(steps)]

    @classmethod
    def prefixes(cls, trace: EncodedTrace, tokens: Sequence[int]) -> list[View]:
        """The trace cut after so many tokens of its completion, where it has more; and whole."""
        border, total = trace.prompt_length, len(trace.ids)
        ends = {border + k for k in tokens if border + k < total} | {total}
        return [cls(trace, border, end) for end in sorted(ends)]

    @property
    def cut(self) -> EncodedTrace:
        """The trace as the view sees it."""
        steps = self.trace.steps if self.step is None else ((self.border, self.end),)
        return EncodedTrace(self.trace.trace, self.trace.ids[: self.end], self.border, steps)

    def spans(self, features: FeatureSet) -> dict[str, list[Range]]:
        """Token ranges of the feature set's spans."""
        return trace_spans(self.cut, features.spans, features.last_tokens)

    def borders(self, features: FeatureSet) -> tuple[int, ...]:
        """Where some span ends, ascending."""
        ends = {last for ranges in self.spans(features).values() for _, last in ranges}
        return tuple(sorted(ends | {self.end}))


def token_signal(scores: TokenScores, name: str) -> Tensor:
    """The named signal of the completion's tokens, (K,)."""
    return scores.surprisal if name == "surprisal" else scores.entropy


def request_rows(
    views: Sequence[Sequence[View]], scores: Sequence[TokenScores], plan: ReadPlan,
    start: int, total: int, like: Tensor,
) -> Request:
    """What a batch of traces needs of the attention of its rows start..total-1.

    Args:
        views: of each trace; the v-th views of all traces share the v-th set of signals.
        scores: of each trace's completion; may be empty where heads average no token signals.
        plan: what is read.
        start: tokens of the shared prefix.
        total: tokens of the longest trace.
        like: a tensor of the wanted device and dtype.
    """
    borders = [[v.borders(plan.features) for v in own] for own in views]
    count = max(len(b) for own in borders for b in own)
    sets = max(len(own) for own in views)
    first = min(own[0].trace.prompt_length for own in views)
    received = torch.zeros(len(views), sets * count, total - start, dtype=torch.bool)
    looked = torch.zeros(len(views), sets, total, dtype=torch.bool)
    signals = torch.zeros(len(views), total - first, sets * len(plan.attended))
    for i, own in enumerate(views):
        for v, view in enumerate(own):
            for e, border in enumerate(borders[i][v]):
                received[i, v * count + e, : border - start] = True
            looked[i, v, : view.border] = True
            part = slice(view.border - view.trace.prompt_length,
                         view.end - view.trace.prompt_length)
            for s, name in enumerate(plan.attended):
                signals[i, view.border - first : view.end - first, v * len(plan.attended) + s] = (
                    token_signal(scores[i], name)[part])
    return Request(
        received.to(like.device), signals.to(like), looked.to(like.device) if plan.lookback
        else None, plan.heads, plan.renyi, plan.graph,
        0 if plan.whole_graph else min(v.border for own in views for v in own))


def prefix_request(plan: ReadPlan, start: int, total: int, like: Tensor) -> Request:
    """What the rows of a prefix are needed for: they precede every completion."""
    everything = torch.ones(1, 1, total - start, dtype=torch.bool, device=like.device)
    nothing = like.new_zeros(1, 0, 0)
    return Request(everything, nothing, None, plan.heads, plan.renyi,
                   plan.graph if plan.whole_graph else "", 0)
