"""How much of the exact posterior's entropy a spectrum tells at one position.

Entropy falls as evidence comes, and so does much else: only prefixes of equal length are compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.impute import SimpleImputer
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from validator.errors import ParameterError
from validator.metrics import Resampler, Statistic
from validator.models.loading import LoadedModel, load_model
from validator.types import Progress, Trace
from validator.windtunnels.bayes_training import reference_model, train_bayes
from validator.windtunnels.bijection import BijectionTunnel
from validator.windtunnels.hmm import HMMTunnel
from validator.windtunnels.study_signals import read_signals
from validator.windtunnels.symbols import symbol_tokenizer

__all__ = ["EVIDENCE", "PREDICTORS", "EvidenceSubject", "Prefixes", "out_of_fold_ridge",
           "prefixes_at", "r2_statistic", "trained_evidence"]

Floats = NDArray[np.float64]
HELD_OUT_SEED = 20_000_000
PENALTIES = np.logspace(-2, 4, 13)
"""Of the ridge regression; the training part chooses, by leave-one-out."""
PREDICTORS = {
    "attention": "spectra and entropies of each head, of the prefix",
    "hidden states": "hidden states as a signal on the graphs",
    "identity-aware": "surprisal and entropy of the prefix's tokens on the graphs",
    "log-prob": "mean and least log-probability of the prefix's tokens, mean entropy",
    "counts": "how often each symbol came, how many distinct ones",
    "counts, last symbols": "the same, the last two symbols, and whether the last came before",
    "own entropy": "the model's own next-token entropy: what it believes, read directly",
}


@dataclass(frozen=True)
class EvidenceSubject:
    """A tunnel whose entropy varies at a fixed position, and how long its models learn."""

    tunnel: BijectionTunnel | HMMTunnel
    style: str
    steps: int


EVIDENCE = {
    "bijection-repeat": EvidenceSubject(
        BijectionTunnel(10, repeat=True, pairs=9), "pairs", 3000),
    "hmm-banded": EvidenceSubject(HMMTunnel(length=10, banded=True), "symbols", 600),
}


@dataclass(frozen=True, eq=False)
class Prefixes:
    """N prefixes of equal length, each of its own problem."""

    entropy: Floats
    """(N,) of the exact posterior after each, bits."""
    predictors: Mapping[str, Floats]
    """Name of :data:`PREDICTORS` -> (N, K)."""


def trained_evidence(
    subject: EvidenceSubject, seed: int, progress: Progress | None = None
) -> LoadedModel:
    """A model of the tunnel, trained from nothing."""
    model = reference_model(subject.tunnel, subject.style, seed=seed)
    train_bayes(subject.tunnel, subject.style, model, seed=seed, max_steps=subject.steps,
                progress=progress)
    tokenizer = symbol_tokenizer(subject.tunnel.symbols(subject.style))
    return load_model((model, tokenizer))


def prefixes_at(
    model: LoadedModel, subject: EvidenceSubject, position: int, count: int, seed: int
) -> Prefixes:
    """Prefixes of fresh problems that end where the symbol at a position is asked for.

    Args:
        model: reads them.
        subject: of which tunnel.
        position: how much evidence comes before.
        count: problems.
        seed: of the problems.

    Raises:
        ParameterError: no query at the position.
    """
    rng = np.random.default_rng(HELD_OUT_SEED + seed)
    problems = [subject.tunnel.sample(rng) for _ in range(count)]
    asked = [next((q for q in subject.tunnel.queries(p, subject.style) if q.position == position),
                  None) for p in problems]
    found = [query for query in asked if query is not None]
    if len(found) < count:
        raise ParameterError(f"the tunnel {subject.tunnel.name!r} asks nothing at position "
                             f"{position}; take a smaller one")
    traces = [_trace(i, query.prefix) for i, query in enumerate(found)]
    signals = read_signals(model, traces)
    words = [trace.completion.split() for trace in traces]
    symbols = subject.tunnel.symbols(subject.style)
    counts = _counts(words, symbols)
    last = np.hstack([counts, _last(words, symbols)])
    predictors = {name: signals.values[name] for name in PREDICTORS if name in signals.values}
    predictors |= {"counts": counts, "counts, last symbols": last,
                   "own entropy": _own_entropy(model, traces)}
    return Prefixes(np.array([query.posterior.entropy for query in found]), predictors)


def _trace(number: int, prefix: str) -> Trace:
    first, _, rest = prefix.partition(" ")
    return Trace(f"prefix{number}", f"prefix{number}", f"{first} ", rest)


def _counts(words: Sequence[Sequence[str]], symbols: Sequence[str]) -> Floats:
    """(N, V + 1)."""
    return np.array([[*(own.count(symbol) for symbol in symbols), len(set(own))]
                     for own in words], dtype=np.float64)


def _last(words: Sequence[Sequence[str]], symbols: Sequence[str]) -> Floats:
    """(N, 2 V + 1) the last two symbols, one column each, and whether the last came before."""
    return np.array([[*(float(own[-k] == symbol) for k in (1, 2) for symbol in symbols),
                      float(own[-1] in own[:-1])] for own in words])


def _own_entropy(model: LoadedModel, traces: Sequence[Trace]) -> Floats:
    """(N, 1) bits."""
    ids = [model.tokenizer(t.prompt + t.completion, add_special_tokens=False)["input_ids"]
           for t in traces]
    network: Any = model.model
    with torch.inference_mode():
        chances = network(input_ids=torch.tensor(ids)).logits[:, -1].double().softmax(-1)
    bits: Floats = (torch.special.entr(chances).sum(-1) / np.log(2)).numpy()
    return bits[:, None]


def out_of_fold_ridge(X: Floats, y: Floats, *, seed: int, n_splits: int = 5) -> Floats:
    """(N,) predictions of y by ridge regression on standardised columns (N, K), each row's by a
    model that never saw it. A NaN becomes the training median.

    Predictions are kept inside the range of the training part's y: an entropy has bounds, and one
    row far outside the training columns would else decide an R2.
    """
    predicted = np.full(len(y), np.nan)
    for train, test in KFold(n_splits, shuffle=True, random_state=seed).split(X):
        model = make_pipeline(SimpleImputer(strategy="median", keep_empty_features=True),
                              StandardScaler(), RidgeCV(PENALTIES))
        found = model.fit(X[train], y[train]).predict(X[test])
        predicted[test] = found.clip(y[train].min(), y[train].max())
    return predicted


def r2_statistic(y: Floats, predicted: Floats, resampler: Resampler) -> Statistic:
    """1 - residual / total sum of squares about the mean, rows repeated as they were drawn."""
    def statistic(counts: NDArray[np.int64]) -> Floats:
        weights = counts[:, resampler.index].astype(np.float64)
        total = weights.sum(axis=1)
        mean = weights @ y / total
        spread = weights @ y**2 - total * mean**2
        residual = weights @ (y - predicted) ** 2
        found: Floats = np.full(len(counts), np.nan)
        np.divide(residual, spread, out=found, where=spread > 0)
        return 1 - found

    return statistic
