"""Blocks of attention rows -> the few quantities per layer that every descriptor is made from.

Rows can come in any number of blocks, and the rows of a prefix that several sequences share are
reduced once and then joined with each sequence's own.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from validator.errors import ModelError
from validator.types import AttentionRows, LayerAttention

__all__ = ["LayerSums", "Request", "RowSums", "join", "reduce_rows"]


@dataclass(frozen=True, slots=True)
class Request:
    """What is wanted of the rows start..T-1 of B sequences padded to T tokens."""

    received_by: Tensor
    """(B, E, R) bool: the rows that each of E sums of received attention counts; no padding."""
    signals: Tensor
    """(B, C, S) token signals of the last C tokens, zero where not defined."""
    looked_back: Tensor | None = None
    """(B, V, T) bool: sets of keys whose share of attention is wanted, or None."""
    heads: tuple[int, ...] | None = None
    """The heads that are read, or None for all."""
    renyi: bool = False
    graph: str = ""
    """``mean`` or ``each``: keep the attention, averaged over heads or not; or nothing."""
    graph_start: int = 0
    """First row and key of what is kept."""


@dataclass(frozen=True, slots=True)
class LayerSums:
    """What is kept of one layer's attention for B sequences padded to T tokens."""

    layer: int
    column_sums: Tensor
    """(B, H, E, T) attention each token received from the rows that each sum counts."""
    self_attention: Tensor
    """(B, H, T) the diagonal A_ii."""
    row_entropy: Tensor
    """(B, H, T) Shannon entropy of each token's attention, nats."""
    renyi_entropy: Tensor | None
    """(B, H, T) Renyi entropy of order 2, -log sum_j A_ij^2, nats."""
    graph: Tensor | None
    """(B, n, n) head-mean attention or (B, H, n, n), of the last n tokens."""
    hidden: Tensor
    """(B, T, D) input hidden states of the layer."""
    value_norm: Tensor | None
    """(B, T) norm of each token's value vectors."""
    attended: Tensor
    """(B, H, C, S) sum_j A_ij x_j of each token signal."""
    lookback: Tensor | None
    """(B, H, C, V) share of each row's attention on the keys asked for."""


def reduce_rows(
    attention: LayerAttention, request: Request, taken: RowSums | None = None
) -> LayerSums:
    """Reduce the attention of one layer.

    Args:
        attention: its blocks are read here.
        request: what is wanted of it.
        taken: sums over the blocks that came before; usually none, or all.

    Returns:
        LayerSums over the rows given alone: R tokens on the row axis, T on the key axis; the graph
        has the rows given, from ``graph_start`` on, and all keys from there.

    Raises:
        ModelError: attention weights or hidden states that are not finite, naming layer and head.
    """
    total = attention.start + attention.hidden.shape[1]
    sums = RowSums(request, attention.start, total) if taken is None else taken
    for block in attention.blocks:
        sums.add(block)
    _require_finite(sums.columns, attention.layer)
    if not bool(torch.isfinite(attention.hidden).all()):
        raise ModelError(
            f"hidden states entering layer {attention.layer} hold NaN or infinity; load the model "
            "in float32, or check its weights")
    return LayerSums(
        attention.layer, sums.columns, _joined(sums.diagonal), _joined(sums.entropy),
        _joined(sums.renyi) if request.renyi else None, sums.graph, attention.hidden,
        attention.value_norm, sums.attended_signals(),
        None if request.looked_back is None else _joined(sums.lookback, -2),
    )


class RowSums:
    """The running sums over the row blocks of one layer."""

    columns: Tensor
    graph: Tensor | None

    def __init__(self, request: Request, start: int, total: int) -> None:
        self.request, self.start, self.total = request, start, total
        self.signals_from = total - request.signals.shape[1]
        self.diagonal: list[Tensor] = []
        self.entropy: list[Tensor] = []
        self.renyi: list[Tensor] = []
        self.attended: list[Tensor] = []
        self.lookback: list[Tensor] = []
        self.received: Tensor | None = None

    def add(self, block: AttentionRows) -> None:
        """Take the next rows."""
        weights, entropy = _wide(block.weights), block.entropy
        if self.request.heads is not None:
            chosen = list(self.request.heads)
            weights, entropy = weights[:, chosen], None if entropy is None else entropy[:, chosen]
        if self.received is None:
            self._allocate(weights)
        self._columns(weights, block.start)
        # A block may be written over by the next one.
        self.diagonal.append(weights.diagonal(offset=block.start, dim1=-2, dim2=-1).clone())
        self.entropy.append(torch.special.entr(weights).sum(-1) if entropy is None else entropy)
        if self.request.renyi:
            self.renyi.append(-weights.square().sum(-1).log())
        self._signals(weights, block.start)
        if self.graph is not None:
            self._keep(weights, block.start)

    def _allocate(self, weights: Tensor) -> None:
        batch, heads = weights.shape[:2]
        request = self.request
        self.received = request.received_by.to(weights.dtype).unsqueeze(1)
        self.columns = weights.new_zeros(batch, heads, request.received_by.shape[1], self.total)
        self.graph = None
        if request.graph:
            kept = () if request.graph == "mean" else (heads,)
            first = max(self.start, request.graph_start)
            keys = self.total - request.graph_start
            self.graph = weights.new_zeros(batch, *kept, self.total - first, keys)

    def _columns(self, weights: Tensor, first: int) -> None:
        assert self.received is not None
        rows = slice(first - self.start, first - self.start + weights.shape[2])
        self.columns[..., : weights.shape[-1]] += self.received[..., rows] @ weights

    def _signals(self, weights: Tensor, first: int) -> None:
        skip = max(0, self.signals_from - first)
        if skip >= weights.shape[2]:
            return
        rows, keys = weights[:, :, skip:], weights.shape[-1]
        values = self.request.signals[:, : keys - self.signals_from]
        own = rows[..., self.signals_from :]
        # A product with few columns is slower as a matrix product than one column at a time.
        sums = [(own * values[:, None, None, :, s]).sum(-1) for s in range(values.shape[-1])]
        self.attended.append(torch.stack(sums, -1) if sums else own.new_zeros(*own.shape[:3], 0))
        if self.request.looked_back is not None:
            seen = self.request.looked_back[..., :keys].to(weights.dtype)
            shares = [(rows * seen[:, None, None, v]).sum(-1) for v in range(seen.shape[1])]
            self.lookback.append(torch.stack(shares, -1))

    def attended_signals(self) -> Tensor:
        """(B, H, C, S) of the rows so far."""
        if self.attended:
            return _joined(self.attended, -2)
        signals = self.request.signals
        return self.columns.new_zeros(*self.columns.shape[:2], 0, signals.shape[-1])

    def _keep(self, weights: Tensor, first: int) -> None:
        assert self.graph is not None
        begin = self.request.graph_start
        skip = max(0, begin - first)
        if skip >= weights.shape[2]:
            return
        part = weights[:, :, skip:, begin:]
        offset = first + skip - max(self.start, begin)
        where = self.graph[..., offset : offset + part.shape[2], : part.shape[3]]
        if self.request.graph == "mean":
            torch.mean(part, 1, out=where)
        else:
            where.copy_(part)


def join(prefix: LayerSums | None, rows: LayerSums) -> LayerSums:
    """Put the rows of a shared prefix (B = 1) in front of the rows that follow it.

    The signals' rows all follow the prefix. Where the graph begins after the prefix, it is whole
    already.
    """
    if prefix is None:
        return rows
    batch = rows.column_sums.shape[0]

    def front(before: Tensor, after: Tensor, dim: int = -1) -> Tensor:
        return torch.cat([before.expand(batch, *before.shape[1:]), after], dim)

    def front_if(before: Tensor | None, after: Tensor | None) -> Tensor | None:
        return None if before is None or after is None else front(before, after)

    columns = rows.column_sums.clone()
    columns[..., : prefix.column_sums.shape[-1]] += prefix.column_sums
    return dataclasses.replace(
        rows,
        column_sums=columns,
        self_attention=front(prefix.self_attention, rows.self_attention),
        row_entropy=front(prefix.row_entropy, rows.row_entropy),
        renyi_entropy=front_if(prefix.renyi_entropy, rows.renyi_entropy),
        hidden=front(prefix.hidden, rows.hidden, 1),
        value_norm=front_if(prefix.value_norm, rows.value_norm),
        graph=_joined_graph(prefix.graph, rows.graph),
    )


def _joined_graph(prefix: Tensor | None, rows: Tensor | None) -> Tensor | None:
    if prefix is None or rows is None or prefix.shape[-2] == 0:
        return rows
    before, keys = prefix.shape[-2], rows.shape[-1]
    graph = rows.new_zeros(*rows.shape[:-2], before + rows.shape[-2], keys)
    graph[..., :before, :before] = prefix
    graph[..., before:, :] = rows
    return graph


def _wide(weights: Tensor) -> Tensor:
    return weights if weights.dtype == torch.float64 else weights.float()


def _joined(parts: list[Tensor], dim: int = -1) -> Tensor:
    return torch.cat(parts, dim)


def _require_finite(columns: Tensor, layer: int) -> None:
    finite = torch.isfinite(columns)
    if not bool(finite.all()):
        head = int((~finite).any(-1).any(-1).any(0).nonzero()[0])
        raise ModelError(
            f"attention of layer {layer}, head {head} holds NaN or infinity; load the model in "
            "float32, or check its weights")
