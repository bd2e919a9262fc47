"""What was read of one trace -> its named columns.

Columns are produced as blocks, one per descriptor, over all layers (and heads) at once; the names
of a block come from the same place as its values, so they cannot drift apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from validator.columns import BASELINES, Column
from validator.features import descriptors as d
from validator.features.featureset import FeatureSet
from validator.features.graph import directed_eigenvalues, normalized_laplacian, symmetric_graph
from validator.features.spectrum import graph_spectrum

__all__ = ["Block", "block_names", "graph_blocks", "head_blocks"]


@dataclass(frozen=True, slots=True)
class Block:
    """One descriptor for all layers: values (L,) of head-mean graphs, or (L, H) per head."""

    column: Column
    """Its layer and head are those of the first entry."""
    values: NDArray[np.float64]


def block_names(blocks: Sequence[Block], layers: Sequence[int]) -> tuple[str, ...]:
    """Column names of the blocks' values, flattened layer by layer, baselines first."""
    heads = tuple(b.values.shape[1] if b.values.ndim == 2 else 0 for b in blocks)
    return _names(tuple(b.column for b in blocks), heads, tuple(layers))


@lru_cache(maxsize=8)
def _names(
    columns: tuple[Column, ...], heads: tuple[int, ...], layers: tuple[int, ...]
) -> tuple[str, ...]:
    names = [str(Column(name)) for name in BASELINES]
    for column, count in zip(columns, heads, strict=True):
        names += [
            str(replace(column, layer=layer, head=head))
            for layer in layers
            for head in (range(count) if count else (None,))
        ]
    return tuple(names)


def graph_blocks(
    head_mean: Tensor, span: str, signals: Mapping[str, Tensor], features: FeatureSet
) -> Iterator[Block]:
    """Symmetric normalized-Laplacian descriptors of head-mean graphs of L layers.

    Args:
        head_mean: (L, n, n) attention averaged over heads, restricted to the span's n tokens.
        span: its name.
        signals: name -> (L, n, D) or (n, D) graph signals.
        features: which descriptors.
    """
    spectrum = graph_spectrum(normalized_laplacian(symmetric_graph(head_mean)), signals)
    values = spectrum.eigenvalues.cpu().numpy()

    def block(descriptor: str, result: NDArray[np.float64], signal: str = "",
              parameter: float | None = None, key: str = "q") -> Block:
        return Block(Column(descriptor, 0, None, span, signal, parameter, key), result)

    yield block("fiedler_value", d.fiedler_value(values))
    for k in features.spectral_gaps:
        yield block("spectral_gap", d.spectral_gap(values, k), parameter=k, key="k")
    by_quantile = d.quantiles(values, features.eigenvalue_quantiles)
    for q, result in zip(features.eigenvalue_quantiles, by_quantile, strict=True):
        yield block("eigenvalue_quantile", result, parameter=q)
    yield block("eigenvalue_entropy", d.eigenvalue_entropy(values))
    for name, energy_tensor in spectrum.mode_energy.items():
        energy = energy_tensor.cpu().numpy()
        for cutoff in features.hfer_cutoffs:
            yield block("hfer", d.hfer(energy, cutoff), name, cutoff, "c")
        yield block("signal_entropy", d.signal_entropy(energy), name)
        if name == "hidden":
            yield block("smoothness", d.smoothness(values, energy), name)
        else:
            yield block("roughness", d.roughness(values, energy), name)


def head_blocks(
    per_head: Sequence[Tensor], prompt_length: int, features: FeatureSet
) -> Iterator[Block]:
    """Descriptors of each head, for which no eigensolver is needed.

    Args:
        per_head: column sums (L, H, T), the attention each token received; self-attention
            (L, H, T), the diagonal; row entropy (L, H, T), of each token's attention, nats; and
            attended (L, H, n, S), attention-weighted token signals of the n completion tokens.
        prompt_length: tokens before the completion.
        features: which descriptors.
    """
    column_sums, self_attention, row_entropy, attended = per_head
    length = column_sums.shape[-1]
    per_token = {
        "directed_eigenvalue": directed_eigenvalues(column_sums, self_attention, length),
        "attention_entropy": row_entropy,
    }
    for span in features.head_spans:
        first = prompt_length if span == "completion" else 0
        for name, tensor in per_token.items():
            by_quantile = d.quantiles(tensor[..., first:].cpu().numpy(), features.head_quantiles)
            for q, result in zip(features.head_quantiles, by_quantile, strict=True):
                yield _head_block(f"{name}_quantile", result, span, parameter=q)
        yield _head_block("log_self_attention", _mean_log(self_attention[..., first:]), span)
    for i, signal in enumerate(features.token_signals):
        values = attended[..., i].double()
        yield _head_block("attended_mean", values.mean(-1).cpu().numpy(), "completion", signal)
        yield _head_block("attended_max", values.amax(-1).cpu().numpy(), "completion", signal)
        yield _head_block("attended_last", values[..., -1].cpu().numpy(), "completion", signal)


def _head_block(descriptor: str, values: NDArray[np.float64], span: str, signal: str = "",
                parameter: float | None = None) -> Block:
    return Block(Column(descriptor, 0, 0, span, signal, parameter), values)


def _mean_log(attention: Tensor) -> NDArray[np.float64]:
    """Mean log self-attention (LLM-Check, NeurIPS 2024, eq. 4); zeros count as the smallest float.

    A softmax never gives exactly 0, but its float32 rounding can.
    """
    smallest = torch.finfo(torch.float32).tiny
    logs = attention.double().clamp_min(smallest).log()
    result: NDArray[np.float64] = logs.mean(-1).cpu().numpy()
    return result
