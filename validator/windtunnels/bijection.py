"""Finding out a random bijection from pairs of a key and its value (arXiv 2512.22471, section 3).

V keys are matched with V values at random. After k distinct pairs a new key's value is one of the
V - k that are left, all equally likely, so the posterior has log2(V - k) bits; a key that was seen
before has a certain value, 0 bits.
"""

from __future__ import annotations

import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from validator.errors import ParameterError
from validator.types import Trace
from validator.windtunnels.contract import (
    Posterior,
    Problem,
    TokenBatch,
    require_kind,
    require_style,
    twin,
)
from validator.windtunnels.evidence import (
    FIRST_SYMBOL,
    IGNORED,
    Query,
    after_begin,
    labelled_trace,
    one_of,
    require_tokens,
    row_ids,
    step_texts,
    written,
)
from validator.windtunnels.symbols import BOS

__all__ = ["Bijection", "BijectionTunnel"]

REQUEST = ("Every capital letter stands for one small letter, and no two capital letters stand for "
           "the same one.\n")
_PAIR = re.compile(r"k(\d+) v(\d+)")
_LINE = re.compile(r"([A-Z]) is ([a-z])\.?")

Pair = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Bijection:
    """A sequence of pairs, each as the numbers of its key and its value."""

    pairs: tuple[Pair, ...]


@dataclass(frozen=True)
class BijectionTunnel:
    """Pairs of one random bijection.

    =========  =================================================
    style      pairs
    =========  =================================================
    ``pairs``  ``<s> k3 v1 k0 v7``: two tokens each
    ``text``   ``D is b``, a line for each, after one of English
    =========  =================================================
    """

    name = "bijection"
    size: int = 10
    """V, keys and values."""
    repeat: bool = False
    """Whether each key is drawn from all V; else no key comes twice."""
    pairs: int | None = None
    """How many pairs; by default V, or 2 V where keys repeat."""

    def __post_init__(self) -> None:
        if self.size < 2:
            raise ParameterError(f"size must be 2 or more, got {self.size}")
        if self.length < 2 or (self.length > self.size and not self.repeat):
            raise ParameterError(f"pairs must be 2 or more, and {self.size} at most where keys do "
                                 f"not repeat; got {self.length}")

    @property
    def length(self) -> int:
        """Pairs of a problem."""
        if self.pairs is not None:
            return self.pairs
        return 2 * self.size if self.repeat else self.size

    @property
    def styles(self) -> tuple[str, ...]:
        """``text`` has a letter for each key, so 26 of them."""
        return ("pairs", "text") if self.size <= 26 else ("pairs",)

    @property
    def corruptions(self) -> tuple[str, ...]:
        """``changed_value`` only where every problem repeats a key."""
        sure = self.repeat and self.length > self.size
        return ("used_value", "changed_value") if sure else ("used_value",)

    def symbols(self, style: str) -> tuple[str, ...]:
        """(2 V,) keys, then values; none of ``text``."""
        require_style(self, style)
        return () if style == "text" else (*self._keys, *self._values)

    def sample(self, rng: np.random.Generator) -> Problem:
        """A sequence of pairs."""
        keys, values = self._arrays(rng, 1)
        pairs = tuple(zip(keys[0].tolist(), values[0].tolist(), strict=True))
        return Problem(self._ids(keys, values)[0], Bijection(pairs),
                       {"size": self.size, "pairs": self.length})

    def token_batch(self, rng: np.random.Generator, count: int, style: str) -> TokenBatch:
        """Fresh sequences as token ids; values alone are supervised, each after its key."""
        require_tokens(self, style)
        keys, values = self._arrays(rng, count)
        ids = np.ones((count, 1 + 2 * self.length), dtype=np.int64)
        ids[:, 1::2], ids[:, 2::2] = FIRST_SYMBOL + keys, FIRST_SYMBOL + self.size + values
        labels = np.full_like(ids, IGNORED)
        labels[:, 2::2] = ids[:, 2::2]
        return TokenBatch(ids, labels, self._ids(keys, values))

    def render(self, problem: Problem, style: str) -> Trace:
        """The pairs, all of them the completion."""
        return self.judge(problem, style, self._write(problem.content.pairs, style),
                          trace_id=problem.id, source=self.name)

    def judge(self, problem: Problem, style: str, completion: str, *, trace_id: str,
              source: str = "") -> Trace:
        """A completion that anybody wrote as a trace of this problem, with its exact labels."""
        require_style(self, style)
        trace = labelled_trace(problem, self._prompt(style), completion, style=style,
                               source=source, trace_id=trace_id)
        return written(trace, self.verify(problem, trace))

    def verify(self, problem: Problem, trace: Trace) -> tuple[bool, ...]:
        """Whether each pair can be, given the right ones before it.

        A pair is wrong if its key has another value already, its value another key, or its key
        came before where keys do not repeat.
        """
        style, texts = step_texts(trace, "pairs")
        known: dict[int, int] = {}
        verdicts = []
        for text in texts:
            pair = self._read(text, style)
            right = pair is not None and self._possible(pair, known)
            if right and pair is not None:
                known[pair[0]] = pair[1]
            verdicts.append(right)
        return tuple(verdicts)

    def corrupt(self, problem: Problem, style: str, kind: str, rng: np.random.Generator) -> Trace:
        """One pair gets a value that cannot be; the others stay.

        ``used_value``: a new key gets the value of a key that came before. ``changed_value``: a key
        that came before gets another value.

        Raises:
            ParameterError: no such kind or style, or no second key comes that could take a value.
        """
        require_style(self, style)
        require_kind(self, kind)
        pairs = list(problem.content.pairs)
        places = _new_keys(pairs) if kind == "used_value" else _old_keys(pairs)
        if not places:
            raise ParameterError(f"problem {problem.id} shows one key only: no twin {kind!r}. Draw "
                                 "more pairs or another problem.")
        at = int(rng.choice(places))
        taken = {v for _, v in pairs[:at]} if kind == "used_value" else set(range(self.size))
        pairs[at] = (pairs[at][0], int(rng.choice(sorted(taken - {pairs[at][1]}))))
        wrong = self.judge(problem, style, self._write(pairs, style), trace_id="")
        return twin(self.render(problem, style), wrong.completion, kind, wrong.steps or (),
                    [bool(label) for label in wrong.step_labels or ()])

    def posterior(self, problem: Problem, prefix: Sequence[str]) -> Posterior:
        """Of the value after a key, or of the key after a pair; impossible pairs count for none.

        Raises ParameterError for symbols out of place.
        """
        symbols = after_begin(prefix)
        keys = [one_of(s, self._keys, "a key") for s in symbols[::2]]
        values = [one_of(s, self._values, "a value") for s in symbols[1::2]]
        known: dict[int, int] = {}
        for pair in zip(keys, values, strict=False):
            if self._possible(pair, known):
                known[pair[0]] = pair[1]
        if len(keys) > len(values):
            return Posterior(self._values, self._value_chances(known, keys[-1]))
        left = np.ones(self.size)
        if not self.repeat and len(known) < self.size:
            left[list(known)] = 0
        return Posterior(self._keys, left / left.sum())

    def queries(self, problem: Problem, style: str) -> tuple[Query, ...]:
        """The value of each key, after the pairs before it."""
        require_style(self, style)
        text, found = self._prompt(style), []
        known: dict[int, int] = {}
        names = self._values if style == "pairs" else tuple(string.ascii_lowercase[:self.size])
        for i, (key, value) in enumerate(problem.content.pairs):
            posterior = Posterior(self._values, self._value_chances(known, key))
            line = self._line((key, value), style)
            cut = line.rindex(" ")
            found.append(Query(i, text + line[:cut], tuple(f" {name}" for name in names),
                               posterior))
            text += line + (" " if style == "pairs" else "\n")
            known[key] = value
        return tuple(found)

    @property
    def _keys(self) -> tuple[str, ...]:
        return tuple(f"k{i}" for i in range(self.size))

    @property
    def _values(self) -> tuple[str, ...]:
        return tuple(f"v{i}" for i in range(self.size))

    def _arrays(self, rng: np.random.Generator, count: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """(N, P) keys and values."""
        every = np.tile(np.arange(self.size), (count, 1))
        matched = rng.permuted(every, axis=1)
        keys = (rng.integers(self.size, size=(count, self.length)) if self.repeat
                else rng.permuted(every, axis=1)[:, :self.length])
        return keys, np.take_along_axis(matched, keys, axis=1)

    def _ids(self, keys: NDArray[Any], values: NDArray[Any]) -> tuple[str, ...]:
        return row_ids(self.name, np.concatenate([keys, values], axis=1))

    def _value_chances(self, known: Mapping[int, int], key: int) -> NDArray[np.float64]:
        if key in known:
            certain: NDArray[np.float64] = np.eye(self.size)[known[key]]
            return certain
        left = np.ones(self.size)
        left[list(known.values())] = 0
        chances: NDArray[np.float64] = left / left.sum()
        return chances

    def _possible(self, pair: Pair, known: Mapping[int, int]) -> bool:
        key, value = pair
        if max(key, value) >= self.size:
            return False
        if key in known:
            return self.repeat and known[key] == value
        return value not in known.values()

    def _prompt(self, style: str) -> str:
        return REQUEST if style == "text" else f"{BOS} "

    def _line(self, pair: Pair, style: str) -> str:
        key, value = pair
        if style == "pairs":
            return f"k{key} v{value}"
        return f"{string.ascii_uppercase[key]} is {string.ascii_lowercase[value]}"

    def _write(self, pairs: Sequence[Pair], style: str) -> str:
        return (" " if style == "pairs" else "\n").join(self._line(p, style) for p in pairs)

    def _read(self, text: str, style: str) -> Pair | None:
        if style == "pairs":
            match = _PAIR.fullmatch(text)
            return None if match is None else (int(match[1]), int(match[2]))
        match = _LINE.fullmatch(text.strip())
        return None if match is None else (string.ascii_uppercase.index(match[1]),
                                           string.ascii_lowercase.index(match[2]))


def _new_keys(pairs: Sequence[Pair]) -> list[int]:
    """Where a key comes for the first time, after another."""
    return [i for i, (key, _) in enumerate(pairs) if i and key not in {k for k, _ in pairs[:i]}]


def _old_keys(pairs: Sequence[Pair]) -> list[int]:
    return [i for i, (key, _) in enumerate(pairs) if key in {k for k, _ in pairs[:i]}]
