"""Scalar descriptors of spectra and of per-token quantities: pure functions on NumPy arrays.

Every function maps (..., T) to (...) float64, for any T; where a descriptor is undefined (too few
tokens, no energy) the result is NaN, and the caller names the reason.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "dirichlet_energy",
    "eigenvalue_entropy",
    "fiedler_value",
    "hfer",
    "largest",
    "quantiles",
    "roughness",
    "signal_entropy",
    "smoothness",
    "spectral_gap",
]

Array = NDArray[np.float64]


def fiedler_value(eigenvalues: ArrayLike) -> Array:
    """Second smallest Laplacian eigenvalue, the algebraic connectivity (Fiedler 1973).

    Args:
        eigenvalues: (..., T) ascending.

    Returns:
        (...) in [0, 2] for normalized Laplacians, 0 if and only if the graph is disconnected;
        NaN for T < 2.
    """
    values = _float64(eigenvalues)
    return _undefined(values) if values.shape[-1] < 2 else values[..., 1]


def spectral_gap(eigenvalues: ArrayLike, k: int = 2) -> Array:
    """Difference of neighbouring eigenvalues lambda_{k+1} - lambda_k, counted from 1.

    ``k=1`` is the Fiedler value of a connected graph; ``k=2``, the default, tells whether two
    clusters stand apart from a third (von Luxburg 2007, section 8.3, the eigengap).

    Returns:
        (...) non-negative; NaN for T < k + 1.
    """
    values = _float64(eigenvalues)
    if values.shape[-1] < k + 1:
        return _undefined(values)
    return np.asarray(values[..., k] - values[..., k - 1])


def quantiles(values: ArrayLike, q: ArrayLike) -> Array:
    """Quantiles over the last axis by linear interpolation (Hyndman and Fan 1996, type 7).

    Args:
        values: (..., T) in any order, T >= 1.
        q: (Q,) in [0, 1].

    Returns:
        (Q, ...).
    """
    ordered = np.sort(_float64(values), axis=-1)
    position = np.atleast_1d(_float64(q)) * (ordered.shape[-1] - 1)
    low = np.floor(position).astype(np.intp)
    high = np.ceil(position).astype(np.intp)
    mixed = ordered[..., low] + (position - low) * (ordered[..., high] - ordered[..., low])
    return np.moveaxis(mixed, -1, 0)


def largest(values: ArrayLike, k: int) -> Array:
    """The k largest values over the last axis, largest first.

    Returns:
        (k, ...); NaN for the ranks beyond T.
    """
    ordered = -np.sort(-_float64(values), axis=-1)[..., :k]
    missing = np.full((*ordered.shape[:-1], k - ordered.shape[-1]), np.nan)
    return np.moveaxis(np.concatenate([ordered, missing], axis=-1), -1, 0)


def eigenvalue_entropy(eigenvalues: ArrayLike) -> Array:
    """Shannon entropy in nats of the eigenvalues normalised to sum 1.

    Of singular values it is the logarithm of the effective rank (Roy and Vetterli 2007, eq. 3).
    Eigenvalues within rounding of zero (negative ones included) count as zero.

    Returns:
        (...) in [0, log T]; NaN where all eigenvalues are zero.
    """
    return _entropy(np.maximum(_float64(eigenvalues), 0.0))


def signal_entropy(mode_energy: ArrayLike) -> Array:
    """Shannon entropy in nats of a signal's energy over the graph's modes, normalised to sum 1.

    Returns:
        (...) in [0, log T]; NaN where the signal has no energy.
    """
    return _entropy(_float64(mode_energy))


def hfer(mode_energy: ArrayLike, cutoff: float = 0.5) -> Array:
    """High-frequency energy ratio: share of energy in the modes above the cutoff index.

    Args:
        mode_energy: (..., T) energy of each mode, in ascending order of eigenvalue.
        cutoff: in [0, 1]; modes with 0-based index >= ceil(cutoff * T) are high (0.5: those
            above the median mode).

    Returns:
        (...) in [0, 1]; NaN where the signal has no energy.
    """
    energy = _float64(mode_energy)
    first = int(np.ceil(cutoff * energy.shape[-1]))
    return _ratio(energy[..., first:].sum(-1), energy.sum(-1))


def roughness(eigenvalues: ArrayLike, mode_energy: ArrayLike) -> Array:
    """Dirichlet energy over energy, Tr(X^T L X) / ||X||^2, the Rayleigh quotient of the signal.

    Returns:
        (...) in [0, lambda_max]; NaN where the signal has no energy.
    """
    energy = _float64(mode_energy)
    return _ratio((_float64(eigenvalues) * energy).sum(-1), energy.sum(-1))


def dirichlet_energy(eigenvalues: ArrayLike, mode_energy: ArrayLike) -> Array:
    """Tr(X^T L X), the variation of the signal over the graph's edges (Shuman et al. 2013, eq. 6).

    Returns:
        (...) non-negative.
    """
    return np.asarray((_float64(eigenvalues) * _float64(mode_energy)).sum(-1))


def smoothness(eigenvalues: ArrayLike, mode_energy: ArrayLike) -> Array:
    """One minus the roughness in units of the largest eigenvalue.

    Returns:
        (...) in [0, 1]; NaN where the signal has no energy or lambda_max is 0.
    """
    top = _float64(eigenvalues)[..., -1]
    return 1.0 - _ratio(roughness(eigenvalues, mode_energy), top)


def _float64(values: ArrayLike) -> Array:
    return np.asarray(values, dtype=np.float64)


def _undefined(values: Array) -> Array:
    return np.full(values.shape[:-1], np.nan)


def _ratio(numerator: Array, denominator: Array) -> Array:
    positive = denominator > 0
    return np.where(positive, numerator / np.where(positive, denominator, 1.0), np.nan)


def _entropy(weights: Array) -> Array:
    share = _ratio(weights, weights.sum(-1, keepdims=True))
    logs = np.log(np.where(share > 0, share, 1.0))
    return np.asarray(-(share * logs).sum(-1)) + 0.0
