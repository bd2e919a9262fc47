"""Whether a model's geometry is the one that the Bayesian wind tunnel papers tell of.

They report (arXiv 2512.22471, section 5; 2512.23752, section 5) that keys of different symbols are
nearly orthogonal in layer 0, and that states at query positions lie along one axis that is ordered
by posterior entropy. Each number here stands beside what chance, or position alone, would give.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import Ridge

from validator.errors import ModelError, ParameterError
from validator.models.loading import LoadedModel
from validator.splits import problem_folds
from validator.windtunnels.contract import Problem
from validator.windtunnels.entropy import shared_runs
from validator.windtunnels.evidence import EvidenceTunnel

__all__ = ["EntropyAxis", "KeyFrame", "QueryStates", "ablated_entropy_error", "entropy_axis",
           "key_frame", "principal_plane", "query_states", "random_abs_cosine"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class KeyFrame:
    """How far from orthogonal the keys of layer 0 are."""

    abs_cosine: float
    """Mean |cos| over pairs of different symbols and over heads, in [0, 1]."""
    random: float
    """What independent random directions of the same dimension have on average."""
    by_head: tuple[float, ...]


@dataclass(frozen=True, slots=True, eq=False)
class QueryStates:
    """A model's states at Q queries and what is true there."""

    hidden: Floats
    """(Q, D) what the output embedding reads: the last layer's states after the last norm."""
    entropy: Floats
    """(Q,) bits of the exact posterior."""
    position: NDArray[np.int64]
    """(Q,) how much evidence came before."""
    problem_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class EntropyAxis:
    """Whether states are ordered by posterior entropy; None where entropy does not vary."""

    pc1_share: float
    """Share of the variance over all queries along the first principal axis."""
    pc1_spearman: float
    """|Spearman| of that axis with posterior entropy over queries."""
    pc1_share_of_means: float
    """The same share after states are averaged by position: what plots of means show."""
    ridge_r2: float
    """Of posterior entropy from states, cross-validated over problems."""
    position_r2: float
    """Of posterior entropy from the position alone: its mean by position, cross-validated."""
    ridge_r2_at_position: float | None
    """1 - squared error / squared distance from the position's mean, where ridges are fitted and
    judged at one position each."""


def key_frame(subject: LoadedModel, symbols: Sequence[str]) -> KeyFrame:
    """Cosines between the keys that layer 0 makes of single symbols, before any rotation.

    Args:
        subject: a Llama- or GPT-2-shaped model: its layers have a ``k_proj`` or a ``c_attn``. To
            the latter's keys belongs the embedding of the first place, where all symbols stand.
        symbols: two or more, each one token of the model.

    Raises:
        ParameterError: fewer than two symbols, or one that is not one token.
        ModelError: the model has neither.
    """
    ids = [subject.tokenizer(s, add_special_tokens=False)["input_ids"] for s in symbols]
    if len(ids) < 2 or any(len(i) != 1 for i in ids):
        raise ParameterError("key_frame needs two or more symbols of one token each")
    keys = _first_keys(subject, torch.tensor(ids))
    config = subject.model.config
    heads = getattr(config, "num_key_value_heads", config.num_attention_heads)
    split = keys.reshape(len(keys), heads, -1).transpose(1, 0, 2)
    unit = split / np.linalg.norm(split, axis=2, keepdims=True)
    cosines = np.abs(unit @ unit.transpose(0, 2, 1))
    pairs = ~np.eye(len(keys), dtype=bool)
    by_head = tuple(float(c[pairs].mean()) for c in cosines)
    return KeyFrame(float(np.mean(by_head)), random_abs_cosine(split.shape[2]), by_head)


def random_abs_cosine(dimension: int) -> float:
    """Expected |cos| of two independent uniformly random directions in D dimensions.

    Gamma(D / 2) / (sqrt(pi) Gamma((D + 1) / 2)), about sqrt(2 / (pi D)).
    """
    return math.exp(math.lgamma(dimension / 2) - math.lgamma((dimension + 1) / 2)) / math.sqrt(
        math.pi)


def _first_keys(subject: LoadedModel, ids: torch.Tensor) -> Floats:
    """(V, H d) keys of the first layer, one single-token sequence for each symbol."""
    projections = [(m, n.endswith(".c_attn")) for n, m in subject.model.named_modules()
                   if n.endswith((".k_proj", ".attn.c_attn"))]
    if not projections:
        raise ModelError(f"{subject.name} has no layers with a k_proj or c_attn, so its keys are "
                         "not read; use a Llama- or GPT-2-shaped model")
    first, joint = projections[0]
    caught: list[torch.Tensor] = []
    hook = first.register_forward_hook(lambda _m, _i, output: caught.append(output))
    try:
        with torch.inference_mode():
            subject.model(input_ids=ids.to(subject.model.device))
    finally:
        hook.remove()
    keys = caught[0].chunk(3, -1)[1] if joint else caught[0]  # queries, keys, values
    found: Floats = keys[:, 0].double().cpu().numpy()
    return found


def query_states(
    subject: LoadedModel, tunnel: EvidenceTunnel, problems: Sequence[Problem], style: str
) -> QueryStates:
    """States and truths at every query of every problem; raises as :func:`shared_runs` does."""
    states, entropy, position, owners = [], [], [], []
    for problem in problems:
        queries = tunnel.queries(problem, style)
        for ids, members in shared_runs(subject, queries):
            hidden = _last_hidden(subject, ids)
            for j, place in members.items():
                states.append(hidden[place])
                entropy.append(queries[j].posterior.entropy)
                position.append(queries[j].position)
                owners.append(problem.id)
    return QueryStates(np.array(states), np.array(entropy), np.array(position), tuple(owners))


def _last_hidden(subject: LoadedModel, ids: Sequence[int]) -> Floats:
    row = torch.tensor([list(ids)], device=subject.model.device)
    with torch.inference_mode():
        output = subject.model(input_ids=row, output_hidden_states=True)
    found: Floats = output.hidden_states[-1][0].double().cpu().numpy()
    return found


def entropy_axis(states: QueryStates, *, folds: int = 5, alpha: float = 1.0, seed: int = 0
                 ) -> EntropyAxis:
    """Principal axis, its order and cross-validated ridge regressions of posterior entropy.

    Args:
        states: with entropies that are not all equal.
        folds: of problems.
        alpha: the ridge's penalty, on states scaled to unit variance over the training side.
        seed: of the folds.

    Raises:
        ParameterError: all entropies are equal.
    """
    if np.ptp(states.entropy) == 0:
        raise ParameterError("every query has the same posterior entropy: nothing to be ordered by")
    everywhere = np.unique(states.position)
    means = np.array([states.hidden[states.position == p].mean(axis=0) for p in everywhere])
    share, scores = _first_axis(states.hidden)
    total = _residual(states, np.ones(len(states.entropy), bool), folds, alpha, seed)
    steps = (states.position[:, None] == everywhere).astype(float)
    by_place = QueryStates(steps, states.entropy, states.position, states.problem_ids)
    place = _residual(by_place, np.ones(len(states.entropy), bool), folds, 1e-6, seed)
    spread = float(((states.entropy - states.entropy.mean()) ** 2).sum())
    return EntropyAxis(
        share, abs(_spearman(scores, states.entropy)), _first_axis(means)[0],
        1 - total / spread, 1 - place / spread, _at_positions(states, folds, alpha, seed))


def principal_plane(vectors: Floats) -> tuple[Floats, Floats]:
    """(N, 2) coordinates of (N, D) vectors along the two principal axes, and (2,) the share of the
    variance along each. The sign of an axis is arbitrary."""
    centred = vectors - vectors.mean(axis=0)
    left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
    shares: Floats = sizes[:2] ** 2 / (sizes ** 2).sum()
    return left[:, :2] * sizes[:2], shares


def _first_axis(vectors: Floats) -> tuple[float, Floats]:
    """Share of variance along the first principal axis, and the coordinates along it."""
    plane, shares = principal_plane(vectors)
    return float(shares[0]), plane[:, 0]


def _spearman(x: Floats, y: Floats) -> float:
    """Correlation of ranks, equal values sharing the mean of theirs."""
    ranks = []
    for values in (x, y):
        _, place, count = np.unique(values, return_inverse=True, return_counts=True)
        ranks.append((np.cumsum(count) - (count - 1) / 2)[place])
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def _at_positions(states: QueryStates, folds: int, alpha: float, seed: int) -> float | None:
    error = spread = 0.0
    for place in np.unique(states.position):
        here = states.position == place
        y = states.entropy[here]
        if np.ptp(y) > 1e-9 and min((y > np.median(y)).sum(), (y <= np.median(y)).sum()) >= folds:
            error += _residual(states, here, folds, alpha, seed)
            spread += float(((y - y.mean()) ** 2).sum())
    return 1 - error / spread if spread else None


def _residual(states: QueryStates, rows: NDArray[np.bool_], folds: int, alpha: float, seed: int
              ) -> float:
    """Sum of squared errors of out-of-fold ridge predictions."""
    x, y = states.hidden[rows], states.entropy[rows]
    owners = np.array(states.problem_ids)[rows]
    high = (y > np.median(y)).astype(int)
    error = 0.0
    for train, test in problem_folds(owners, high, folds, seed):
        centre, scale = x[train].mean(axis=0), x[train].std(axis=0)
        scale[scale == 0] = 1  # a constant column stays at 0
        ridge = Ridge(alpha=alpha).fit((x[train] - centre) / scale, y[train])
        error += float(((ridge.predict((x[test] - centre) / scale) - y[test]) ** 2).sum())
    return error


def ablated_entropy_error(
    subject: LoadedModel, states: QueryStates, candidates: Sequence[int], *, axes: int = 20,
    seed: int = 0,
) -> dict[str, float]:
    """Mean absolute entropy error in bits after one direction is taken out of the states.

    A direction's component is replaced by its mean over queries. ``none``: nothing is taken out;
    ``pc1``: the first principal axis; ``ridge``: the direction of a ridge regression of posterior
    entropy; ``random``: mean over random directions orthogonal to ``pc1``; ``random_most``: the
    largest of them. If the principal axis holds what the model knows of its uncertainty, ``pc1`` is
    far above ``random_most``.

    Args:
        subject: the model that the states are of; its logits are its output embedding of them.
        states: from :func:`query_states`.
        candidates: token ids over which distributions are renormalised.
        axes: how many random directions.
        seed: of the random directions.
    """
    rng = np.random.default_rng(seed)
    centred = states.hidden - states.hidden.mean(axis=0)
    first = np.linalg.svd(centred, full_matrices=False)[2][0]
    ridge = Ridge(alpha=1.0).fit(centred, states.entropy).coef_
    found = {"none": _entropy_error(subject, states, None, candidates),
             "pc1": _entropy_error(subject, states, first, candidates),
             "ridge": _entropy_error(subject, states, ridge, candidates)}
    errors = []
    for _ in range(axes):
        axis = rng.normal(size=first.size)
        errors.append(_entropy_error(subject, states, axis - (axis @ first) * first, candidates))
    return {**found, "random": float(np.mean(errors)), "random_most": max(errors)}


def _entropy_error(subject: LoadedModel, states: QueryStates, axis: Floats | None,
                   candidates: Sequence[int]) -> float:
    hidden = states.hidden
    if axis is not None:
        unit = axis / np.linalg.norm(axis)
        hidden = hidden - ((hidden - hidden.mean(axis=0)) @ unit)[:, None] * unit
    head: Any = subject.model.get_output_embeddings()
    with torch.inference_mode():
        logits = head(torch.from_numpy(hidden).to(head.weight))[:, list(candidates)].double()
        log = torch.log_softmax(logits, 1)
        entropy = -(log.exp() * log).sum(1).cpu().numpy() / math.log(2)
    return float(np.abs(entropy - states.entropy).mean())
