"""Numbers to filter and sort: what is drawn, the right next step, and how steps are written.

=========  =================================================  =====================================
style      problem                                            steps
=========  =================================================  =====================================
``flat``   ``34 71 12 rule even :``                           ``34 12 | 12 34``
``text``   English                                            ``keep 34``, then ``place 12``, a line
                                                              for each
=========  =================================================  =====================================
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from validator.windtunnels.tree_arrays import mix64

__all__ = [
    "MARKS", "RULES", "SMALLEST", "Action", "Sorting", "SortingArrays", "next_action",
    "problem_text", "read_action", "sample_sortings", "sorting_keys", "write_actions",
]

Ints = NDArray[np.int64]
SMALLEST = 10
"""All numbers have two digits, so that no tokenizer makes one longer than another."""
RULES = ("even", "odd", "above", "below")
MARKS = (*RULES, "rule", ":", "|")


@dataclass(frozen=True, slots=True)
class Sorting:
    """Distinct numbers in the order in which they are listed, and which of them to keep."""

    numbers: tuple[int, ...]
    rule: str
    """One of :data:`RULES`."""
    threshold: int
    """Of ``above`` and ``below``; not read by the others."""

    def keeps(self, number: int) -> bool:
        """Whether the rule holds for a number, listed or not."""
        return {"even": number % 2 == 0, "odd": number % 2 == 1, "above": number > self.threshold,
                "below": number < self.threshold}[self.rule]

    @property
    def kept(self) -> tuple[int, ...]:
        """Those for which the rule holds, as they are listed."""
        return tuple(number for number in self.numbers if self.keeps(number))


class Action(NamedTuple):
    """One step: a number of the first or the second stage, or the turn between them. In the flat
    style a number does not say which stage it belongs to: it is ``keep`` before the turn."""

    kind: Literal["keep", "turn", "place"]
    number: int = -1


def next_action(sorting: Sorting, style: str, actions: Sequence[Action]) -> Action | None:
    """The right step after any others, or None where it is over.

    The next number to keep is the first after the last listed one that was kept, whatever was
    passed over; the next to place is the smallest of those that were kept, rightly or wrongly, and
    are not placed yet.
    """
    kept = [action.number for action in actions if action.kind == "keep"]
    placed = [action.number for action in actions if action.kind == "place"]
    if not placed and not any(action.kind == "turn" for action in actions):
        listed = [sorting.numbers.index(number) for number in kept if number in sorting.numbers]
        later = sorting.numbers[listed[-1] + 1 if listed else 0:]
        following = [number for number in later if sorting.keeps(number)]
        if following:
            return Action("keep", following[0])
        if style == "flat":
            return Action("turn")
    for number in placed:
        if number in kept:
            kept.remove(number)
    return Action("place", min(kept)) if kept else None


def problem_text(sorting: Sorting, style: str) -> str:
    """The prompt, with the white space that parts it from the completion."""
    bound = f" {sorting.threshold}" if sorting.rule in ("above", "below") else ""
    if style == "flat":
        return f"{' '.join(map(str, sorting.numbers))} rule {sorting.rule}{bound} : "
    return (f"The numbers are {', '.join(map(str, sorting.numbers))}. Keep those that are "
            f"{sorting.rule}{bound}, in this order, one on each line, written as `keep NUMBER`, "
            "and then the same from the smallest to the largest, written as `place NUMBER`.\n")


def write_actions(actions: Sequence[Action], style: str) -> str:
    """The completion of these steps."""
    if style == "text":
        return "\n".join(f"{action.kind} {action.number}" for action in actions)
    return " ".join("|" if action.kind == "turn" else str(action.number) for action in actions)


_WORD = re.compile(r"[1-9][0-9]")
_LINE = re.compile(r"[-*\s]*(keep|place) ([1-9][0-9])[.,;]?", re.IGNORECASE)


def read_action(step: str, style: str, turned: bool) -> Action | None:
    """The step that a piece of text is, or None where it is none of this style.

    Args:
        step: the text.
        style: ``flat`` or ``text``.
        turned: whether the turn came before it, which only ``flat`` needs to know.
    """
    step = step.strip()
    if style == "text":
        match = _LINE.fullmatch(step)
        if match is None:
            return None
        return Action("keep" if match[1].lower() == "keep" else "place", int(match[2]))
    if step == "|":
        return Action("turn")
    return Action("place" if turned else "keep", int(step)) if _WORD.fullmatch(step) else None


@dataclass(frozen=True, slots=True, eq=False)
class SortingArrays:
    """N problems; numbers that a row has fewer of than the longest are -1."""

    numbers: Ints
    """(N, W)"""
    rule: Ints
    """(N,) places in :data:`RULES`."""
    threshold: Ints
    """(N,)"""
    keeps: NDArray[np.bool_]
    """(N, W) which of the numbers the rule holds for."""


def sample_sortings(
    rng: np.random.Generator, count: int, *, numbers: tuple[int, int], kept: tuple[int, int],
    values: int,
) -> SortingArrays:
    """Draw problems; rules, how many numbers there are and how many are kept are uniform.

    Args:
        rng: its state decides the problems.
        count: N.
        numbers: fewest and most numbers, more than are kept at most.
        kept: fewest and most numbers for which the rule holds.
        values: numbers are below ``SMALLEST + values``, which leaves each rule as many on both
            sides as there are numbers at most.
    """
    size, wanted = (rng.integers(low, high + 1, count) for low, high in (numbers, kept))
    rule = rng.integers(0, len(RULES), count)
    threshold = SMALLEST + rng.integers(numbers[1], values - numbers[1], count)
    value = SMALLEST + np.arange(values)
    holds = np.stack([np.broadcast_to(value % 2 == 0, (count, values)),
                      np.broadcast_to(value % 2 == 1, (count, values)),
                      value > threshold[:, None], value < threshold[:, None]])[
                          rule, np.arange(count)]
    chosen = np.where(holds, _rank(rng, holds) < wanted[:, None],
                      _rank(rng, ~holds) < (size - wanted)[:, None])
    order = np.argsort(np.where(chosen, rng.random(chosen.shape), 2.0), axis=1)[:, : size.max()]
    absent = np.arange(order.shape[1]) >= size[:, None]
    return SortingArrays(np.where(absent, -1, SMALLEST + order), rule, threshold,
                         np.take_along_axis(holds, order, 1) & ~absent)


def _rank(rng: np.random.Generator, among: NDArray[np.bool_]) -> Ints:
    """(N, V) places of the marked entries in a random order of them."""
    keys = np.where(among, rng.random(among.shape), 2.0)
    return np.asarray(np.argsort(np.argsort(keys, axis=1), axis=1), dtype=np.int64)


def sorting_keys(arrays: SortingArrays) -> NDArray[np.uint64]:
    """(N,) a 64-bit key of each list and its rule, by the same sum as the keys of trees."""
    listed = mix64(np.arange(arrays.numbers.shape[1]) * 256 + arrays.numbers)
    total = np.where(arrays.numbers >= 0, listed, np.uint64(0)).sum(1, dtype=np.uint64)
    bound = np.where(arrays.rule >= RULES.index("above"), arrays.threshold, 0)
    return np.asarray(total + mix64(65536 + arrays.rule * 256 + bound), dtype=np.uint64)
