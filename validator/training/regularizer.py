"""A spectral term in the training loss: descriptors of the attention graphs, held or moved.

The descriptors are the extractor's, of the head-mean symmetric graph of each layer with its
normalized Laplacian, and gradients flow through them to the attention and the hidden states.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from validator.errors import ModelError, ParameterError
from validator.features.interface_rows import weights_with_gradient
from validator.training.regularizer_capture import Capture, Captured
from validator.training.regularizer_spans import cut_graphs, cut_signals, token_spans
from validator.training.regularizer_spectra import GraphBatch, graph_batch

__all__ = ["DESCRIPTORS", "DIRECTIONS", "SpectralRegularizer", "SpectralTerm"]

DESCRIPTORS = ("fiedler_value", "spectral_entropy", "hfer", "roughness")
"""What can be held or moved: ``fiedler_value``; ``spectral_entropy``, the extractor's
``eigenvalue_entropy``, in nats; ``hfer`` and ``roughness`` of the hidden states that enter a layer.
"""
OF_SIGNALS = ("hfer", "roughness")
DIRECTIONS = {"maximize": -1.0, "minimize": 1.0}
SPANS = ("completion", "sequence")
FEWEST = 2


@dataclass(frozen=True)
class SpectralRegularizer:
    """A term to add to a loss: weight * sum over targets of a mean over layers and sequences.

    A number as target adds (descriptor - target)^2, ``maximize`` minus the descriptor, ``minimize``
    the descriptor itself.

    Args:
        targets: descriptor -> number or direction; see :data:`DESCRIPTORS`.
        weight: of the term, 0 or more; with 0 the descriptors are only logged.
        layers: true indices of the layers, or None for all.
        span: ``completion``: the graph of the tokens whose labels are not -100; ``sequence``: of
            all tokens but padding.
        broadening: least gap between eigenvalues, in units of them, that HFER's derivative counts
            in full: it is steep without bound where the modes at its cutoff change places.

    Example::

        regularizer = SpectralRegularizer({"fiedler_value": 0.4, "hfer": "minimize"}, weight=0.1)
        with regularizer.watch(model) as term:
            loss = model(**batch).loss + term()
        loss.backward()
    """

    targets: Mapping[str, float | str]
    weight: float = 0.1
    layers: tuple[int, ...] | None = None
    span: str = "completion"
    broadening: float = 1e-4

    @contextmanager
    def watch(self, model: Any) -> Iterator[SpectralTerm]:
        """Set aside what the term is made of while the model runs inside this context.

        The model computes what it would without, and keeps its attention implementation, training
        flags and hooks. ``term()`` is of the last forward pass; passes under ``torch.no_grad`` are
        passed over, unless the context is entered in it.

        Args:
            model: a transformers causal LM on sdpa or eager attention, possibly inside PEFT or
                DistributedDataParallel. Gradient checkpointing must not be reentrant.

        Raises:
            ParameterError: an argument of the regularizer outside the values it may take.
            ModelError: a model that cannot be watched; reentrant checkpointing.
        """
        self._require()
        signals = any(name in self.targets for name in OF_SIGNALS)
        layers = None if self.layers is None else frozenset(self.layers)
        capture = Capture(model, layers, signals)
        with capture.attached():
            yield SpectralTerm(self, capture)

    def penalty(self, name: str, values: Tensor) -> Tensor:
        """What one descriptor adds, before the weight: a scalar, 0 where there are no values."""
        goal = self.targets[name]
        if len(values) == 0:
            return values.sum()
        return DIRECTIONS[goal] * values.mean() if isinstance(goal, str) else (
            values - goal).square().mean()

    def _require(self) -> None:
        unknown = [name for name in self.targets if name not in DESCRIPTORS]
        if unknown or not self.targets:
            raise ParameterError(f"targets must be some of {', '.join(DESCRIPTORS)}, got "
                                 f"{', '.join(map(repr, self.targets)) or 'none'}")
        for name, goal in self.targets.items():
            if goal not in DIRECTIONS if isinstance(goal, str) else not isfinite(goal):
                raise ParameterError(f"target of {name} must be a finite number, 'maximize' or "
                                     f"'minimize', got {goal!r}")
        if not 0 <= self.weight < float("inf"):
            raise ParameterError(f"weight must be 0 or more and finite, got {self.weight}")
        if not 0 < self.broadening < float("inf"):
            raise ParameterError(f"broadening must be above 0 and finite, got {self.broadening}")
        if self.span not in SPANS:
            raise ParameterError(f"span must be completion or sequence, got {self.span!r}")
        if self.layers is not None and not self.layers:
            raise ParameterError("no layers were asked for; name some, or pass None for all")


class SpectralTerm:
    """The term of a forward pass that was watched, and what it was made of."""

    def __init__(self, regularizer: SpectralRegularizer, capture: Capture) -> None:
        self.regularizer = regularizer
        self._capture = capture
        self._values: dict[str, Tensor] = {}
        self.undefined = 0
        """How many descriptors of the last term were left out of their means: spans of fewer than
        2 tokens, graphs without edges, signals without energy."""

    @property
    def values(self) -> dict[str, float]:
        """``term`` and the mean of each descriptor over layers and sequences, NaN if undefined."""
        return {name: float(value) for name, value in self._values.items()}

    def __call__(self, labels: Tensor | None = None) -> Tensor:
        """The term, a scalar in float32, or float64 for models in it.

        Args:
            labels: (B, T), -100 where not supervised; by default those the model was given.

        Raises:
            ParameterError: no forward pass, no labels for the span completion, or tokens of a span
                that do not follow each other.
            NoAttentionError: a layer that was asked for was not seen.
            ModelError: attention that is not finite, or no trained weight that the term depends on.
        """
        found = self._capture.take()
        query = next(iter(found.calls.values())).query
        with torch.autocast(query.device.type, enabled=False):
            described = self._described(found, found.labels if labels is None else labels)
            known = {name: values[~values.isnan()] for name, values in described.items()}
            total = torch.stack([self.regularizer.penalty(*item) for item in known.items()]).sum()
        kept = torch.float64 if query.dtype == torch.float64 else torch.float32
        term = (self.regularizer.weight * total).to(query.device, kept)
        self.undefined += sum(len(described[name]) - len(known[name]) for name in known)
        self._values = {"term": term.detach()}
        self._values |= {name: values.detach().mean() for name, values in known.items()}
        return term

    def _described(self, found: Captured, labels: Tensor | None) -> dict[str, Tensor]:
        """(layers x sequences,) of each descriptor, NaN where it is undefined."""
        query = next(iter(found.calls.values())).query
        first, size = (x.to(_double_device(query)) for x in token_spans(
            self.regularizer.span, (query.shape[0], query.shape[2]), found.mask, found.positions,
            labels))
        long = size >= FEWEST
        layers = [self._of_layer(found, layer, first, size, long)
                  for layer in sorted(found.calls)] if bool(long.any()) else []
        self.undefined = int((~long).sum()) * len(found.calls) * len(self.regularizer.targets)
        columns = {name: torch.cat([values[name] for values in layers]) if layers
                   else query.new_zeros(0) for name in self.regularizer.targets}
        if layers and self._capture.gradients and not any(
                c.requires_grad for c in columns.values()):
            raise ModelError("the spectral term depends on no trained weight: all that lies below "
                             f"the attention of layers {sorted(found.calls)} is frozen")
        return columns

    def _of_layer(
        self, found: Captured, layer: int, first: Tensor, size: Tensor, long: Tensor
    ) -> dict[str, Tensor]:
        """(b,) of each descriptor, for the b sequences whose spans are long enough."""
        first, size = first[long], size[long]
        start = int(first.min())
        weights = _double(weights_with_gradient(found.calls[layer], start).mean(1))[long]
        attention = cut_graphs(weights, first, size, start)
        if not bool(attention.isfinite().all()):
            raise ModelError(f"attention of layer {layer} is not finite; the training diverged: "
                             "lower the learning rate or the term's weight")
        graphs = graph_batch(attention, size)
        signal = None
        if layer in found.hidden:
            signal = cut_signals(_double(found.hidden[layer])[long], first, size)
        return {name: self._of_graphs(graphs, name, signal) for name in self.regularizer.targets}

    def _of_graphs(self, graphs: GraphBatch, name: str, signal: Tensor | None) -> Tensor:
        if name not in OF_SIGNALS:
            return graphs.fiedler_value() if name == "fiedler_value" else graphs.spectral_entropy()
        if signal is None:
            raise ModelError(f"the hidden states that {name} is of were not seen; this "
                             "architecture has no numbered layers")
        return (graphs.hfer(signal, self.regularizer.broadening) if name == "hfer"
                else graphs.roughness(signal))


def _double_device(values: Tensor) -> torch.device:
    """Where double precision is to be had: Apple's MPS has none."""
    return torch.device("cpu") if values.device.type == "mps" else values.device


def _double(values: Tensor) -> Tensor:
    return values.to(_double_device(values)).double()
