"""Hidden states pooled over spans: columns of the probe baseline, no spectra."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from validator.columns import Column
from validator.features.blocks import Block
from validator.features.featureset import FeatureSet, StateFeatures
from validator.features.spans import Range, span_name

__all__ = ["pooled_states", "state_blocks"]


def pooled_states(
    hidden: Tensor, spans: Mapping[str, Sequence[Range]], features: StateFeatures
) -> Tensor:
    """The hidden states of one layer, pooled.

    Args:
        hidden: (T, D) input hidden states of the layer.
        spans: token ranges, one per span.
        features: which spans and pools.

    Returns:
        (S, P, D) float32 or float64, for S spans and P pools.
    """
    wide = hidden if hidden.dtype == torch.float64 else hidden.float()
    parts = [wide[first:last] for s in features.spans for first, last in spans[s]]
    pools = [[p.mean(0) if pool == "mean" else p[-1] for pool in features.pools] for p in parts]
    return torch.stack([torch.stack(own) for own in pools])


def state_blocks(layers: Sequence[Tensor], features: FeatureSet) -> list[Block]:
    """One block per span, pool and coordinate, from (S, P, D) of each of L layers."""
    assert features.states is not None
    values = torch.stack(list(layers), -1).double().cpu().numpy()
    return [
        Block(Column(f"state_{pool}", 0, None, span_name(span, features.last_tokens),
                     parameter=d, parameter_key="d"), values[s, p, d])
        for s, span in enumerate(features.states.spans)
        for p, pool in enumerate(features.states.pools)
        for d in range(values.shape[2])
    ]
