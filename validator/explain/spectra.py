"""One trace through the model: its tokens, and the attention graph of every layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from validator.errors import ParameterError, TraceError
from validator.explain.clusters import layer_graph
from validator.explain.data import LayerGraph, NullBand, TokenView
from validator.features.attention import CapturedForward, captured_forward
from validator.features.eigen import symmetric_eigh, symmetric_eigvalsh
from validator.features.encoding import EncodedTrace, encode_trace, max_positions
from validator.features.extractor import SpectralFeatureExtractor
from validator.features.featureset import FeatureSet, GraphFeatures
from validator.features.graph import laplacian, normalized_laplacian, symmetric_graph
from validator.features.head import plain_head
from validator.features.null import content_free_attention
from validator.features.plan import ReadPlan, View, request_rows
from validator.features.reader import completion_scores, layer_sums, like_weights
from validator.features.reduction import Request, RowSums
from validator.features.tokens import TokenScores

__all__ = ["FEWEST_TOKENS", "NULL", "SPANS", "TraceReading", "null_band", "read_trace"]

SPANS = ("completion", "whole")
FEWEST_TOKENS = 3
"""Tokens of the smallest graph that has a drawing in the plane."""
NULL = "recency"
"""The content-free graph nearest to real attention, which prefers what is near."""


@dataclass(frozen=True, slots=True, eq=False)
class TraceReading:
    """What one forward pass shows of a trace."""

    encoded: EncodedTrace
    span: tuple[int, int]
    """First token of the graphs, and the one after the last."""
    tokens: tuple[TokenView, ...]
    surprisal: NDArray[np.float64]
    """(K,) of the completion's tokens, nats."""
    graphs: tuple[LayerGraph, ...]
    heads: int
    """Heads that were averaged."""


def read_trace(
    extractor: SpectralFeatureExtractor, trace: Any, span: str = "completion", seed: int = 0
) -> TraceReading:
    """Run the model once and decompose the head-mean graph of each layer.

    Args:
        extractor: fitted; its model, layers and heads are used.
        trace: the trace.
        span: ``completion`` or ``whole``.
        seed: of k-means.

    Raises:
        ParameterError: another span.
        TraceError: the span has fewer than 3 tokens; or as the extractor.
    """
    if span not in SPANS:
        raise ParameterError(f"expected a span completion or whole, got {span!r}")
    model, tokenizer = extractor.model_, extractor.tokenizer_
    encoded = encode_trace(trace, tokenizer, max_positions(model.config))
    first = encoded.prompt_length if span == "completion" else 0
    if len(encoded.ids) - first < FEWEST_TOKENS:
        raise TraceError(f"trace {trace.id!r}: a graph of {len(encoded.ids) - first} tokens cannot "
                         f"be drawn; it takes {FEWEST_TOKENS} or more", trace_id=trace.id)
    plan = ReadPlan(FeatureSet("explain", 1, graphs=(GraphFeatures(spans=(span,)),)),
                    layers=extractor.plan_.layers, heads=extractor.plan_.heads)
    forward, request, scores = _forward(model, encoded, plan)
    surprisal = scores.surprisal.double().cpu().numpy()
    graphs, heads = _decomposed(forward, request, plan, seed)
    texts = _texts(trace.prompt, encoded.ids[: encoded.prompt_length], tokenizer)
    own = _texts(trace.completion, encoded.ids[encoded.prompt_length :], tokenizer)
    tokens = (*(TokenView(t, None) for t in texts),
              *(TokenView(t, float(s)) for t, s in zip(own, surprisal, strict=True)))
    return TraceReading(encoded, (first, len(encoded.ids)), tokens[first:], surprisal,
                        graphs, heads)


def null_band(first: int, last: int, heads: int, draws: int = 10) -> NullBand:
    """Spectra of content-free graphs of the tokens first..last-1, averaged over as many heads."""
    graphs = torch.stack([content_free_attention(NULL, first, last, heads, draw)
                          for draw in range(draws)])
    values = symmetric_eigvalsh(laplacian(graphs, "normalized"))
    return NullBand(NULL, values.cpu().numpy())


def _forward(
    model: Any, encoded: EncodedTrace, plan: ReadPlan
) -> tuple[CapturedForward, Request, TokenScores]:
    total, head = len(encoded.ids), plain_head(model)
    request = request_rows([View.of(encoded, False)], (), plan, 0, total, like_weights(model))
    forward = captured_forward(
        model, torch.tensor([encoded.ids], device=model.device), layers=plan.layers,
        keep_logits=1 if head is not None else encoded.completion_length + 1,
        consumer=lambda: RowSums(request, 0, total))
    return forward, request, completion_scores(forward, head, 0, encoded, total)


def _decomposed(
    forward: CapturedForward, request: Request, plan: ReadPlan, seed: int
) -> tuple[tuple[LayerGraph, ...], int]:
    """The span's head-mean graph of each layer, and how many heads were averaged."""
    layers, held, heads, found = [], [], 0, []
    for sums in layer_sums(forward, None, request, plan):
        assert sums.graph is not None
        layers.append(sums.layer)
        held.append(symmetric_graph(sums.graph[0].double().cpu()))
        heads = sums.self_attention.shape[1]
    for first in range(0, len(held), torch.get_num_threads()):  # a matrix for each thread
        part = torch.stack(held[first : first + torch.get_num_threads()])
        values, modes = symmetric_eigh(normalized_laplacian(part))
        for i, graph in enumerate(part):
            found.append(layer_graph(layers[first + i], graph.numpy(), values[i].cpu().numpy(),
                                     modes[i].cpu().numpy(), seed))
    return tuple(found), heads


def _texts(text: str, ids: tuple[int, ...], tokenizer: Any) -> list[str]:
    """The characters of each token; joined, those of a text's own tokens are the text again.

    A token that the tokenizer adds, or whose characters the token before it has, gets none. A slow
    tokenizer does not tell which characters a token stands for: each is decoded by itself.
    """
    if not getattr(tokenizer, "is_fast", False):
        return [str(tokenizer.decode([i])) for i in ids]
    plain = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    added = len(ids) - len(plain["input_ids"])
    ends = [end for _, end in plain["offset_mapping"]]
    if ends:
        ends[-1] = len(text)
    done, texts = 0, [""] * added
    for end in ends:
        texts.append(text[done : max(done, end)])
        done = max(done, end)
    return texts
