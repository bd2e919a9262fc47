"""Keeping the numbers that meet a rule, then sorting them: two stages that are no path.

The same contract as :mod:`validator.windtunnels.tree`, for what holds of trees and of nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

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
from validator.windtunnels.sorting import (
    MARKS,
    RULES,
    SMALLEST,
    Action,
    Sorting,
    SortingArrays,
    next_action,
    problem_text,
    read_action,
    sample_sortings,
    sorting_keys,
    write_actions,
)
from validator.windtunnels.symbols import EOS
from validator.windtunnels.tree_arrays import Piece, pack
from validator.windtunnels.tree_text import step_spans

__all__ = ["FilterSortTunnel"]

FIRST, END = 3, 2
"""Ids of the first symbol and of the end in the symbol tokenizer."""


@dataclass(frozen=True)
class FilterSortTunnel:
    """Distinct numbers and a rule; first those it holds for as they are listed, then sorted."""

    name = "filter-sort"
    styles = ("flat", "text")
    corruptions = ("swapped", "off_rule", "early_stop", "bad_order")
    numbers: tuple[int, int] = (8, 16)
    """Fewest and most numbers of a list."""
    kept: tuple[int, int] = (2, 6)
    """Fewest and most of them for which the rule holds."""
    values: int = 40
    """Numbers are 10 and up to this many more."""

    def __post_init__(self) -> None:
        for name, valid, wanted in (
            ("kept", 2 <= self.kept[0] <= self.kept[1], "2 or more, ascending"),
            ("numbers", self.kept[1] < self.numbers[0] <= self.numbers[1],
             "ascending, and more than are kept at most"),
            ("values", 2 * self.numbers[1] < self.values <= 90,
             "more than twice the most numbers, and at most 90"),
        ):
            if not valid:
                raise ParameterError(f"{name} must be {wanted}, got {getattr(self, name)!r}")

    def symbols(self, style: str) -> tuple[str, ...]:
        """The marks, then the numbers; none of ``text``."""
        require_style(self, style)
        numbers = (str(SMALLEST + i) for i in range(self.values))
        return (*MARKS, *numbers) if style == "flat" else ()

    def sample_arrays(self, rng: np.random.Generator, count: int) -> SortingArrays:
        """Many problems at once; one of them is what :meth:`sample` draws."""
        return sample_sortings(
            rng, count, numbers=self.numbers, kept=self.kept, values=self.values)

    def sample(self, rng: np.random.Generator) -> Problem:
        """A list and a rule."""
        return self.problems(self.sample_arrays(rng, 1))[0]

    def problems(self, arrays: SortingArrays) -> list[Problem]:
        """Each of many as a problem; its ``depth`` is how many numbers are kept."""
        found = []
        for listed, rule, threshold, key in zip(
                arrays.numbers.tolist(), arrays.rule.tolist(), arrays.threshold.tolist(),
                sorting_keys(arrays), strict=True):
            content = Sorting(tuple(n for n in listed if n >= 0), RULES[rule], threshold)
            facts = {"depth": len(content.kept), "rule": content.rule}
            found.append(Problem(f"filter-sort-{key:016x}", content, facts))
        return found

    def token_batch(self, rng: np.random.Generator, count: int, style: str) -> TokenBatch:
        """Fresh problems as token ids; every symbol of the solution and the end are supervised.

        Raises ParameterError for ``text``, which has no ids of its own.
        """
        require_style(self, style)
        if style != "flat":
            raise ParameterError(f"a model of symbols reads the style flat, not {style!r}")
        arrays = self.sample_arrays(rng, count)
        names = [f"filter-sort-{key:016x}" for key in sorting_keys(arrays)]
        return pack(_pieces(arrays), names)

    def render(self, problem: Problem, style: str) -> Trace:
        """The problem with its solution."""
        require_style(self, style)
        kept = problem.content.kept
        completion = write_actions(_both(kept, sorted(kept), style), style)
        return self.judge(problem, style, completion, trace_id=problem.id, source=self.name)

    def judge(self, problem: Problem, style: str, completion: str, *, trace_id: str,
              source: str = "") -> Trace:
        """A completion that anybody wrote as a trace, with its exact labels.

        Args:
            problem: what it answers.
            style: how it is written.
            completion: any text; what is no step of the style is a wrong step.
            trace_id: of the trace.
            source: who wrote it.
        """
        require_style(self, style)
        prompt, spans = problem_text(problem.content, style), step_spans(completion, style)
        meta = {**problem.meta, "style": style}
        bare = Trace(trace_id, problem.id, prompt, completion, steps=spans, meta=meta)
        labels = tuple(int(verdict) for verdict in self.verify(problem, bare))
        return Trace(trace_id, problem.id, prompt, completion, int(self.valid(problem, bare)),
                     spans, labels, source, meta=meta)

    def verify(self, problem: Problem, trace: Trace) -> tuple[bool, ...]:
        """Whether each step is the right one after those before it, as it was led by them.

        The style is the trace's ``meta["style"]``, else ``flat``. See :func:`.next_action`.
        """
        return self._walk(problem, trace)[0]

    def valid(self, problem: Problem, trace: Trace) -> bool:
        """Whether all steps are right and they end where they must."""
        verdicts, following = self._walk(problem, trace)
        return bool(verdicts) and all(verdicts) and following is None

    def corrupt(self, problem: Problem, style: str, kind: str, rng: np.random.Generator) -> Trace:
        """A wrong solution of as many steps, each as many characters as the right one.

        ``swapped``: two neighbours of the first stage change places. ``off_rule``: a number for
        which the rule does not hold is kept in the place of one, and sorted in. ``early_stop``: the
        second stage breaks off and repeats its last number. ``bad_order``: the second stage has the
        same numbers in another order.
        """
        require_style(self, style)
        require_kind(self, kind)
        right = self.render(problem, style)
        kept, placed = CORRUPTIONS[kind](problem.content, rng)
        completion = write_actions(_both(kept, placed, style), style)
        judged = self.judge(problem, style, completion, trace_id=right.id)
        return twin(right, completion, kind, judged.steps or (),
                    self.verify(problem, judged))

    def posterior(self, problem: Problem, prefix: Sequence[str]) -> Posterior:
        """All mass on the one right next symbol, or on the end.

        Args:
            problem: the list and the rule.
            prefix: symbols of the prompt, all of it, and of the completion so far.

        Raises:
            ParameterError: the prefix does not begin with the prompt in the style ``flat``.
        """
        prompt = problem_text(problem.content, "flat")
        shown = prompt.split()
        if list(prefix[: len(shown)]) != shown:
            raise ParameterError("the prefix must begin with the problem's prompt, whole, in the "
                                 f"style flat; it begins with {' '.join(prefix[:5])!r}")
        trace = Trace("", problem.id, prompt, " ".join(prefix[len(shown):]))
        following = self._walk(problem, trace)[1]
        symbol = EOS if following is None else write_actions([following], "flat")
        symbols = (EOS, *self.symbols("flat"))
        return Posterior(symbols, np.array([s == symbol for s in symbols], dtype=float))

    def _walk(self, problem: Problem, trace: Trace) -> tuple[tuple[bool, ...], Action | None]:
        """The verdict on each step of a trace, and what would be right after the last."""
        style = "text" if trace.meta.get("style") == "text" else "flat"
        spans = trace.steps if trace.steps is not None else step_spans(trace.completion, style)
        read: list[Action] = []
        verdicts = []
        for start, end in spans:
            turned = any(action.kind == "turn" for action in read)
            action = read_action(trace.completion[start:end], style, turned)
            verdicts.append(
                action is not None and action == next_action(problem.content, style, read))
            read += [action] if action is not None else []
        return tuple(verdicts), next_action(problem.content, style, read)


def _pieces(arrays: SortingArrays) -> list[Piece]:
    """Prompt, solution and end as columns of token ids."""
    numbers = FIRST + len(MARKS) - SMALLEST
    mark = {symbol: FIRST + i for i, symbol in enumerate(MARKS)}
    column = np.ones((len(arrays.rule), 1), dtype=bool)
    bound = (arrays.rule >= RULES.index("above"))[:, None]
    ids = numbers + arrays.numbers
    order = np.argsort(np.where(arrays.keeps, arrays.numbers, 1000), axis=1)
    return [
        Piece(ids, arrays.numbers >= 0),
        Piece(np.full(column.shape, mark["rule"]), column),
        Piece(FIRST + arrays.rule[:, None], column),
        Piece(numbers + arrays.threshold[:, None], bound),
        Piece(np.full(column.shape, mark[":"]), column),
        Piece(ids, arrays.keeps, True),
        Piece(np.full(column.shape, mark["|"]), column, True),
        Piece(np.take_along_axis(ids, order, 1), np.take_along_axis(arrays.keeps, order, 1), True),
        Piece(np.full(column.shape, END), column, True)]


def _both(kept: Sequence[int], placed: Sequence[int], style: str) -> list[Action]:
    turn = [Action("turn")] if style == "flat" else []
    return [*(Action("keep", n) for n in kept), *turn, *(Action("place", n) for n in placed)]


Stages = tuple[list[int], list[int]]


def _swapped(sorting: Sorting, rng: np.random.Generator) -> Stages:
    kept = list(sorting.kept)
    i = int(rng.integers(len(kept) - 1))
    kept[i], kept[i + 1] = kept[i + 1], kept[i]
    return kept, sorted(kept)


def _off_rule(sorting: Sorting, rng: np.random.Generator) -> Stages:
    kept = list(sorting.kept)
    others = [number for number in sorting.numbers if not sorting.keeps(number)]
    kept[int(rng.integers(len(kept)))] = int(rng.choice(others))
    return kept, sorted(kept)


def _early_stop(sorting: Sorting, rng: np.random.Generator) -> Stages:
    placed = sorted(sorting.kept)
    kept = int(rng.integers(1, len(placed)))
    return list(sorting.kept), placed[:kept] + [placed[kept - 1]] * (len(placed) - kept)


def _bad_order(sorting: Sorting, rng: np.random.Generator) -> Stages:
    right = sorted(sorting.kept)
    wrong = right
    while wrong == right:
        wrong = [int(number) for number in rng.permutation(right)]
    return list(sorting.kept), wrong


CORRUPTIONS: dict[str, Callable[[Sorting, np.random.Generator], Stages]] = {
    "swapped": _swapped, "off_rule": _off_rule, "early_stop": _early_stop, "bad_order": _bad_order,
}
