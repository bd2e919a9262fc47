"""What every wind tunnel is: a task whose truth is computed, not labelled.

A tunnel draws problems, writes them down in a named style, says of every step of a trace whether it
is right, makes a wrong twin of equal length, and knows the distribution that a perfect reasoner
would hold after any prefix. What it writes are the :class:`validator.types.Trace` that everything
else consumes: their texts are symbols parted by single spaces in the token styles, so that
:func:`validator.windtunnels.symbols.symbol_tokenizer` gives one token each, and English in the
style ``text``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from validator.errors import ParameterError
from validator.types import Trace

__all__ = [
    "Posterior", "Problem", "TokenBatch", "Tunnel", "require_kind", "require_style", "twin"]


@dataclass(frozen=True, slots=True)
class Problem:
    """One drawn task, before it is written down in any style."""

    id: str
    """Distinct for different problems of a tunnel: the id of every trace's problem."""
    content: Any
    """The tunnel's own frozen value: a tree, a bijection, an observation sequence."""
    meta: Mapping[str, Any] = field(default_factory=dict)
    """Facts for reports that JSON can hold, e.g. the depth of the goal."""


@dataclass(frozen=True, slots=True)
class Posterior:
    """What a perfect reasoner believes of the next symbol."""

    symbols: tuple[str, ...]
    """(V,) what could come next, each one token of the token styles."""
    probabilities: NDArray[np.float64]
    """(V,) in [0, 1], summing to 1."""

    @property
    def entropy(self) -> float:
        """Shannon entropy in bits, in [0, log2 V]."""
        p = self.probabilities[self.probabilities > 0]
        return float(-(p * np.log2(p)).sum())

    @property
    def support(self) -> frozenset[str]:
        """Symbols of positive probability."""
        return frozenset(
            s for s, p in zip(self.symbols, self.probabilities, strict=True) if p > 0)


@dataclass(frozen=True, slots=True, eq=False)
class TokenBatch:
    """Many fresh problems with their right solutions, as the token ids a model is trained on."""

    ids: NDArray[np.int64]
    """(B, T) ids of :func:`validator.windtunnels.symbols.symbol_tokenizer`, padded on the right."""
    labels: NDArray[np.int64]
    """(B, T) the id itself where a model is to predict it from what comes before, else -100."""
    problem_ids: tuple[str, ...]
    """(B,) :attr:`Problem.id` of each row."""


@runtime_checkable
class Tunnel(Protocol):
    """One kind of task; its settings are the fields of a frozen dataclass."""

    @property
    def name(self) -> str:
        """As the command line has it, e.g. ``tree``."""

    @property
    def styles(self) -> tuple[str, ...]:
        """Ways to write a problem down; the first is the default."""

    @property
    def corruptions(self) -> tuple[str, ...]:
        """Kinds of wrong twins; empty where a tunnel has no steps to spoil."""

    def symbols(self, style: str) -> tuple[str, ...]:
        """(V,) every symbol that a token style writes; empty for ``text``."""

    def sample(self, rng: np.random.Generator) -> Problem:
        """A problem; the same state of the generator gives the same one."""

    def render(self, problem: Problem, style: str) -> Trace:
        """The problem with its right solution: labelled 1, every step labelled 1."""

    def verify(self, problem: Problem, trace: Trace) -> tuple[bool, ...]:
        """Whether each step of a trace of this problem is right, whoever wrote it.

        A step is right if it follows from the problem and from the steps before it; a trace is
        valid if all are, and it ends where it must.
        """

    def corrupt(self, problem: Problem, style: str, kind: str, rng: np.random.Generator) -> Trace:
        """A wrong twin of :meth:`render`: as many symbols, label 0, step labels by verify."""

    def posterior(self, problem: Problem, prefix: Sequence[str]) -> Posterior:
        """The next symbol's distribution after a prefix of a token style's symbols."""


def twin(right: Trace, completion: str, kind: str, steps: Sequence[tuple[int, int]],
         verdicts: Sequence[bool]) -> Trace:
    """A corrupted trace: another completion of the same prompt, of the same problem."""
    return Trace(
        f"{right.problem_id}#{kind}", right.problem_id, right.prompt, completion, 0,
        steps=tuple(steps), step_labels=tuple(int(v) for v in verdicts), source=right.source,
        meta={**right.meta, "corruption": kind})


def require_style(tunnel: Tunnel, style: str) -> None:
    """Raise ParameterError for a style the tunnel does not have."""
    if style not in tunnel.styles:
        raise ParameterError(f"the tunnel {tunnel.name!r} has no style {style!r}; it has: "
                             f"{', '.join(tunnel.styles)}")


def require_kind(tunnel: Tunnel, kind: str) -> None:
    """Raise ParameterError for a corruption the tunnel does not have."""
    if kind not in tunnel.corruptions:
        known = ", ".join(tunnel.corruptions) or "none"
        raise ParameterError(
            f"the tunnel {tunnel.name!r} has no corruption {kind!r}; it has: {known}")
