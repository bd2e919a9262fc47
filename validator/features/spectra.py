"""The spectra of attention graphs behind one face, whichever solver found them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from validator.features import descriptors as d
from validator.features.graph import laplacian
from validator.features.spectrum import graph_spectrum

__all__ = ["ExactSolver", "Solver", "Spectra"]

Array = NDArray[np.float64]


class Spectra(Protocol):
    """Descriptors of graphs of any leading shape (...), each (...) float64."""

    def fiedler_value(self) -> Array: ...  # noqa: D102
    def spectral_gap(self, k: int) -> Array: ...  # noqa: D102
    def quantiles(self, q: Sequence[float]) -> Array: ...  # noqa: D102
    def eigenvalue_entropy(self) -> Array: ...  # noqa: D102
    def hfer(self, signal: str, cutoff: float) -> Array: ...  # noqa: D102
    def roughness(self, signal: str) -> Array: ...  # noqa: D102
    def smoothness(self, signal: str) -> Array: ...  # noqa: D102
    def dirichlet_energy(self, signal: str) -> Array: ...  # noqa: D102
    def signal_entropy(self, signal: str) -> Array: ...  # noqa: D102


class Solver(Protocol):
    """Attention -> spectra of its symmetric graph's Laplacian."""

    @property
    def label(self) -> str:
        """Name and settings: what stands in reports and in a store's recipe."""
        ...

    @property
    def has_modes(self) -> bool:
        """Whether single modes are known, and with them :meth:`Spectra.signal_entropy`."""
        ...

    def spectra(self, attention: Tensor, kind: str, signals: Mapping[str, Tensor]) -> Spectra:
        """Spectra of (..., n, n) attention maps with signals (..., n, D).

        Args:
            attention: preprocessed; its symmetric graph is (A + A^T) / 2.
            kind: of the Laplacian, ``normalized`` or ``combinatorial``.
            signals: leading shapes broadcast against the attention's.
        """
        ...


@dataclass(frozen=True, slots=True)
class ExactSolver:
    """Dense eigendecomposition in double precision: O(n^3) per graph."""

    @property
    def label(self) -> str:
        """See :class:`Solver`."""
        return "exact"

    @property
    def has_modes(self) -> bool:
        """See :class:`Solver`."""
        return True

    def spectra(self, attention: Tensor, kind: str, signals: Mapping[str, Tensor]) -> Spectra:
        """See :class:`Solver`."""
        found = graph_spectrum(laplacian(attention, kind), signals)
        return _ExactSpectra(
            found.eigenvalues.cpu().numpy(),
            {name: e.cpu().numpy() for name, e in found.mode_energy.items()})


@dataclass(frozen=True, slots=True)
class _ExactSpectra:
    eigenvalues: Array
    energy: Mapping[str, Array]

    def fiedler_value(self) -> Array:
        return d.fiedler_value(self.eigenvalues)

    def spectral_gap(self, k: int) -> Array:
        return d.spectral_gap(self.eigenvalues, k)

    def quantiles(self, q: Sequence[float]) -> Array:
        return d.quantiles(self.eigenvalues, q)

    def eigenvalue_entropy(self) -> Array:
        return d.eigenvalue_entropy(self.eigenvalues)

    def hfer(self, signal: str, cutoff: float) -> Array:
        return d.hfer(self.energy[signal], cutoff)

    def roughness(self, signal: str) -> Array:
        return d.roughness(self.eigenvalues, self.energy[signal])

    def smoothness(self, signal: str) -> Array:
        return d.smoothness(self.eigenvalues, self.energy[signal])

    def dirichlet_energy(self, signal: str) -> Array:
        return d.dirichlet_energy(self.eigenvalues, self.energy[signal])

    def signal_entropy(self, signal: str) -> Array:
        return d.signal_entropy(self.energy[signal])
