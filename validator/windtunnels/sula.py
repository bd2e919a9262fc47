"""Weighing examples whose labels hold nine times in ten (SULA, arXiv 2512.23752, section 5.2).

A hidden label y is one of V, all equally likely. Each of k examples carries a label that is y with
probability 0.9, and each other label with an equal share of the rest; nothing else about an example
tells anything. Bayes' rule: p(y | labels) is proportional to the product over examples of 0.9 where
the example's label is y and 0.1 / (V - 1) where it is not. With two labels, n examples of one and m
of the other leave the log-odds (n - m) log 9, so the entropy falls as evidence gathers.

Two distributions are asked for: of y itself, by a query symbol (the paper's), and of the next
example's label, 0.9 p(y) + 0.1 (1 - p(y)) / (V - 1).
"""

from __future__ import annotations

from collections.abc import Sequence
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

__all__ = ["Examples", "SulaTunnel"]

ASK = "?"
"""The symbol after which the hidden label comes."""
CARRIERS = ("dax", "blick", "wug", "fep", "toma", "zorp", "gleeb", "kiki", "bouba", "mipen",
            "tufa", "lorp")
"""What the examples of the style ``text`` are about; they tell nothing."""


@dataclass(frozen=True, slots=True)
class Examples:
    """The hidden label and the examples' labels, as numbers."""

    hidden: int
    shown: tuple[int, ...]


@dataclass(frozen=True)
class SulaTunnel:
    """Examples in the prompt, the hidden label in the completion.

    ==========  ============================================================
    style       problem
    ==========  ============================================================
    ``answer``  ``<s> l0 l1 l0 ?``, answered by ``l0``
    ``text``    ``dax is positive``, a line for each, in English
    ==========  ============================================================
    """

    name = "sula"
    styles = ("answer", "text")
    corruptions = ("wrong_answer",)
    examples: int = 8
    """k."""
    reliability: float = 0.9
    """Chance that an example's label is the hidden one; with 1 / V examples tell nothing (the
    paper's shuffled labels)."""
    words: tuple[str, ...] = ("positive", "negative")
    """(V,) the labels of the style ``text``; other words are the paper's lexical remapping."""

    def __post_init__(self) -> None:
        count = len(self.words)
        if self.examples < 0 or count < 2 or len(set(self.words)) < count:
            raise ParameterError("examples must be 0 or more and words 2 or more, all different; "
                                 f"got {self.examples} and {self.words}")
        if not 0 < self.reliability < 1:
            raise ParameterError(f"reliability must be between 0 and 1, got {self.reliability}")

    def symbols(self, style: str) -> tuple[str, ...]:
        """Labels and the query symbol; none of ``text``."""
        require_style(self, style)
        return () if style == "text" else (*self._labels, ASK)

    def sample(self, rng: np.random.Generator) -> Problem:
        """A hidden label and examples."""
        hidden, shown = self._arrays(rng, 1)
        content = Examples(int(hidden[0]), tuple(shown[0].tolist()))
        return Problem(self._ids(hidden, shown)[0], content, {"examples": self.examples})

    def token_batch(self, rng: np.random.Generator, count: int, style: str) -> TokenBatch:
        """Fresh problems as token ids; the examples' labels and the answer are supervised.

        Each has 0 to k examples, so that a model learns the answer after any number.
        """
        require_tokens(self, style)
        hidden, shown = self._arrays(rng, count)
        here = rng.integers(self.examples + 1, size=count)
        ids = np.zeros((count, self.examples + 3), dtype=np.int64)
        labels = np.full_like(ids, IGNORED)
        ids[:, 0], ids[:, 1:-2] = 1, FIRST_SYMBOL + shown
        labels[:, 1:-2] = ids[:, 1:-2]
        labels[np.arange(ids.shape[1]) > here[:, None]] = IGNORED
        ids[np.arange(ids.shape[1]) > here[:, None]] = 0
        row = np.arange(count)
        ids[row, here + 1] = FIRST_SYMBOL + len(self.words)
        ids[row, here + 2] = labels[row, here + 2] = FIRST_SYMBOL + hidden
        return TokenBatch(ids, labels, self._ids(hidden, shown))

    def render(self, problem: Problem, style: str) -> Trace:
        """The examples, answered by the hidden label."""
        return self.judge(problem, style, self._answer(problem.content.hidden, style),
                          trace_id=problem.id, source=self.name)

    def judge(self, problem: Problem, style: str, completion: str, *, trace_id: str,
              source: str = "") -> Trace:
        """A completion that anybody wrote as a trace of this problem, with its exact label."""
        require_style(self, style)
        shown = problem.content.shown
        prompt = (" ".join([BOS, *(f"l{i}" for i in shown), ASK]) + " " if style == "answer"
                  else self._question(shown) + " ")
        trace = labelled_trace(problem, prompt, completion, style=style, source=source,
                               trace_id=trace_id)
        return written(trace, self.verify(problem, trace))

    def verify(self, problem: Problem, trace: Trace) -> tuple[bool, ...]:
        """Whether the answer is the hidden label, which evidence makes likely and never certain."""
        style, texts = step_texts(trace, "answer")
        wanted = self._answer(problem.content.hidden, style)
        return tuple(i == 0 and text.strip().rstrip(".") == wanted for i, text in enumerate(texts))

    def corrupt(self, problem: Problem, style: str, kind: str, rng: np.random.Generator) -> Trace:
        """``wrong_answer``: the answer is another label."""
        require_style(self, style)
        require_kind(self, kind)
        others = [i for i in range(len(self.words)) if i != problem.content.hidden]
        answer = self._answer(int(rng.choice(others)), style)
        wrong = self.judge(problem, style, answer, trace_id="")
        return twin(self.render(problem, style), answer, kind, wrong.steps or (), [False])

    def posterior(self, problem: Problem, prefix: Sequence[str]) -> Posterior:
        """Of the next example's label, or of the hidden label after the query symbol.

        Raises ParameterError for what is neither a label nor a query symbol at the end.
        """
        symbols = after_begin(prefix)
        asked = bool(symbols) and symbols[-1] == ASK
        shown = [one_of(s, self._labels, "a label") for s in symbols[:-1 if asked else None]]
        return Posterior(self._labels, self._chances(shown, asked=asked))

    def queries(self, problem: Problem, style: str) -> tuple[Query, ...]:
        """The hidden label after the first 0, 1, ... k examples."""
        require_style(self, style)
        found = []
        for k in range(self.examples + 1):
            shown = problem.content.shown[:k]
            prefix = (" ".join([BOS, *(f"l{i}" for i in shown), ASK]) if style == "answer"
                      else self._question(shown))
            names = self._labels if style == "answer" else self.words
            found.append(Query(k, prefix, tuple(f" {name}" for name in names),
                               Posterior(self._labels, self._chances(shown, asked=True))))
        return tuple(found)

    @property
    def _labels(self) -> tuple[str, ...]:
        return tuple(f"l{i}" for i in range(len(self.words)))

    @property
    def _error(self) -> float:
        """The chance of each label that is not the hidden one."""
        return (1 - self.reliability) / (len(self.words) - 1)

    def _chances(self, shown: Sequence[int], *, asked: bool) -> NDArray[np.float64]:
        counts = np.bincount(np.array(shown, dtype=int), minlength=len(self.words))
        odds = counts * (np.log(self.reliability) - np.log(self._error))
        hidden = np.exp(odds - odds.max())
        hidden = hidden / hidden.sum()
        following: NDArray[np.float64] = self._error + (self.reliability - self._error) * hidden
        return hidden if asked else following

    def _arrays(self, rng: np.random.Generator, count: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """(N,) hidden labels and (N, k) shown ones."""
        hidden = rng.integers(len(self.words), size=count)
        wrong = rng.random((count, self.examples)) >= self.reliability
        shift = rng.integers(1, len(self.words), size=(count, self.examples))
        return hidden, (hidden[:, None] + wrong * shift) % len(self.words)

    def _ids(self, hidden: NDArray[Any], shown: NDArray[Any]) -> tuple[str, ...]:
        return row_ids(self.name, np.concatenate([hidden[:, None], shown], axis=1))

    def _answer(self, label: int, style: str) -> str:
        return self._labels[label] if style == "answer" else self.words[label]

    def _question(self, shown: Sequence[int]) -> str:
        percent = f"{100 * self.reliability:g}%"
        head = (f"A hidden label is {' or '.join(self.words)}, each with equal chance. Every line "
                f"shows the hidden label with a chance of {percent}, and else another one.")
        lines = [f"{CARRIERS[i % len(CARRIERS)]} is {self.words[label]}"
                  for i, label in enumerate(shown)]
        return "\n".join([head, *lines, "The hidden label is"])
