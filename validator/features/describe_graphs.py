"""Descriptors of symmetric graphs: of a Laplacian's spectrum and of signals on its modes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from validator.columns import Column
from validator.features import descriptors as d
from validator.features.blocks import Block, over_ranges, z_scores
from validator.features.featureset import SINGULAR_DESCRIPTORS, TOKEN_SIGNALS, GraphFeatures
from validator.features.graph import cross_attention, preprocess
from validator.features.null import null_attention
from validator.features.spans import FROM_PROMPT, Range
from validator.features.spectra import Solver, Spectra

__all__ = ["GraphReading", "graph_blocks"]

MINIMUM_NODES = 3
OUTSIDE_COMPLETION = ("whole", "prompt", FROM_PROMPT)


@dataclass(frozen=True, slots=True)
class GraphReading:
    """The attention of L layers over one trace, and the signals on its tokens."""

    attention: Tensor
    """(L, n, n) head-mean or (L, H, n, n), of the last n of T tokens."""
    start: int
    """T - n, the first token of it."""
    prompt_length: int
    signals: Mapping[str, Tensor]
    """name -> (L, T, D) of every token, or (T, 1); token signals are 0 on the prompt."""
    heads: int
    """How many heads the model averages over."""


def graph_blocks(
    read: GraphReading, spans: Mapping[str, Sequence[Range]], features: GraphFeatures,
    last_tokens: int, solver: Solver,
) -> list[Block]:
    """Every descriptor of one entry of a feature set, for every span."""
    blocks: list[Block] = []
    for span in features.spans:
        def describe(found: Range | None, name: str) -> list[Block]:
            if found is None or found[1] - found[0] < 1:
                return _undefined(read, name, features, solver)
            return _of_range(read, found, name, features, solver)

        blocks += over_ranges(span, spans[span], last_tokens, describe)
    return blocks


def _of_range(
    read: GraphReading, found: Range, name: str, features: GraphFeatures, solver: Solver
) -> list[Block]:
    first, last = found
    attention = read.attention[..., first - read.start : last - read.start,
                               first - read.start : last - read.start]
    signals = {
        s: read.signals[s][..., first:last, :] for s in features.signals
        if not (s in TOKEN_SIGNALS and name in OUTSIDE_COMPLETION)
    }
    if features.heads == "each":
        signals = {s: x.unsqueeze(-3) if x.ndim == 3 else x for s, x in signals.items()}
    border = read.prompt_length - first
    if "drop_sink" in features.preprocess and first == 0:
        attention, border = attention[..., 1:, 1:], border - 1
        signals = {s: x[..., 1:, :] for s, x in signals.items()}
    if attention.shape[-1] == 0:
        return _undefined(read, name, features, solver)
    blocks = list(_of_attention(attention, border, name, signals, features, solver))
    for kind in features.nulls:
        blocks += _against_null(blocks, kind, read, found, name, signals, features, solver)
    return blocks


def _against_null(
    blocks: Sequence[Block], kind: str, read: GraphReading, found: Range, name: str,
    signals: Mapping[str, Tensor], features: GraphFeatures, solver: Solver,
) -> Iterator[Block]:
    """z-scores of the untransformed blocks against draws of a content-free graph."""
    plain = [b for b in blocks if not b.column.transform]
    heads = read.heads if features.heads == "mean" else 1
    skip = 1 if "drop_sink" in features.preprocess and found[0] == 0 else 0
    draws = []
    for draw in range(features.null_draws):
        null = null_attention(kind, read.attention, read.start, found, heads, draw)
        null = null[..., skip:, skip:]
        draws.append(list(_of_attention(null, 0, name, signals, features, solver)))
    return z_scores(plain, draws, kind)


def _of_attention(
    attention: Tensor, border: int, name: str, signals: Mapping[str, Tensor],
    features: GraphFeatures, solver: Solver,
) -> Iterator[Block]:
    attention = preprocess(attention, features.preprocess)
    if name == FROM_PROMPT:
        attention = cross_attention(attention, border)
    spectra = solver.spectra(attention, features.laplacian, signals)
    yield from _eigenvalue_blocks(spectra, name, features)
    by_mode = solver.has_modes and name != FROM_PROMPT
    for signal in signals:
        yield from _signal_blocks(spectra, name, signal, features, by_mode)
    if any(s in features.descriptors for s in SINGULAR_DESCRIPTORS):
        block = attention[..., border:, :border] if name == FROM_PROMPT else attention
        yield from _singular_blocks(block, name, features)


def _eigenvalue_blocks(spectra: Spectra, name: str, features: GraphFeatures) -> Iterator[Block]:
    for descriptor in features.descriptors:
        if descriptor == "fiedler_value":
            yield _block(features, descriptor, spectra.fiedler_value(), name)
        elif descriptor == "spectral_gap":
            for k in features.spectral_gaps:
                yield _block(features, descriptor, spectra.spectral_gap(k), name, "", k, "k")
        elif descriptor == "eigenvalue_quantile":
            shares = features.eigenvalue_quantiles
            for q, result in zip(shares, spectra.quantiles(shares), strict=True):
                yield _block(features, descriptor, result, name, "", q)
        elif descriptor == "eigenvalue_entropy":
            yield _block(features, descriptor, spectra.eigenvalue_entropy(), name)


def _signal_blocks(
    spectra: Spectra, name: str, signal: str, features: GraphFeatures, by_mode: bool
) -> Iterator[Block]:
    """Descriptors of one signal.

    A bipartite graph's Laplacian has one eigenvalue as many times as its sides differ in size, in
    the middle of its spectrum: energies of single modes there depend on the basis that a solver
    happens to return, and HFER and signal entropy with them. They are not offered for it.
    """
    for descriptor in features.descriptors:
        if descriptor == "hfer" and name != FROM_PROMPT:
            for c in features.hfer_cutoffs:
                yield _block(features, descriptor, spectra.hfer(signal, c), name, signal, c, "c")
        elif descriptor in ("roughness", "smoothness", "dirichlet_energy"):
            yield _block(features, descriptor, getattr(spectra, descriptor)(signal), name, signal)
        elif descriptor == "signal_entropy" and by_mode:
            yield _block(features, descriptor, spectra.signal_entropy(signal), name, signal)


def _singular_blocks(attention: Tensor, name: str, features: GraphFeatures) -> Iterator[Block]:
    """Singular values, in double precision: all of the map, zeros included."""
    values = torch.linalg.svdvals(attention.double()).cpu().numpy()
    for descriptor in features.descriptors:
        if descriptor == "singular_value_quantile":
            by_quantile = d.quantiles(values, features.eigenvalue_quantiles)
            for q, result in zip(features.eigenvalue_quantiles, by_quantile, strict=True):
                yield _block(features, descriptor, result, name, "", q)
        elif descriptor == "singular_value_entropy":
            yield _block(features, descriptor, d.eigenvalue_entropy(values), name)


def _undefined(
    read: GraphReading, name: str, features: GraphFeatures, solver: Solver
) -> list[Block]:
    """The same blocks as of a range, all NaN."""
    n = MINIMUM_NODES
    shape = (*read.attention.shape[:-2], n, n)
    blank = GraphReading(
        torch.eye(n, dtype=torch.float64).expand(shape), 0, 1,
        {s: torch.ones(n, 1, dtype=torch.float64) for s in read.signals}, read.heads)
    blocks = _of_range(blank, (0, n), name, features, solver)
    return [Block(b.column, np.full_like(b.values, np.nan)) for b in blocks]


def _block(features: GraphFeatures, descriptor: str, values: NDArray[np.float64], span: str,
           signal: str = "", parameter: float | None = None, key: str = "q") -> Block:
    head = None if features.heads == "mean" else 0
    return Block(
        Column(descriptor, 0, head, span, signal, parameter, key, features.options), values)
