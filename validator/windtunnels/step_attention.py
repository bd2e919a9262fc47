"""What each head looks at when a step of one trace is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from validator.errors import TraceError
from validator.features.attention import attention_rows, captured_forward
from validator.features.encoding import encode_trace, max_positions
from validator.models.loading import LoadedModel
from validator.types import Trace
from validator.windtunnels.contract import Problem
from validator.windtunnels.tree import TreePathTunnel
from validator.windtunnels.tree_roles import tree_decisions

__all__ = ["StepAttention", "step_attention", "tree_marks"]


@dataclass(frozen=True, slots=True, eq=False)
class StepAttention:
    """The attention of every head at each of S steps."""

    layers: tuple[int, ...]
    """(L,) that have attention."""
    weights: NDArray[np.float64]
    """(L, H, S, T) in [0, 1]: the row of the token after which a step's last token is written; 0
    for what comes later."""
    tokens: tuple[str, ...]
    """(T,)"""
    steps: tuple[str, ...]
    """(S,) the text of each."""
    marks: Mapping[str, tuple[int | None, ...]] = field(default_factory=dict)
    """Name of a target -> (S,) the token it is at each step, None where the step has none."""


def step_attention(
    loaded: LoadedModel, trace: Trace, marks: Mapping[str, Sequence[int | None]] | None = None
) -> StepAttention:
    """Read one trace whole and keep the rows at which its steps are decided.

    Args:
        loaded: a transformers causal LM and its fast tokenizer.
        trace: with steps.
        marks: of each step, tokens worth pointing out, e.g. :func:`tree_marks`.

    Raises:
        TraceError: a trace without steps, or one that cannot be encoded.
        NoAttentionError: the model's attention cannot be read.
    """
    coded = encode_trace(trace, loaded.tokenizer, max_positions(loaded.model.config))
    if not coded.steps:
        raise TraceError(f"trace {trace.id!r} has no steps; give one with steps", trace_id=trace.id)
    queries = [end - 2 for _, end in coded.steps]
    ids = torch.tensor([coded.ids], device=next(loaded.model.parameters()).device)
    layers, rows = [], []
    for layer in attention_rows(captured_forward(loaded.model, ids, keep_logits=1)):
        layers.append(layer.layer)
        rows.append(_rows_at(layer.blocks, queries, len(coded.ids)))
    return StepAttention(
        tuple(layers), np.stack(rows),
        tuple(loaded.tokenizer.convert_ids_to_tokens(list(coded.ids))),
        tuple(trace.completion[start:end] for start, end in trace.steps or ()),
        {name: tuple(places) for name, places in (marks or {}).items()})


def _rows_at(blocks: Any, queries: Sequence[int], length: int) -> NDArray[np.float64]:
    """(H, S, T) the rows of these tokens."""
    found: dict[int, NDArray[np.float64]] = {}
    for block in blocks:
        for query in set(queries):
            if block.start <= query < block.start + block.weights.shape[2]:
                row = block.weights[0, :, query - block.start].cpu().double().numpy()
                found[query] = np.pad(row, ((0, 0), (0, length - row.shape[1])))
    return np.stack([found[query] for query in queries], axis=1)


def tree_marks(tunnel: TreePathTunnel, problem: Problem, style: str) -> dict[str, list[int | None]]:
    """Of each step of a solution in a token style, where the listed edge is that it follows, and
    the walk's own step that it takes up (see :data:`.tree_roles.TARGETS`).

    The middle token of an edge of three tokens stands for it.
    """
    trace, decisions = tree_decisions(tunnel, problem, style)
    text = trace.prompt + trace.completion

    def token(span: tuple[int, int] | None) -> int | None:
        if span is None:
            return None
        return len(text[:span[0]].split()) + (len(text[slice(*span)].split()) - 1) // 2

    steps = [d for d in decisions if d.stage != "end"]
    return {name: [token(d.targets.get(name)) for d in steps] for name in ("edge", "own")}
