"""Graph Fourier transform: eigenvalues of a Laplacian and the energy of signals in its modes."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from validator.features.eigen import symmetric_eigh, symmetric_eigvalsh
from validator.types import Spectrum

__all__ = ["graph_spectrum"]


def graph_spectrum(laplacian: Tensor, signals: Mapping[str, Tensor], layer: int = -1) -> Spectrum:
    """Exact spectrum of symmetric Laplacians by dense eigendecomposition.

    The decomposition runs in double precision: modes of close eigenvalues mix by (rounding / gap),
    and in single precision that reaches the fourth digit of the energy descriptors.

    Args:
        laplacian: (..., T, T) symmetric; only symmetric matrices may be passed.
        signals: name -> (..., T, D) graph signals X; leading shapes broadcast.
        layer: carried into the result.

    Returns:
        Spectrum: eigenvalues (..., T) ascending, tiny negative rounding of the zero modes kept;
        mode_energy e_m = ||(U^T X)_m||^2 (Shuman et al. 2013, eq. 4), which sums to ||X||^2.
    """
    flat = laplacian.reshape(-1, *laplacian.shape[-2:])
    if not signals:
        return Spectrum(layer, symmetric_eigvalsh(flat).reshape(laplacian.shape[:-1]), {})
    eigenvalues, modes = (x.reshape(*laplacian.shape[:-2], *x.shape[1:])
                          for x in symmetric_eigh(flat))
    energy = {
        name: (modes.to(signal).transpose(-1, -2) @ signal).square().sum(-1)
        for name, signal in signals.items()
    }
    return Spectrum(layer, eigenvalues, energy)
