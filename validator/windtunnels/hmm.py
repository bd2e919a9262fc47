"""Following a hidden Markov model through its observations (arXiv 2512.22471, section 4).

The forward algorithm is the perfect reasoner: with belief b over the state, transition matrix A and
emission matrix E, the next observation has the distribution b E, and seeing o turns b into the
normalised (b * E[:, o]) A. All probabilities are whole multiples of 1 / levels, so that a prompt
can say them exactly.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterator, Sequence
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
from validator.windtunnels.hmm_weights import Weights, draw_weights, fixed_weights, machine_text
from validator.windtunnels.symbols import BOS

__all__ = ["Chain", "HMMTunnel", "forward"]

_SYMBOL = re.compile(r"o(\d+)")
_LINE = re.compile(r"shows ([a-z])\.?")


@dataclass(frozen=True, slots=True)
class Chain:
    """The weights of a machine and what it showed."""

    weights: Weights
    observations: tuple[int, ...]


def forward(chain: Weights, observations: Sequence[int | None]) -> NDArray[np.float64]:
    """(N + 1, O) the next observation's distribution before each of N observations and after all.

    None, or an observation without a chance, counts as one that was not seen.
    """
    belief, transition, emission = chain.probabilities()
    found = [belief @ emission]
    for seen in observations:
        if seen is not None and found[-1][seen] > 0:
            belief = belief * emission[:, seen]
            belief = belief / belief.sum()
        belief = belief @ transition
        found.append(belief @ emission)
    return np.array(found)


@dataclass(frozen=True)
class HMMTunnel:
    """Observations of a machine with hidden states; it begins in any state with equal chance.

    ===========  ============================================================
    style        observations
    ===========  ============================================================
    ``symbols``  ``<s> o3 o1 o4``; with ``given``, the weights of each row of
                 the transition and emission matrices come first, ``w2 w5 w3``
    ``text``     ``shows d``, a line for each, after the machine in English
    ===========  ============================================================
    """

    name = "hmm"
    states: int = 5
    outputs: int = 5
    """Symbols that a state may show."""
    length: int = 20
    """Observations."""
    given: bool = False
    """Whether each problem has its own parameters, in the prompt; else all have the same."""
    banded: bool = False
    """Whether state i goes to i or i + 1 only and shows i or i + 1 only (modulo their number), so
    that after each observation some are impossible; else no probability is 0."""
    levels: int = 20
    """Probabilities are whole multiples of 1 / levels."""
    parameter_seed: int = 0
    """Decides the parameters where they are not given."""

    def __post_init__(self) -> None:
        for name, valid, wanted in (
            ("states", self.states >= 2, "2 or more"),
            ("outputs", self.outputs >= 2, "2 or more"),
            ("length", self.length >= 1, "1 or more"),
            ("levels", max(self.states, self.outputs) <= self.levels <= 100,
             "no fewer than states and outputs, and 100 at most"),
            ("states", not self.banded or self.states == self.outputs >= 5,
             "as many as outputs and 5 or more where they are banded"),
        ):
            if not valid:
                raise ParameterError(f"{name} must be {wanted}, got {getattr(self, name)}")

    @property
    def styles(self) -> tuple[str, ...]:
        """``text`` has a letter for each state and output, so 26 of them."""
        fits = max(self.states, self.outputs) <= 26
        return ("symbols", "text") if fits else ("symbols",)

    @property
    def corruptions(self) -> tuple[str, ...]:
        """``impossible`` where something is, else ``unlikely``."""
        return ("impossible",) if self.banded else ("unlikely",)

    def symbols(self, style: str) -> tuple[str, ...]:
        """Observations, then weights 0 ... levels where they are given; none of ``text``."""
        require_style(self, style)
        if style == "text":
            return ()
        weights = range(self.levels + 1) if self.given else ()
        return (*self._outputs, *(f"w{w}" for w in weights))

    def sample(self, rng: np.random.Generator) -> Problem:
        """A machine and what it showed."""
        weights, seen = self._arrays(rng, 1)
        return Problem(self._ids(weights, seen)[0],
                       Chain(self._weights(weights[0]), tuple(seen[0].tolist())),
                       {"states": self.states, "outputs": self.outputs, "given": self.given})

    def token_batch(self, rng: np.random.Generator, count: int, style: str) -> TokenBatch:
        """Fresh sequences as token ids; every observation is supervised, the first one too."""
        require_tokens(self, style)
        weights, seen = self._arrays(rng, count)
        shown = weights if self.given else weights[:, :0]
        ids = np.concatenate([np.ones((count, 1), dtype=np.int64),
                              FIRST_SYMBOL + self.outputs + shown, FIRST_SYMBOL + seen], axis=1)
        labels = np.full_like(ids, IGNORED)
        labels[:, -self.length:] = ids[:, -self.length:]
        return TokenBatch(ids, labels, self._ids(weights, seen))

    def render(self, problem: Problem, style: str) -> Trace:
        """The observations, all of them the completion."""
        return self.judge(problem, style, self._write(problem.content.observations, style),
                          trace_id=problem.id, source=self.name)

    def judge(self, problem: Problem, style: str, completion: str, *, trace_id: str,
              source: str = "") -> Trace:
        """A completion that anybody wrote as a trace of this problem, with its exact labels."""
        require_style(self, style)
        trace = labelled_trace(problem, self._prompt(problem, style), completion, style=style,
                               source=source, trace_id=trace_id)
        return written(trace, self.verify(problem, trace))

    def verify(self, problem: Problem, trace: Trace) -> tuple[bool, ...]:
        """Whether each observation can be, given the possible ones before it.

        Where nothing is impossible it is right if it is the one that was drawn for its place.
        """
        style, texts = step_texts(trace, "symbols")
        seen = [self._read(text, style) for text in texts]
        if not self.banded:
            drawn = problem.content.observations
            return tuple(i < len(drawn) and o == drawn[i] for i, o in enumerate(seen))
        chances = forward(problem.content.weights, seen)
        return tuple(o is not None and bool(chances[i, o] > 0) for i, o in enumerate(seen))

    def corrupt(self, problem: Problem, style: str, kind: str, rng: np.random.Generator) -> Trace:
        """One observation becomes another; those after it stay.

        ``impossible``: one that has no chance at its place (and then one after it may have none
        either). ``unlikely``: of the other ones, that with the least chance at its place.
        """
        require_style(self, style)
        require_kind(self, kind)
        seen = list(problem.content.observations)
        chances = forward(problem.content.weights, seen)
        at = int(rng.integers(kind == "impossible", len(seen)))
        if kind == "impossible":
            seen[at] = int(rng.choice(np.flatnonzero(chances[at] == 0)))
        else:
            others = [o for o in range(self.outputs) if o != seen[at]]
            seen[at] = min(others, key=lambda o: float(chances[at, o]))
        wrong = self.judge(problem, style, self._write(seen, style), trace_id="")
        return twin(self.render(problem, style), wrong.completion, kind, wrong.steps or (),
                    [bool(label) for label in wrong.step_labels or ()])

    def posterior(self, problem: Problem, prefix: Sequence[str]) -> Posterior:
        """Of the next observation.

        Args:
            problem: whose parameters hold.
            prefix: the symbols of the prompt, all of them, and of the observations so far.

        Raises:
            ParameterError: the prefix does not begin with the prompt, or goes on with what is no
                observation.
        """
        prompt = after_begin(self._prompt(problem, "symbols").split())
        symbols = after_begin(prefix)
        if symbols[:len(prompt)] != prompt:
            raise ParameterError("the prefix must begin with the problem's weights, whole; it "
                                 f"begins with {' '.join(symbols[:5])!r}")
        seen = [one_of(s, self._outputs, "an observation") for s in symbols[len(prompt):]]
        return Posterior(self._outputs, forward(problem.content.weights, seen)[-1])

    def queries(self, problem: Problem, style: str) -> tuple[Query, ...]:
        """Each observation, after those before it."""
        require_style(self, style)
        seen, text = problem.content.observations, self._prompt(problem, style)
        names = self._outputs if style == "symbols" else string.ascii_lowercase[:self.outputs]
        candidates = tuple(f" {name}" for name in names)
        chances = forward(problem.content.weights, seen)
        found = []
        for i, o in enumerate(seen):
            before = text.rstrip(" ") if style == "symbols" else f"{text}shows"
            found.append(Query(i, before, candidates, Posterior(self._outputs, chances[i])))
            text = before + candidates[o] + (" " if style == "symbols" else "\n")
        return tuple(found)

    @property
    def _outputs(self) -> tuple[str, ...]:
        return tuple(f"o{i}" for i in range(self.outputs))

    def _arrays(self, rng: np.random.Generator, count: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """(N, S (S + O)) weights, row by row, and (N, L) observations."""
        if self.given:
            weights = draw_weights(rng, count, self.states, self.outputs, self.levels, self.banded)
        else:
            weights = np.tile(fixed_weights(self.parameter_seed, self.states, self.outputs,
                                            self.levels, self.banded), (count, 1))
        return weights, np.stack(list(self._observe(rng, weights)), axis=1)

    def _observe(self, rng: np.random.Generator, weights: NDArray[Any]) -> Iterator[NDArray[Any]]:
        count, s = len(weights), self.states
        transition = weights[:, :s * s].reshape(count, s, s).cumsum(axis=2)
        emission = weights[:, s * s:].reshape(count, s, self.outputs).cumsum(axis=2)
        row, state = np.arange(count), rng.integers(s, size=count)
        for _ in range(self.length):
            draws = rng.integers(self.levels, size=(2, count, 1))
            yield (draws[0] >= emission[row, state]).sum(axis=1)
            state = (draws[1] >= transition[row, state]).sum(axis=1)

    def _ids(self, weights: NDArray[Any], seen: NDArray[Any]) -> tuple[str, ...]:
        return row_ids(self.name, np.concatenate([weights, seen], axis=1))

    def _weights(self, flat: NDArray[Any]) -> Weights:
        cut = self.states ** 2
        return Weights(tuple(map(tuple, flat[:cut].reshape(self.states, -1).tolist())),
                       tuple(map(tuple, flat[cut:].reshape(self.states, -1).tolist())))

    def _prompt(self, problem: Problem, style: str) -> str:
        weights: Weights = problem.content.weights
        if style == "text":
            return machine_text(weights)
        rows = (*weights.transition, *weights.emission) if self.given else ()
        return " ".join([BOS, *(f"w{w}" for row in rows for w in row)]) + " "

    def _write(self, seen: Sequence[int], style: str) -> str:
        if style == "symbols":
            return " ".join(f"o{o}" for o in seen)
        return "\n".join(f"shows {string.ascii_lowercase[o]}" for o in seen)

    def _read(self, text: str, style: str) -> int | None:
        if style == "symbols":
            match = _SYMBOL.fullmatch(text)
            number = self.outputs if match is None else int(match[1])
        else:
            match = _LINE.fullmatch(text.strip())
            number = self.outputs if match is None else string.ascii_lowercase.index(match[1])
        return number if number < self.outputs else None
