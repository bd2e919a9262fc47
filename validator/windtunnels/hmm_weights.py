"""Parameters of hidden Markov models as whole numbers."""

from __future__ import annotations

import string
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Weights", "draw_weights", "fixed_weights", "machine_text"]

Rows = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class Weights:
    """Rows of whole numbers, each with the same sum: probabilities times that sum."""

    transition: Rows
    """(S, S) from the state of the row to that of the column."""
    emission: Rows
    """(S, O) what the state of the row shows."""

    def probabilities(
        self,
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """(S,) uniform first state, (S, S) transitions and (S, O) emissions; rows sum to 1."""
        transition, emission = np.array(self.transition, float), np.array(self.emission, float)
        states = len(transition)
        return (np.full(states, 1 / states), transition / transition.sum(1, keepdims=True),
                emission / emission.sum(1, keepdims=True))


def draw_weights(
    rng: np.random.Generator, count: int, states: int, outputs: int, levels: int, banded: bool
) -> NDArray[Any]:
    """(N, S (S + O)) transition rows, then emission rows, of N machines.

    Every way to write ``levels`` as a sum of positive numbers is equally likely. Banded rows have
    two, in the columns i and i + 1 of row i.
    """
    if not banded:
        return np.concatenate([_rows(rng, count * states, width, levels).reshape(count, -1)
                               for width in (states, outputs)], axis=1)
    pairs = _rows(rng, count * 2 * states, 2, levels).reshape(count, 2, states, 2)
    square = np.zeros((count, 2, states, states), dtype=np.int64)
    i = np.arange(states)
    square[:, :, i, i], square[:, :, i, (i + 1) % states] = pairs[..., 0], pairs[..., 1]
    return square.reshape(count, -1)


def _rows(rng: np.random.Generator, count: int, width: int, levels: int) -> NDArray[Any]:
    """(N, W) positive numbers that sum to ``levels``: the gaps between W - 1 distinct cuts."""
    cuts = rng.permuted(np.tile(np.arange(1, levels), (count, 1)), axis=1)[:, :width - 1]
    edges = np.pad(np.sort(cuts, axis=1), ((0, 0), (1, 1)), constant_values=((0, 0), (0, levels)))
    gaps: NDArray[Any] = np.diff(edges, axis=1)
    return gaps


def fixed_weights(
    seed: int, states: int, outputs: int, levels: int, banded: bool
) -> NDArray[Any]:
    """(S (S + O),) the weights that a seed stands for."""
    drawn = draw_weights(np.random.default_rng(seed), 1, states, outputs, levels, banded)
    first: NDArray[Any] = drawn[0]
    return first


def machine_text(weights: Weights) -> str:
    """The machine in English, every probability a percentage."""
    states = ", ".join(string.ascii_uppercase[:len(weights.transition)])
    head = (f"A machine is always in one of these states: {states}. It begins in any of them with "
            "equal chance. In each round it shows a letter and then changes its state.")
    lines = [head]
    for i, (moves, shows) in enumerate(zip(weights.transition, weights.emission, strict=True)):
        lines.append(f"In state {string.ascii_uppercase[i]} it shows "
                     f"{_listed(shows, string.ascii_lowercase)}, and then goes to "
                     f"{_listed(moves, string.ascii_uppercase)}.")
    return "\n".join([*lines, "This is what it shows:\n"])


def _listed(row: tuple[int, ...], names: str) -> str:
    total = sum(row)
    return ", ".join(f"{names[i]} with {100 * w / total:g}%" for i, w in enumerate(row) if w)
