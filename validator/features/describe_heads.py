"""Descriptors of each head's attention, for which no eigensolver is needed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from validator.columns import Column
from validator.features import descriptors as d
from validator.features.blocks import Block, over_ranges
from validator.features.featureset import HeadFeatures
from validator.features.graph import directed_eigenvalues
from validator.features.spans import Range

__all__ = ["HeadReading", "head_blocks"]

QUANTILES = {
    "directed_eigenvalue": "directed_eigenvalue",
    "attention_eigenvalue": "self_attention",
    "attention_entropy": "row_entropy",
    "renyi_entropy": "renyi_entropy",
}
TOP = ("directed_eigenvalue", "attention_eigenvalue")


@dataclass(frozen=True, slots=True)
class HeadReading:
    """What was read of every head of L layers over one trace of T tokens."""

    column_sums: Tensor
    """(L, H, E, T) attention each token received from the tokens before each of E borders."""
    borders: tuple[int, ...]
    """(E,) ascending."""
    self_attention: Tensor
    """(L, H, T)."""
    row_entropy: Tensor
    """(L, H, T) nats."""
    renyi_entropy: Tensor | None
    """(L, H, T) nats."""
    attended: Tensor
    """(L, H, C, S) attention-weighted token signals of the completion's C tokens."""
    lookback: Tensor | None
    """(L, H, C) attention from the completion's tokens to the prompt, or None."""


def head_blocks(
    read: HeadReading, spans: Mapping[str, Sequence[Range]], features: HeadFeatures,
    last_tokens: int,
) -> list[Block]:
    """Every descriptor of the feature set, for every span."""
    blocks: list[Block] = []
    for span in features.spans:
        def describe(found: Range | None, name: str) -> list[Block]:
            if found is not None:
                return list(_of_range(read, found, name, features))
            template = _of_range(read, (read.borders[-1] - 1, read.borders[-1]), name, features)
            return [Block(b.column, np.full_like(b.values, np.nan)) for b in template]

        blocks += over_ranges(span, spans[span], last_tokens, describe)
    for i, signal in enumerate(features.attended):
        values = read.attended[..., i].double()
        for name, result in (("mean", values.mean(-1)), ("max", values.amax(-1)),
                             ("last", values[..., -1])):
            blocks.append(_block(f"attended_{name}", result.cpu().numpy(), "completion", signal))
    return blocks


def _of_range(
    read: HeadReading, found: Range, name: str, features: HeadFeatures
) -> Iterator[Block]:
    first, last = found
    for descriptor in features.descriptors:
        if descriptor in QUANTILES:
            values = _per_token(read, descriptor, first, last).double().cpu().numpy()
            for q, result in zip(features.quantiles, d.quantiles(values, features.quantiles),
                                 strict=True):
                yield _block(f"{descriptor}_quantile", result, name, parameter=q)
            if descriptor in TOP:
                for k, result in enumerate(d.largest(values, features.top), 1):
                    yield _block(f"{descriptor}_top", result, name, parameter=k, key="k")
        elif descriptor == "log_self_attention":
            yield _block(descriptor, _mean_log(read.self_attention[..., first:last]), name)
        elif read.lookback is not None and name not in ("whole", "prompt"):
            rows = read.lookback[..., first - read.borders[-1] + read.lookback.shape[-1] :]
            share = rows[..., : last - first].double().mean(-1)
            yield _block(descriptor, share.cpu().numpy(), name)


def _per_token(read: HeadReading, descriptor: str, first: int, last: int) -> Tensor:
    if descriptor == "directed_eigenvalue":
        return directed_eigenvalues(
            read.column_sums[:, :, read.borders.index(last), first:last],
            read.self_attention[..., first:last], last - first)
    values: Tensor = getattr(read, QUANTILES[descriptor])
    return values[..., first:last]


def _block(descriptor: str, values: NDArray[np.float64], span: str, signal: str = "",
           parameter: float | None = None, key: str = "q") -> Block:
    return Block(Column(descriptor, 0, 0, span, signal, parameter, key), values)


def _mean_log(attention: Tensor) -> NDArray[np.float64]:
    """Mean log self-attention (LLM-Check, NeurIPS 2024, eq. 4); zeros count as the smallest float.

    A softmax never gives exactly 0, but its float32 rounding can.
    """
    smallest = torch.finfo(torch.float32).tiny
    logs = attention.double().clamp_min(smallest).log()
    result: NDArray[np.float64] = logs.mean(-1).cpu().numpy()
    return result
