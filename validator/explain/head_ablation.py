"""Heads whose output is set to zero, and how scores and descriptors move without them.

The output projection of an attention module reads the heads' outputs side by side. Zeros in a
head's slice of that input are what zero columns of the projection's weights would do: the head
still attends, and nothing of what it gathers goes on.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from validator.errors import NoAttentionError, ParameterError
from validator.explain.grid import feature_grid
from validator.features.attention import attention_rows, captured_forward
from validator.features.extractor import SpectralFeatureExtractor
from validator.features.interface import layer_paths
from validator.scoring import Validator
from validator.types import FeatureMatrix, Progress, Trace

__all__ = ["Ablation", "HeadOutput", "ablate_heads", "chosen_heads", "head_outputs",
           "without_heads"]

Head = tuple[int, int]
"""True layer index, and index of the head in it."""

PROJECTIONS = ("o_proj", "c_proj", "out_proj", "dense", "wo")
"""What architectures call the projection of the heads' outputs; multilayer perceptrons use some of
these names too, so that a query projection has to stand beside it."""
QUERIES = ("q_proj", "q_a_proj", "q_b_proj", "c_attn", "qkv_proj", "query_key_value", "Wqkv", "wq",
           "query")
NOT_MOVED = ("completion_length", "ensemble")
"""Label-free scores that say nothing here: length is the same, and a rank among the traces scored
together is not a trace's own."""


@dataclass(frozen=True, slots=True)
class HeadOutput:
    """Where the outputs of a layer's heads lie side by side."""

    projection: torch.nn.Module
    """It reads (B, T, heads x width)."""
    heads: int
    width: int
    """Numbers of one head's output."""


def head_outputs(model: Any) -> dict[int, HeadOutput]:
    """The output projection of each layer that has attention.

    Raises:
        NoAttentionError: the model's attention cannot be read, or a layer with attention has not
            exactly one projection whose input divides into its heads.
    """
    counts = _head_counts(model)
    found: dict[int, list[HeadOutput]] = {layer: [] for layer in counts}
    paths = layer_paths(model)
    for module in model.modules():
        layer = paths.get(id(module))
        projection = _projection(module)
        if layer in found and projection is not None:
            size = _inputs(projection)
            if size % counts[layer] == 0:
                found[layer].append(
                    HeadOutput(projection, counts[layer], size // counts[layer]))
    for layer, outputs in found.items():
        if len(outputs) != 1:
            raise NoAttentionError(
                f"layer {layer} of {type(model).__name__}: expected one output projection "
                f"({', '.join(PROJECTIONS)}) that reads {counts[layer]} heads, got {len(outputs)}; "
                "heads of this architecture cannot be ablated")
    return {layer: outputs[0] for layer, outputs in found.items()}


def _head_counts(model: Any) -> dict[int, int]:
    """Layer -> how many heads its attention maps have, seen on two tokens."""
    ids = torch.zeros(1, 2, dtype=torch.long, device=model.device)
    return {layer.layer: int(next(iter(layer.blocks)).weights.shape[1])
            for layer in attention_rows(captured_forward(model, ids, keep_logits=1))}


def _projection(module: torch.nn.Module) -> torch.nn.Module | None:
    parts = dict(module.named_children())
    if not any(name in parts for name in QUERIES):
        return None
    return next((parts[name] for name in PROJECTIONS if name in parts), None)


def _inputs(projection: torch.nn.Module) -> int:
    """Width of what it reads: of a Linear, or of GPT-2's Conv1D, whose weight is (in, out)."""
    size = getattr(projection, "in_features", None)
    if size is None:
        weight = getattr(projection, "weight", None)
        size = weight.shape[0] if isinstance(weight, Tensor) and weight.ndim == 2 else 1
    return int(size)


def chosen_heads(
    outputs: Mapping[int, HeadOutput], layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
) -> tuple[Head, ...]:
    """Each of the named heads of each of the named layers, ascending; None for all.

    Raises:
        ParameterError: a layer or head that the model does not have.
    """
    unknown = sorted(set(layers or ()) - set(outputs))
    if unknown:
        raise ParameterError(
            f"no layer {unknown[0]} has attention; those that have: "
            f"{', '.join(map(str, sorted(outputs)))}")
    within = sorted(set(outputs if layers is None else layers))
    fewest = min(outputs[layer].heads for layer in within)
    wrong = [h for h in heads or () if not 0 <= h < fewest]
    if wrong:
        raise ParameterError(f"no head {wrong[0]}; heads of these layers are 0 to {fewest - 1}")
    return tuple(
        (layer, head) for layer in within
        for head in sorted(set(range(outputs[layer].heads) if heads is None else heads)))


@contextmanager
def without_heads(
    outputs: Mapping[int, HeadOutput], heads: Sequence[Head]
) -> Iterator[None]:
    """While it lasts, these heads of the model give zeros; afterwards nothing is left on it.

    Args:
        outputs: from :func:`head_outputs` of the model.
        heads: layer and head of each; none leaves the model as it is.
    """
    gone: dict[int, list[int]] = {}
    for layer, head in heads:
        gone.setdefault(layer, []).append(head)
    with ExitStack() as hooks:
        for layer, which in gone.items():
            handle = outputs[layer].projection.register_forward_pre_hook(
                _zeroes(outputs[layer].width, which))
            hooks.callback(handle.remove)
        yield


def _zeroes(width: int, heads: Sequence[int]) -> Callable[..., tuple[Any, ...]]:
    def hook(module: torch.nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        kept = args[0].clone()
        for head in heads:
            kept[..., head * width : (head + 1) * width] = 0
        return (kept, *args[1:])

    return hook


@dataclass(frozen=True, slots=True, eq=False)
class Ablation:
    """Q quantities of N traces, with all heads and without each of K heads."""

    heads: tuple[Head, ...]
    """(K,)"""
    quantities: tuple[str, ...]
    """(Q,) ``p_valid`` and ``log_odds`` where there is a classifier, label-free scores by name, and
    the descriptors of :func:`validator.explain.grid.feature_grid`, each averaged over layers."""
    traces: tuple[Trace, ...]
    plain: NDArray[np.float64]
    """(N, Q); NaN where undefined for a trace."""
    ablated: NDArray[np.float64]
    """(K, N, Q)"""

    @property
    def changes(self) -> NDArray[np.float64]:
        """(K, N, Q) without the head, less with it."""
        return self.ablated - self.plain


def ablate_heads(
    scorer: Validator, traces: Sequence[Trace], heads: Sequence[Head], *,
    outputs: Mapping[int, HeadOutput] | None = None, progress: Progress | None = None,
) -> Ablation:
    """Read the traces once as the model is, and once without each of the heads.

    It costs len(heads) + 1 readings of all traces. No feature store is read or written.

    Args:
        scorer: reads, and scores where it has a classifier of whole traces.
        traces: at least one, ids distinct.
        heads: each set to zero alone; see :func:`chosen_heads`.
        outputs: from :func:`head_outputs`, if they are known.
        progress: called with (done, total) readings.

    Raises:
        NoAttentionError: as :func:`head_outputs`.
        ParameterError: no heads, or a classifier of steps.
    """
    if not heads:
        raise ParameterError("no heads to ablate; name at least one")
    scorer.prepare()
    if scorer.of_steps:
        raise ParameterError("the classifier was trained on steps; give one of whole traces")
    extractor = copy.copy(scorer.extractor)
    extractor.store = None  # rows of a model with a head less must never be filed as the model's
    outputs = head_outputs(extractor.model_) if outputs is None else outputs
    tick = progress or (lambda done, total: None)
    names, plain = _quantities(scorer, extractor, traces)
    tick(1, len(heads) + 1)
    ablated = np.empty((len(heads), *plain.shape))
    for k, head in enumerate(heads):
        with without_heads(outputs, [head]):
            ablated[k] = _quantities(scorer, extractor, traces)[1]
        tick(k + 2, len(heads) + 1)
    return Ablation(tuple(heads), names, tuple(traces), plain, ablated)


def _quantities(
    scorer: Validator, extractor: SpectralFeatureExtractor, traces: Sequence[Trace]
) -> tuple[tuple[str, ...], NDArray[np.float64]]:
    """(Q,) names and (N, Q) values."""
    features = extractor.transform(traces)
    found: dict[str, NDArray[np.float64]] = {}
    scores = scorer.score_features(features)
    if scorer.classifier is not None:
        found["p_valid"] = np.array([s.learned for s in scores], dtype=np.float64)
        found["log_odds"] = np.array([s.margin for s in scores], dtype=np.float64)
    for name in scores[0].unsupervised:
        if name not in NOT_MOVED:
            found[name] = np.array([s.unsupervised[name] for s in scores])
    found |= _descriptors(features)
    return tuple(found), np.stack(list(found.values()), axis=1)


def _descriptors(features: FeatureMatrix) -> dict[str, NDArray[np.float64]]:
    """Descriptor -> (N,) its mean over the layers that have it."""
    rows, _, grid = feature_grid(features)
    values = grid.astype(np.float64)
    found = {}
    for i, row in enumerate(rows):
        there = ~np.isnan(values[:, i]).all(axis=0)  # layers where any trace has it
        if there.any():
            found[row] = values[:, i, there].mean(axis=1)
    return found
