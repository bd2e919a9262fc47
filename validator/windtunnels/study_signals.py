"""What each score of the study reads of a trace: spectra by span, signals on them, baselines."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from validator.columns import Column
from validator.features.featureset import (
    TOKEN_SIGNALS,
    FeatureSet,
    GraphFeatures,
    HeadFeatures,
)
from validator.models.loading import LoadedModel
from validator.types import Progress, Trace
from validator.windtunnels.study_reading import read_columns

__all__ = ["FEATURES", "SIGNALS", "TEXT", "Signals", "read_signals", "symbol_counts", "symbol_text"]

Floats = NDArray[np.float64]

TEXT = "n-grams"
"""The signal that is a text: symbols of the completion and pairs of neighbouring ones."""
SPREAD = (0.0, 0.25, 0.5, 0.75, 1.0)
GRAPH = ("fiedler_value", "spectral_gap", "eigenvalue_quantile", "eigenvalue_entropy", "hfer",
         "signal_entropy", "roughness")
HEAD = ("directed_eigenvalue", "attention_eigenvalue", "attention_entropy", "renyi_entropy",
        "log_self_attention", "lookback_ratio")
FEATURES = FeatureSet(
    "windtunnel-study", 1,
    heads=HeadFeatures(spans=("whole", "completion", "step"), descriptors=HEAD, quantiles=SPREAD,
                       attended=TOKEN_SIGNALS),
    graphs=(
        GraphFeatures(
            spans=("whole", "completion", "step"), heads="each", descriptors=GRAPH,
            eigenvalue_quantiles=(0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 1.0),
            signals=("hidden", *TOKEN_SIGNALS)),
        GraphFeatures(
            spans=("completion_from_prompt",), heads="each",
            descriptors=("singular_value_quantile", "singular_value_entropy", "roughness"),
            eigenvalue_quantiles=(0.0, 0.25, 0.5, 0.75, 1.0), signals=("hidden",))))
"""Each head's own graph of the whole sequence, of the completion, of a few steps at a time, and of
what the completion reads of the prompt."""
SIGNALS = {
    "attention, whole sequence": "each head's attention graph of prompt and completion",
    "attention, trace window": "of the completion alone, and of what it reads of the prompt",
    "attention, step-local": "of four steps at a time: mean, least and greatest",
    "attention": "the three together",
    "hidden states": "the hidden states as a signal on these graphs",
    "identity-aware": "surprisal and entropy of each token as a signal on these graphs",
    "log-prob": "mean and least log-probability of the tokens, mean entropy",
    "length": "tokens of the completion",
    TEXT: "symbols of the completion, and pairs of neighbours",
    "counts": "distinct symbols, repetitions, symbols of the prompt",
}
"""Every signal by name, and what it is."""


@dataclass(frozen=True, eq=False)
class Signals:
    """What is known of N traces."""

    values: Mapping[str, Floats]
    """Signal -> (N, K), finite or NaN; all of :data:`SIGNALS` but the text."""
    texts: tuple[str, ...]
    """(N,) of :func:`symbol_text`."""

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, rows: NDArray[np.int64]) -> Signals:
        """The same of some traces."""
        return Signals({name: found[rows] for name, found in self.values.items()},
                       tuple(self.texts[i] for i in rows))

    @classmethod
    def joined(cls, parts: Sequence[Signals]) -> Signals:
        """Those of several lists of traces, one after the other."""
        return cls({name: np.concatenate([p.values[name] for p in parts])
                    for name in parts[0].values},
                   tuple(text for p in parts for text in p.texts))


def read_signals(
    model: LoadedModel, traces: Sequence[Trace], *, progress: Progress | None = None
) -> Signals:
    """Read every signal of traces of a token style.

    Args:
        model: a causal LM of the style's symbols.
        traces: at least one.
        progress: called with (traces done, all).
    """
    read = read_columns(model, traces, FEATURES, progress=progress)
    found = {name: read.values[:, [i for i, c in enumerate(read.columns) if belongs(c)]]
             for name, belongs in _BELONGS.items()}
    found["counts"] = np.array([symbol_counts(t) for t in traces], dtype=np.float64)
    return Signals(found, tuple(symbol_text(t) for t in traces))


def symbol_text(trace: Trace) -> str:
    """The completion's symbols, then each pair of neighbours as one word."""
    words = trace.completion.split()
    return " ".join([*words, *(f"{a}_{b}" for a, b in pairwise(words))])


def symbol_counts(trace: Trace) -> tuple[float, float, float, float]:
    """What can be counted of a completion without a model.

    Returns:
        Distinct symbols; symbols equal to the one before; symbols that are in the prompt as well;
        distinct ones among these.
    """
    words, shown = trace.completion.split(), set(trace.prompt.split())
    return (len(set(words)), sum(a == b for a, b in pairwise(words)),
            sum(word in shown for word in words), len(set(words) & shown))


def _bare(column: Column) -> bool:
    return not column.is_baseline and column.signal == ""


_BELONGS: dict[str, Callable[[Column], bool]] = {
    "attention, whole sequence": lambda c: _bare(c) and c.span == "whole",
    "attention, trace window": lambda c: _bare(c) and c.span.startswith("completion"),
    "attention, step-local": lambda c: _bare(c) and c.span.startswith("step"),
    "attention": _bare,
    "hidden states": lambda c: c.signal == "hidden",
    "identity-aware": lambda c: c.signal in TOKEN_SIGNALS,
    "log-prob": lambda c: c.descriptor in ("mean_logprob", "min_logprob", "mean_token_entropy"),
    "length": lambda c: c.descriptor == "completion_length",
}
