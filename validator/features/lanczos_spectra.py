"""What is read off the Lanczos solver's estimates of spectral measures: one descriptor a method."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from validator.features import measures

__all__ = ["LanczosSpectra", "Round"]

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Round:
    """One estimate of the spectral measures of G graphs."""

    values: Array
    """(G, m) ascending, the null vector's 0 first."""
    masses: Array
    """(G, m)."""
    energy: Mapping[str, Array]
    """signal -> (G, m)."""
    error: Array
    """(G,) standard error of the distribution function."""


@dataclass(frozen=True, slots=True)
class LanczosSpectra:
    """Descriptors of G graphs of n nodes; see :class:`validator.features.spectra.Spectra`."""

    leading: tuple[int, ...]
    """Shape of what is returned; its product is G."""
    nodes: int
    trace: Array
    """(G,) sum of the eigenvalues, exact."""
    extremes: Array
    """(G, m) Ritz values, 0 first, the extremal ones refined."""
    energies: Mapping[str, tuple[Array, Array]]
    """signal -> Dirichlet energy and energy, both exact."""
    rounds: tuple[tuple[NDArray[np.intp], Round], ...]

    def fiedler_value(self) -> Array:
        """Refined, (leading)."""
        return self._shaped(self.extremes[:, 1])

    def spectral_gap(self, k: int) -> Array:
        """Refined for k up to 3, (leading); NaN where the subspace has no such value."""
        if k >= self.extremes.shape[-1]:
            return self._shaped(np.full(len(self.extremes), np.nan))
        return self._shaped(self.extremes[:, k] - self.extremes[:, k - 1])

    def quantiles(self, q: Sequence[float]) -> Array:
        """(Q, leading): 0 and the largest eigenvalue as they are, estimates between them."""
        shares = np.asarray(q, dtype=np.float64)
        found = self._mean(
            lambda _, r: measures.quantiles_of_measure(r.values, r.masses, shares, self.nodes).T)
        found[:, shares == 0.0] = 0.0
        found[:, shares == 1.0] = self.extremes[:, -1:]
        return np.stack([self._shaped(found[:, i]) for i in range(len(shares))])

    def eigenvalue_entropy(self) -> Array:
        """Estimate in nats, (leading)."""
        found = self._mean(lambda index, r: measures.entropy_of_measure(
            r.values, r.masses, self.nodes, self.trace[index])[:, None])
        return self._shaped(found[:, 0])

    def hfer(self, signal: str, cutoff: float) -> Array:
        """Estimate in [0, 1], (leading)."""
        level = math.ceil(cutoff * self.nodes) / self.nodes
        found = self._mean(
            lambda _, r: measures.share_above(r.masses, r.energy[signal], level)[:, None])
        return self._shaped(found[:, 0])

    def roughness(self, signal: str) -> Array:
        """Exact, (leading)."""
        dirichlet, total = self.energies[signal]
        return self._shaped(_ratio(dirichlet, total))

    def smoothness(self, signal: str) -> Array:
        """Exact but for the largest eigenvalue, (leading)."""
        dirichlet, total = self.energies[signal]
        return self._shaped(1.0 - _ratio(_ratio(dirichlet, total), self.extremes[:, -1]))

    def dirichlet_energy(self, signal: str) -> Array:
        """Exact, (leading)."""
        return self._shaped(self.energies[signal][0])

    def signal_entropy(self, signal: str) -> Array:
        """Not offered: it needs every single mode."""
        raise NotImplementedError("single modes are not known")

    def _mean(self, estimate: Callable[[NDArray[np.intp], Round], Array]) -> Array:
        """(G, c) mean over the rounds each graph had."""
        total: Array | None = None
        count = np.zeros((len(self.trace), 1))
        for index, found in self.rounds:
            part = estimate(index, found)
            if total is None:
                total = np.zeros((len(self.trace), part.shape[-1]))
            total[index] += part
            count[index] += 1
        assert total is not None
        return total / count

    def _shaped(self, values: Array) -> Array:
        return np.asarray(values, dtype=np.float64).reshape(self.leading)


def _ratio(numerator: Array, denominator: Array) -> Array:
    positive = denominator > 0
    return np.where(positive, numerator / np.where(positive, denominator, 1.0), np.nan)
