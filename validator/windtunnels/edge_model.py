"""The one-layer model of edges as tokens, its embeddings put together from those of their ends.

A token ``13>25`` has the embedding [n(13) + a(>); n(25) + b(>)]: half of it for where the edge is
left and half for where it leads, as the columns of arXiv 2508.08222 hold a parent and a child. So a
few tens of vectors embed thousands of edges, and what is learned of a node holds for all its edges,
whichever way they are walked. Baked, each edge has a row of a plain table, and the model is a GPT-2
checkpoint like any other.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import GPT2Config, GPT2LMHeadModel

from validator.errors import ParameterError
from validator.windtunnels.symbols import BOS, EOS, PAD

__all__ = ["ComposedTable", "baked", "edge_model", "symbol_parts", "trained_parameters"]


def edge_model(
    symbols: Sequence[str], *, seed: int, width: int = 48, heads: int = 2, layers: int = 1,
    inner: int = 48, positions: int = 160, scale: float = 0.2,
) -> GPT2LMHeadModel:
    """A GPT-2 without positions whose token tables are composed; random weights.

    Position embeddings are zero and stay so: which edges are listed matters, not where.

    Args:
        symbols: of the tunnel's edge style.
        seed: of the weights.
        width: of the hidden states, even and a multiple of ``heads``.
        heads: of each layer.
        layers: of the model.
        inner: width of the feed-forward layers.
        positions: most tokens of a sequence.
        scale: standard deviation of the first weights, far above GPT-2's, which suits wide models.

    Raises:
        ParameterError: a width that cannot be halved or shared among the heads.
    """
    if width % 2 or width % heads:
        raise ParameterError(f"width must be even and a multiple of {heads} heads, got {width}")
    words = [PAD, BOS, EOS, *symbols]
    config = GPT2Config(
        vocab_size=len(words), n_embd=width, n_layer=layers, n_head=heads, n_inner=inner,
        n_positions=positions, initializer_range=scale, attn_pdrop=0.0, embd_pdrop=0.0,
        resid_pdrop=0.0, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        tie_word_embeddings=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = GPT2LMHeadModel(config)
        model.transformer.wte = ComposedTable(words, width, scale, head=False)
        model.lm_head = ComposedTable(words, width, scale, head=True)
    model.transformer.wpe.weight.data.zero_()
    model.transformer.wpe.weight.requires_grad_(False)
    return model.eval()


def symbol_parts(symbol: str) -> tuple[str, str, str]:
    """Where an edge is left, its sign, where it leads; what is no edge is whole, without sign."""
    match = re.fullmatch(r"(\w+)([<>=])(\w+)", symbol)
    return (symbol, "", "") if match is None else (match[1], match[2], match[3])


class ComposedTable(nn.Module):
    """An embedding table or an output layer, its rows composed of vectors of nodes and of signs.

    Args:
        words: (V,) symbols in the order of their ids.
        width: D, even.
        scale: standard deviation of the first weights.
        head: take states and give logits; else take ids and give embeddings.
    """

    place: Tensor
    """(V, 4) of each symbol the rows of its two ends and of its sign at either end."""

    def __init__(self, words: Sequence[str], width: int, scale: float, *, head: bool) -> None:
        super().__init__()
        self.head = head
        parts = [symbol_parts(word) for word in words]
        ends = {end: i for i, end in enumerate(dict.fromkeys(
            end for left, _, right in parts for end in (left, right)))}
        signs = {sign: i for i, sign in enumerate(dict.fromkeys(sign for _, sign, _ in parts))}
        self.ends = nn.Parameter(torch.randn(len(ends), width // 2) * scale)
        self.signs = nn.Parameter(torch.randn(2 * len(signs), width // 2) * scale)
        place = [(ends[left], ends[right], 2 * signs[sign], 2 * signs[sign] + 1)
                 for left, sign, right in parts]
        self.register_buffer("place", torch.tensor(place), persistent=False)

    @property
    def weight(self) -> Tensor:
        """(V, D) the table."""
        return self._rows(self.place)

    def _rows(self, place: Tensor) -> Tensor:
        halves = self.ends[place[..., :2]] + self.signs[place[..., 2:]]
        return halves.flatten(-2)

    def forward(self, given: Tensor) -> Tensor:
        """(..., D) embeddings of (...) ids, or (..., V) logits of (..., D) states."""
        if self.head:
            return functional.linear(given, self.weight)
        return self._rows(self.place[given])


def baked(model: Any) -> GPT2LMHeadModel:
    """The same function as a plain GPT-2: to be saved, loaded by anybody, and read.

    Args:
        model: from :func:`edge_model`.

    Raises:
        ParameterError: a model that has no composed tables.
    """
    tables = model.get_input_embeddings(), model.get_output_embeddings()
    if not all(isinstance(table, ComposedTable) for table in tables):
        raise ParameterError("only a model with composed tables can be baked; this one is plain "
                             "already: save it as it is")
    plain = GPT2LMHeadModel(copy.deepcopy(model.config))
    state = {name: tensor for name, tensor in model.state_dict().items()
             if not name.startswith(("transformer.wte.", "lm_head."))}
    state["transformer.wte.weight"], state["lm_head.weight"] = (t.weight.detach() for t in tables)
    plain.load_state_dict(state)
    return plain.eval()


def trained_parameters(model: nn.Module) -> int:
    """How many numbers training may change."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
