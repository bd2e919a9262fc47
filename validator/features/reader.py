"""One batch of traces through the model: forward pass, layer by layer reduction, columns."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from validator.features.attention import CapturedForward, attention_rows, captured_forward
from validator.features.encoding import EncodedTrace
from validator.features.head import plain_head, scores_from_hidden
from validator.features.plan import ReadPlan, View, prefix_request, request_rows
from validator.features.reading import Reading, TraceFeatures
from validator.features.reduction import LayerSums, Request, RowSums, join, reduce_rows
from validator.features.tokens import TokenScores, token_scores

__all__ = [
    "Prefix", "completion_scores", "describe", "extend_prefix", "layer_sums", "like_weights",
    "read_batch",
]


@dataclass(frozen=True, slots=True)
class Prefix:
    """Leading tokens that several traces share, read once."""

    ids: tuple[int, ...]
    cache: Any
    sums: tuple[LayerSums, ...]


def extend_prefix(
    model: Any, prefix: Prefix | None, ids: Sequence[int], plan: ReadPlan
) -> Prefix | None:
    """Read the tokens of ``ids`` after those of ``prefix``.

    Returns:
        The longer prefix, or None where the architecture's cache cannot be shared (sliding
        windows, recurrent states): the caller then reads each trace whole.
    """
    before = 0 if prefix is None else len(prefix.ids)
    tokens = torch.tensor([list(ids[before:])], device=model.device)
    past = None if prefix is None else copy.deepcopy(prefix.cache)
    request = prefix_request(plan, before, len(ids), like_weights(model))
    forward = captured_forward(
        model, tokens, past=past, keep_logits=1, keep_cache=True, layers=plan.layers,
        consumer=lambda: RowSums(request, before, len(ids)))
    if forward.cache is None:
        return None
    earlier = prefix.sums if prefix else None
    return Prefix(tuple(ids), forward.cache, tuple(layer_sums(forward, earlier, request, plan)))


def read_batch(
    model: Any, traces: Sequence[EncodedTrace], prefix: Prefix | None, plan: ReadPlan
) -> list[list[TraceFeatures]]:
    """Columns of each trace of a batch, in the order given.

    Args:
        model: a transformers causal LM.
        traces: all begin with the prefix's tokens and have a prompt longer than it.
        prefix: what they share, or None.
        plan: which columns.

    Returns:
        For each trace the rows of its views: one, or one per step.
    """
    start = 0 if prefix is None else len(prefix.ids)
    total = max(len(t.ids) for t in traces)
    ids = torch.zeros(len(traces), total - start, dtype=torch.long)
    for row, trace in zip(ids, traces, strict=True):
        row[: len(trace.ids) - start] = torch.tensor(trace.ids[start:])
    ids = ids.to(model.device)
    head = plain_head(model)
    keep = 1 if head is not None else total - min(t.prompt_length for t in traces) + 1
    # Unless token scores are averaged by the attention, it can be read while the model runs.
    early = None if plan.attended else request_rows(
        [plan.views(t) for t in traces], (), plan, start, total, like_weights(model))
    forward = captured_forward(
        model, ids, past=_past(prefix, len(traces)), keep_logits=keep, layers=plan.layers,
        consumer=None if early is None else lambda: RowSums(early, start, total))
    return describe(model, forward, traces, prefix.sums if prefix else None, plan, early)


def describe(
    model: Any, forward: CapturedForward, traces: Sequence[EncodedTrace],
    earlier: tuple[LayerSums, ...] | None, plan: ReadPlan, request: Request | None = None,
) -> list[list[TraceFeatures]]:
    """Columns of each trace of a batch that the model has run over.

    Args:
        model: the model that ran.
        forward: what it left behind, of tokens padded to the longest trace; logits of the token
            before each completion and of all that follow, where the model's head is not plain
            (:func:`validator.features.head.plain_head`). It is read here.
        traces: those of the batch.
        earlier: sums over the rows before ``forward.start``, of each layer; None where it is 0.
        plan: which columns.
        request: what ``forward.consumed`` was made with, if anything.
    """
    total = forward.start + forward.final.shape[1]
    head = plain_head(model)
    views = [plan.views(t) for t in traces]
    scores = [completion_scores(forward, head, i, t, total) for i, t in enumerate(traces)]
    if request is None:
        request = request_rows(views, scores, plan, forward.start, total, like_weights(model))
    readings = _readings(views, scores, plan)
    for sums in layer_sums(forward, earlier, request, plan):
        for own in readings:
            for reading in own:
                reading.add(sums)
    return [[reading.finish() for reading in own] for own in readings]


def _readings(
    views: Sequence[Sequence[View]], scores: Sequence[TokenScores], plan: ReadPlan
) -> list[list[Reading]]:
    sets = max(len(own) for own in views)
    return [
        [Reading(view, (i, v), sets, scores[i], plan) for v, view in enumerate(own)]
        for i, own in enumerate(views)
    ]


def layer_sums(
    forward: CapturedForward, earlier: tuple[LayerSums, ...] | None, request: Request,
    plan: ReadPlan,
) -> Iterator[LayerSums]:
    """Sums of each layer of a captured forward, which is read, joined to those of rows before."""
    for i, attention in enumerate(attention_rows(forward, plan.layers)):
        taken = cast(RowSums | None, forward.consumed.pop(attention.layer, None))
        yield join(earlier[i] if earlier else None, reduce_rows(attention, request, taken))


def like_weights(model: Any) -> Tensor:
    """A tensor of the device and dtype that weights are read in."""
    wide = torch.float64 if model.dtype == torch.float64 else torch.float32
    return torch.empty(0, dtype=wide, device=model.device)


def _past(prefix: Prefix | None, batch: int) -> Any:
    if prefix is None:
        return None
    cache = copy.deepcopy(prefix.cache)
    cache.batch_repeat_interleave(batch)
    return cache


def completion_scores(
    forward: CapturedForward, head: torch.nn.Module | None, row: int, trace: EncodedTrace,
    total: int,
) -> TokenScores:
    """Scores of the completion's tokens, each from what the model made of the token before it.

    Args:
        forward: with logits of those tokens, where ``head`` is None.
        head: from :func:`validator.features.head.plain_head`.
        row: which sequence of the batch.
        trace: its tokens.
        total: tokens of the padded sequence.
    """
    made_of = forward.logits[row] if head is None else forward.final[row]
    first = trace.prompt_length - 1 - (total - made_of.shape[0])
    targets = torch.tensor(trace.ids[trace.prompt_length :], device=made_of.device)
    made_of = made_of[first : first + len(targets)]
    if head is None:
        return token_scores(made_of, targets)
    return scores_from_hidden(head, made_of, targets)
