"""The way that is measured against: keep every layer's attention, then compute."""

from __future__ import annotations

from typing import Any

import torch

from validator.features.encoding import EncodedTrace
from validator.features.feature_set_files import load_feature_set
from validator.features.plan import ReadPlan, View, request_rows
from validator.features.reading import Reading, TraceFeatures
from validator.features.reduction import reduce_rows
from validator.features.tokens import token_scores
from validator.types import AttentionRows, LayerAttention

__all__ = ["store_all", "store_all_default"]


def store_all(model: Any, ids: torch.Tensor) -> Any:
    """Attentions and hidden states of every layer, as transformers offers them."""
    model.set_attn_implementation("eager")
    try:
        with torch.inference_mode():
            return model(ids, output_attentions=True, output_hidden_states=True, use_cache=False)
    finally:
        model.set_attn_implementation("sdpa")


def store_all_default(model: Any, trace: EncodedTrace) -> TraceFeatures:
    """The default columns from stored attentions."""
    plan = ReadPlan(load_feature_set("default"))
    output = store_all(model, torch.tensor([trace.ids], device=model.device))
    first, total = trace.prompt_length, len(trace.ids)
    scores = token_scores(output.logits[0, first - 1 : -1], torch.tensor(trace.ids[first:]))
    views = View.of(trace, by_step=False)
    request = request_rows([views], [scores], plan, 0, total, torch.empty(0))
    reading = Reading(views[0], (0, 0), 1, scores, plan)
    for layer, weights in enumerate(output.attentions):
        hidden = output.hidden_states[layer]
        blocks = iter([AttentionRows(weights, 0)])
        reading.add(reduce_rows(LayerAttention(layer, 0, hidden, None, blocks), request))
    return reading.finish()
