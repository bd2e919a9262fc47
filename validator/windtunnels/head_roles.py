"""Which head looks where, and when: at the next edge, at its own earlier step, at the root.

A walk of two stages needs two abilities that can be told apart: *traversal*, looking up what the
next step is made of, and *stage control*, noticing that a stage is over (arXiv 2508.08222). Each
head's attention is read at the token that decides a step, and summed over the tokens that the step
follows from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from validator.errors import ParameterError
from validator.features.attention import attention_rows, captured_forward
from validator.types import Trace
from validator.windtunnels.contract import Problem
from validator.windtunnels.tree import TreePathTunnel
from validator.windtunnels.tree_roles import STAGES, TARGETS, Decision, tree_decisions

__all__ = ["BestHead", "HeadRoles", "RoleRecord", "head_roles"]

Masses = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class BestHead:
    """The head with the most of something, by its true layer and its place in it."""

    layer: int
    head: int
    value: float


@dataclass(frozen=True, slots=True, eq=False)
class HeadRoles:
    """Mean attention mass by head, stage and target, over the decisions of all problems."""

    layers: tuple[int, ...]
    """(L,) the layers that have attention."""
    mass: Masses
    """(L, H, S, K) in [0, 1] for the stages and targets of :mod:`.tree_roles`; NaN where no
    decision of a stage has the target."""
    counts: NDArray[np.int64]
    """(S, K) decisions each mean is of."""

    def of(self, stage: str, target: str) -> Masses:
        """(L, H) the masses of one stage on one target. Raises ParameterError for other names."""
        for name, known in ((stage, STAGES), (target, TARGETS)):
            if name not in known:
                raise ParameterError(f"{name!r} is none of {', '.join(known)}")
        return self.mass[:, :, STAGES.index(stage), TARGETS.index(target)]

    def best(self, stage: str, target: str) -> BestHead:
        """The head with the most mass. Raises ParameterError where no decision has the target."""
        return self._best(self.of(stage, target), f"{stage} has no {target}")

    @property
    def control(self) -> Masses:
        """(L, H) in [-1, 1] stage control: the mass on the root's mark where the root has been
        reached, less that while it has not."""
        return self.of("turn", "root") - self.of("backward", "root")

    def best_control(self) -> BestHead:
        """The head of the strongest stage control. Raises ParameterError where nothing turns."""
        return self._best(self.control, "no walk turns")

    def _best(self, values: Masses, reason: str) -> BestHead:
        if np.isnan(values).any():
            raise ParameterError(f"no head is best: {reason} among these decisions")
        layer, head = np.unravel_index(int(values.argmax()), values.shape)
        return BestHead(self.layers[layer], int(head), float(values[layer, head]))


def head_roles(
    model: Any, tokenizer: Any, tunnel: TreePathTunnel, problems: Sequence[Problem], style: str, *,
    batch_size: int = 64,
) -> HeadRoles:
    """Read every head at every decision of the right solutions, as a teacher would force them.

    Args:
        model: a transformers causal LM, of symbols or of text.
        tokenizer: its fast tokenizer.
        tunnel: says what the decisions are.
        problems: of the tunnel, at least one.
        style: how they are written.
        batch_size: texts read together.

    Raises:
        ParameterError: no problems.
        NoAttentionError: the model's attention cannot be read.
    """
    if not problems:
        raise ParameterError("no problems: heads have roles only in some")
    texts = [_locate(*tree_decisions(tunnel, problem, style), tokenizer) for problem in problems]
    texts.sort(key=lambda text: len(text.ids))
    total: dict[int, Masses] = {}
    counts = np.zeros((len(STAGES), len(TARGETS)), dtype=np.int64)
    for first in range(0, len(texts), batch_size):
        for layer, mass in _read(model, texts[first:first + batch_size]).items():
            total[layer] = total.get(layer, np.zeros(())) + mass
    for text in texts:
        np.add.at(counts, (text.stage, text.target), 1)
    layers = tuple(sorted(total))
    with np.errstate(invalid="ignore"):
        means = np.stack([total[layer] for layer in layers]) / counts
    return HeadRoles(layers, means, counts)


@dataclass
class RoleRecord:
    """Head roles over training: calling it with a step reads the model as it is then.

    It is what ``save`` of :func:`validator.windtunnels.training.train_reference` may be.
    """

    model: Any
    tokenizer: Any
    tunnel: TreePathTunnel
    problems: Sequence[Problem]
    style: str
    steps: dict[int, HeadRoles] = field(default_factory=dict)
    """Step -> what the heads did after it."""

    def __call__(self, step: int) -> None:
        """Read now."""
        self.steps[step] = head_roles(
            self.model, self.tokenizer, self.tunnel, self.problems, self.style)

    def history(self, stage: str, target: str) -> Mapping[int, float]:
        """Step -> the best head's mass, whichever head that is then."""
        return {step: roles.best(stage, target).value for step, roles in self.steps.items()}


@dataclass(frozen=True, slots=True, eq=False)
class _Located:
    """A text's ids and, for each of its N pairs of a decision and a target, where they are."""

    ids: list[int]
    stage: NDArray[np.int64]
    """(N,)"""
    target: NDArray[np.int64]
    """(N,)"""
    query: NDArray[np.int64]
    """(N,) the token after which the decision is taken."""
    keys: NDArray[np.bool_]
    """(N, T) the tokens of the target."""


def _locate(trace: Trace, decisions: Sequence[Decision], tokenizer: Any) -> _Located:
    """Prompt and completion are tokenised apart, as the feature extractor does."""
    ids: list[int] = []
    spans: list[tuple[int, int]] = []
    for text, shift in ((trace.prompt, 0), (trace.completion, len(trace.prompt))):
        coded = tokenizer(text, add_special_tokens=not shift, return_offsets_mapping=True)
        ids += coded["input_ids"]
        spans += [(start + shift, end + shift) for start, end in coded["offset_mapping"]]
    start, end = np.array(spans).T
    pairs = [(STAGES.index(d.stage), TARGETS.index(name), d.at, span)
             for d in decisions for name, span in d.targets.items()]
    query = [int((end > at).argmax()) - 1 if (end > at).any() else len(ids) - 1
             for _, _, at, _ in pairs]
    # A special token has an empty span, and belongs to no target.
    keys = [(start < b) & (end > a) & (start < end) for _, _, _, (a, b) in pairs]
    return _Located(ids, np.array([p[0] for p in pairs]), np.array([p[1] for p in pairs]),
                    np.array(query), np.array(keys))


def _read(model: Any, texts: Sequence[_Located]) -> dict[int, Masses]:
    """Layer -> (H, S, K) attention mass summed over the decisions of a batch."""
    width = max(len(text.ids) for text in texts)
    device = next(model.parameters()).device
    ids = torch.tensor([text.ids + [text.ids[-1]] * (width - len(text.ids)) for text in texts],
                       device=device)
    row = np.repeat(np.arange(len(texts)), [len(text.query) for text in texts])
    stage, target, query = (np.concatenate([getattr(text, name) for text in texts])
                            for name in ("stage", "target", "query"))
    keys = np.concatenate([
        np.pad(text.keys, ((0, 0), (0, width - len(text.ids)))) for text in texts])
    found: dict[int, Masses] = {}
    for layer in attention_rows(captured_forward(model, ids, keep_logits=1)):
        for block in layer.blocks:
            size = block.weights.shape[2]
            here = np.flatnonzero((query >= block.start) & (query < block.start + size))
            weights = block.weights[row[here], :, query[here] - block.start].cpu().double().numpy()
            seen = keys[here, None, : weights.shape[-1]]
            sums = found.setdefault(
                layer.layer, np.zeros((weights.shape[1], len(STAGES), len(TARGETS))))
            # One row at a time: rows of a block may share a stage and target.
            for row_stage, row_target, mass in zip(
                stage[here], target[here], (weights * seen).sum(-1), strict=True):
                sums[:, row_stage, row_target] += mass
    return found
