"""What the tunnels of Bayesian inference in context share: questions answered by a distribution.

In all of them a token style begins with the begin-of-sequence symbol, and after every piece of
evidence a perfect reasoner holds a known distribution over the next symbol. A step is wrong where
that distribution gives it no chance, and then the steps after it do not believe it; where nothing
is impossible, a step is wrong if it is not what was drawn.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from validator.errors import ParameterError
from validator.types import Trace
from validator.windtunnels.contract import Posterior, Problem, TokenBatch, Tunnel, require_style
from validator.windtunnels.symbols import BOS

__all__ = [
    "FIRST_SYMBOL", "IGNORED", "EvidenceTunnel", "Query", "after_begin", "labelled_trace",
    "one_of", "require_tokens", "row_ids", "step_texts", "written",
]

FIRST_SYMBOL = 3
"""Token id of a style's first symbol: padding, begin and end come before it."""
IGNORED = -100
"""The label of a position that is not supervised."""

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Query:
    """One place at which a model's next-token distribution has a known right answer."""

    position: int
    """How much evidence came before, from 0: pairs, observations or examples."""
    prefix: str
    """The whole text so far."""
    candidates: tuple[str, ...]
    """(V,) continuations in the order of the posterior, white space included."""
    posterior: Posterior


@runtime_checkable
class EvidenceTunnel(Tunnel, Protocol):
    """A tunnel that asks for distributions."""

    def queries(self, problem: Problem, style: str) -> tuple[Query, ...]:
        """Every place of a problem at which the next symbol is judged, in order."""

    def token_batch(self, rng: np.random.Generator, count: int, style: str) -> TokenBatch:
        """Fresh problems as token ids; only what the queries ask for is supervised.

        Raises ParameterError for ``text``, which has no ids of its own.
        """


def labelled_trace(
    problem: Problem, prompt: str, completion: str, *, style: str, source: str, trace_id: str
) -> Trace:
    """An unlabelled trace whose steps are the pairs, words or lines of its completion."""
    pattern = STEPS[style]
    return Trace(trace_id, problem.id, prompt, completion, source=source,
                 steps=tuple(m.span() for m in re.finditer(pattern, completion)),
                 meta={**problem.meta, "style": style})


STEPS = {"pairs": r"\S+(?: \S+)?", "symbols": r"\S+", "answer": r"\S.*", "text": r"[^\s\n][^\n]*"}
"""What one step is in each style."""


def written(trace: Trace, verdicts: Sequence[bool]) -> Trace:
    """The same trace with its labels: valid if it has steps and all are right."""
    return replace(trace, label=int(bool(verdicts) and all(verdicts)),
                   step_labels=tuple(int(v) for v in verdicts))


def step_texts(trace: Trace, default: str) -> tuple[str, list[str]]:
    """The style of a trace and the text of each of its steps."""
    style = trace.meta.get("style")
    style = style if style in STEPS else default
    spans = trace.steps
    if spans is None:
        spans = tuple(m.span() for m in re.finditer(STEPS[style], trace.completion))
    return style, [trace.completion[a:b] for a, b in spans]


def after_begin(prefix: Sequence[str]) -> list[str]:
    """The symbols of a prefix, without the begin-of-sequence symbol."""
    return list(prefix[1:] if prefix and prefix[0] == BOS else prefix)


def one_of(symbol: str, symbols: Sequence[str], what: str) -> int:
    """The index of a symbol; ParameterError where it is none of these."""
    if symbol not in symbols:
        raise ParameterError(f"expected {what} ({symbols[0]} ... {symbols[-1]}) in the prefix, "
                             f"got {symbol!r}")
    return list(symbols).index(symbol)


def require_tokens(tunnel: Tunnel, style: str) -> None:
    """Raise ParameterError for a style the tunnel does not have, or that has no token ids."""
    require_style(tunnel, style)
    if style == "text":
        raise ParameterError("the style 'text' has no token ids of its own; take another of: "
                             f"{', '.join(s for s in tunnel.styles if s != 'text')}")


def row_ids(name: str, rows: NDArray[Any]) -> tuple[str, ...]:
    """(B,) an id for each row of integers: the same for equal rows of equal length."""
    wide = np.ascontiguousarray(rows, dtype=np.int64)
    return tuple(f"{name}-{hashlib.blake2b(row.tobytes(), digest_size=8).hexdigest()}"
                 for row in wide)
