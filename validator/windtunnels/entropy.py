"""How close a model's next-token distributions are to the exact posterior.

The model's distribution at a query is its softmax over the candidate symbols alone, renormalised;
how much of the whole vocabulary's mass the candidates had is reported beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from validator.errors import ParameterError, TraceError
from validator.models.loading import LoadedModel
from validator.types import Progress
from validator.windtunnels.contract import Problem
from validator.windtunnels.evidence import EvidenceTunnel, Query

__all__ = ["EntropyReport", "PositionEntropy", "compare", "measure_entropy", "predictions",
           "shared_runs"]

Floats = NDArray[np.float64]
CandidateIds = dict[tuple[str, tuple[str, ...]], list[int]]
"""The word before and the candidates -> the token id of each candidate."""


@dataclass(frozen=True, slots=True)
class PositionEntropy:
    """Means over all queries of one position, or of all; bits."""

    queries: int
    posterior_entropy: float
    """Of the exact posterior."""
    model_entropy: float
    """Of the model's renormalised distribution."""
    entropy_mae_bits: float
    """Mean over queries of |model entropy - posterior entropy|."""
    posterior_kl_bits: float
    """Mean over queries of KL(posterior || model), in [0, inf)."""
    mass_on_support: float
    """Mean over queries of the model's mass on symbols that the posterior gives a chance."""
    candidate_mass: float
    """Mean share of the whole vocabulary's mass that the candidates had, in [0, 1]."""


@dataclass(frozen=True, slots=True)
class EntropyReport:
    """What :func:`measure_entropy` found."""

    overall: PositionEntropy
    by_position: dict[int, PositionEntropy]
    """By the amount of evidence that came before."""
    curve_mae_bits: float
    """Mean over positions of |mean model entropy - mean posterior entropy|: errors of either sign
    cancel inside a position. The figure that arXiv 2512.22471 and its peers publish."""
    position_mae_bits: float
    """Mean over queries of |posterior entropy - its mean at that position|: the error of knowing
    how much evidence came and not what it was. 0 where position alone decides the entropy."""
    interval: tuple[float, float]
    """Of the mean absolute entropy error, 95%: problems resampled 1,000 times."""
    problems: int

    def to_json(self) -> dict[str, Any]:
        """Plain numbers, positions as strings."""
        return {"problems": self.problems, "curve_mae_bits": self.curve_mae_bits,
                "position_mae_bits": self.position_mae_bits,
                "interval": list(self.interval), "overall": _plain(self.overall),
                "by_position": {str(k): _plain(v) for k, v in self.by_position.items()}}


def measure_entropy(
    subject: LoadedModel,
    tunnel: EvidenceTunnel,
    problems: Sequence[Problem],
    style: str,
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> EntropyReport:
    """Compare a causal LM with the exact posterior at every query of every problem.

    Args:
        subject: any causal LM; for a token style with the tunnel's symbols as its tokens.
        tunnel: whose problems these are.
        problems: at least one.
        style: how they are written.
        seed: of the interval's resampling.
        progress: called with problems done and all.

    Raises:
        ParameterError: no problems, or a candidate is not one token after its prefix: the
            message names both.
    """
    if not problems:
        raise ParameterError("measure_entropy needs at least one problem")
    rows, owners = [], []
    known: CandidateIds = {}
    for i, problem in enumerate(problems):
        queries = tunnel.queries(problem, style)
        chances, mass = predictions(subject, queries, known)
        rows += [(q.position, *compare(q.posterior.probabilities, chances[j]), mass[j])
                 for j, q in enumerate(queries)]
        owners += [i] * len(queries)
        if progress is not None:
            progress(i + 1, len(problems))
    return _report(np.array(rows), np.array(owners), seed)


def compare(posterior: Floats, model: Floats) -> tuple[float, float, float, float, float]:
    """Two distributions over the same (V,) symbols, in bits.

    Returns:
        Entropy of the posterior, entropy of the model, their absolute difference,
        KL(posterior || model), and the model's mass on the posterior's support. KL is infinite
        where the model gives no mass to what can be.
    """
    exact, found, on = _entropy(posterior), _entropy(model), posterior > 0
    with np.errstate(divide="ignore"):
        kl = float((posterior[on] * (np.log2(posterior[on]) - np.log2(model[on]))).sum())
    return exact, found, abs(found - exact), max(kl, 0.0), float(model[on].sum())


def predictions(
    subject: LoadedModel, queries: Sequence[Query], candidates: CandidateIds | None = None
) -> tuple[list[Floats], Floats]:
    """The model's distribution over each query's candidates.

    Queries whose prefixes begin one another share a forward pass.

    Args:
        subject: any causal LM.
        queries: of one problem.
        candidates: ids of candidates found by earlier calls with this model, to be used and added
            to.

    Returns:
        For each query (V,) probabilities over its candidates, summing to 1; and (Q,) the share of
        the whole vocabulary's mass that the candidates had.

    Raises:
        ParameterError: a candidate is not one token of its own after its prefix.
        TraceError: a prefix has no tokens, or more than the model has positions for.
    """
    known = {} if candidates is None else candidates
    chances: list[Floats] = [np.empty(0)] * len(queries)
    mass = np.empty(len(queries))
    for ids, members in shared_runs(subject, queries):
        logits = _logits(subject, ids, list(members.values()))
        for row, j in zip(logits, members, strict=True):
            chosen = row[_candidate_ids(subject, queries[j], known)]
            share = torch.exp(torch.logsumexp(chosen, 0) - torch.logsumexp(row, 0))
            chances[j], mass[j] = torch.softmax(chosen, 0).numpy(), float(share)
    return chances, mass


def shared_runs(
    subject: LoadedModel, queries: Sequence[Query]
) -> Iterator[tuple[list[int], dict[int, int]]]:
    """The token sequences to run, so that every prefix is the beginning of one of them.

    Yields:
        Token ids, and for each query that is a beginning of them its index and the place of its
        last token.

    Raises:
        TraceError: a prefix has no tokens, or more than the model has positions for.
    """
    coded = [_prefix_ids(subject, query.prefix) for query in queries]
    waiting = sorted(range(len(coded)), key=lambda j: -len(coded[j]))
    while waiting:
        ids = coded[waiting[0]]
        members = {j: len(coded[j]) - 1 for j in waiting if ids[:len(coded[j])] == coded[j]}
        yield ids, members
        waiting = [j for j in waiting if j not in members]


def _prefix_ids(subject: LoadedModel, text: str) -> list[int]:
    ids: list[int] = subject.tokenizer(text)["input_ids"]
    if ids and ids[-1] == subject.tokenizer.eos_token_id:
        ids = ids[:-1]  # some tokenizers end every text
    most = getattr(subject.model.config, "max_position_embeddings", None)
    if not ids or (most is not None and len(ids) > most):
        raise TraceError(f"the prefix that ends in {text[-20:]!r} has {len(ids)} tokens; "
                         f"{subject.name} reads 1 to {most}. Take a smaller tunnel.")
    return ids


def _candidate_ids(
    subject: LoadedModel, query: Query, known: CandidateIds
) -> list[int]:
    """The one id that each candidate adds to the prefix.

    Candidates begin with a space, so that they are looked up once for each word before them.
    """
    key = query.prefix.split()[-1], query.candidates
    if key not in known:
        before = _prefix_ids(subject, query.prefix)
        longer = [_prefix_ids(subject, query.prefix + c) for c in query.candidates]
        known[key] = [_added(subject, query.prefix, c, before, after)
                      for c, after in zip(query.candidates, longer, strict=True)]
        if len(set(known[key])) < len(longer):
            raise ParameterError(f"two of {', '.join(query.candidates)} are the same token in the "
                                 f"vocabulary of {subject.name}: it does not know these symbols")
    return known[key]


def _added(subject: LoadedModel, prefix: str, candidate: str, before: list[int], after: list[int]
           ) -> int:
    if after[:-1] != before:
        raise ParameterError(
            f"{candidate!r} is not one token after {prefix[-20:]!r} in the vocabulary of "
            f"{subject.name}, so its probability is not one number of the next-token "
            "distribution. Take a tunnel with other or fewer symbols.")
    return after[-1]


def _logits(subject: LoadedModel, ids: Sequence[int], places: Sequence[int]) -> torch.Tensor:
    """(K, V) float64 logits at these places."""
    row = torch.tensor([list(ids)], device=subject.model.device)
    with torch.inference_mode():
        logits = subject.model(input_ids=row).logits[0, list(places)]
    found: torch.Tensor = logits.double().cpu()
    return found


def _entropy(p: Floats) -> float:
    some = p[p > 0]
    return float(-(some * np.log2(some)).sum())


def _report(rows: Floats, owners: NDArray[Any], seed: int) -> EntropyReport:
    """Rows of position, two entropies, error, KL, support mass and candidate mass."""
    by_position = {int(p): _mean(rows[rows[:, 0] == p]) for p in np.unique(rows[:, 0])}
    gaps = [abs(p.model_entropy - p.posterior_entropy) for p in by_position.values()]
    count = int(owners.max()) + 1
    sums = np.bincount(owners, weights=rows[:, 3], minlength=count)
    sizes = np.bincount(owners, minlength=count)
    draws = np.random.default_rng(seed).integers(count, size=(1000, count))
    means = sums[draws].sum(1) / sizes[draws].sum(1)
    low, high = np.quantile(means, [0.025, 0.975])
    usual = np.array([by_position[int(p)].posterior_entropy for p in rows[:, 0]])
    return EntropyReport(_mean(rows), by_position, float(np.mean(gaps)),
                         float(np.abs(rows[:, 1] - usual).mean()), (float(low), float(high)), count)


def _mean(rows: Floats) -> PositionEntropy:
    exact, found, gap, kl, support, mass = (float(v) for v in rows[:, 1:].mean(axis=0))
    return PositionEntropy(len(rows), exact, found, gap, kl, support, mass)


def _plain(entry: PositionEntropy) -> dict[str, float]:
    return {name: getattr(entry, name) for name in PositionEntropy.__slots__}
