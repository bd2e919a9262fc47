"""The Lanczos solver: descriptors of large graphs from products with vectors only.

One block Krylov subspace per graph serves everything. Its start vectors are random probes (for the
distribution of the eigenvalues) and the signals (for their energies); extremal eigenvalues converge
in it, multiple ones as often as they occur; what is known exactly (the null vector, the trace, the
signals' Dirichlet energies) is not estimated.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from validator.errors import ParameterError
from validator.features import measures
from validator.features.krylov import GraphOperator, Ritz, block_krylov
from validator.features.lanczos_spectra import LanczosSpectra, Round
from validator.features.spectra import ExactSolver, Spectra

__all__ = ["LanczosSolver", "SolverErrors"]

Array = NDArray[np.float64]

LOWEST, HIGHEST = 4, 1
"""Extremal eigenvalues that are refined: spectral gaps up to k = 3, and the largest."""
GUARD = 2
"""Neighbours refined with them, so that close eigenvalues separate."""
DIRECTIONS = 4
"""A wide signal is split into this many leading directions, taken as they are, and a rest that
random combinations stand for (Hutch++, Meyer et al. 2021)."""
COMBINATIONS = 4


@dataclass
class SolverErrors:
    """What a solver's estimates are worth, over all graphs it has seen."""

    graphs: int = 0
    """Graphs whose spectra were estimated; small ones are decomposed."""
    rounds: int = 0
    """Most independent sets of probes that one graph needed."""
    distribution: float = 0.0
    """Largest standard error of a distribution function, over probes."""
    extremal: float = 0.0
    """Largest error bound of an extremal eigenvalue, in units of the graph's mean."""
    beyond_tolerance: int = 0
    """Graphs with either error above the tolerance."""

    def add(self, rounds: int, distribution: Array, extremal: Array, tolerance: float,
            extremal_tolerance: float) -> None:
        """Count estimated graphs."""
        self.graphs += len(distribution)
        self.rounds = max(self.rounds, rounds)
        self.distribution = max(self.distribution, float(distribution.max()))
        self.extremal = max(self.extremal, float(extremal.max()))
        beyond = (distribution > tolerance) | (extremal > extremal_tolerance)
        self.beyond_tolerance += int(beyond.sum())


@dataclass(frozen=True, slots=True)
class LanczosSolver:
    """Block Lanczos and stochastic Lanczos quadrature, with control of their error.

    Fiedler value, spectral gaps and largest eigenvalue: block Lanczos with full
    reorthogonalisation, restarted until their error bound is below ``extremal_tolerance``.
    Quantiles, eigenvalue entropy and HFER: estimates from random probes, whose number is doubled
    until the standard error of the eigenvalues' distribution function is below ``tolerance``.
    Roughness, smoothness and Dirichlet energy: exact but for the largest eigenvalue in smoothness.
    Signal entropy needs single modes and is not offered.

    A graph's numbers depend on the seed and its size, never on the batch it is in.
    """

    probes: int = 8
    """Random vectors of one round."""
    steps: int = 16
    """Products with the Laplacian for each start vector."""
    tolerance: float = 0.02
    """Largest standard error of the distribution function, in [0, 1]."""
    extremal_tolerance: float = 1e-4
    """Largest error bound of an extremal eigenvalue, in units of the graph's mean."""
    max_rounds: int = 8
    max_restarts: int = 12
    exact_below: int = 512
    """Graphs with fewer nodes are decomposed: it is exact, and no slower."""
    seed: int = 0
    errors: SolverErrors = field(default_factory=SolverErrors, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.probes < 2 or self.steps < 2 or self.max_rounds < 1 or self.max_restarts < 0:
            raise ParameterError(
                "expected probes and steps of 2 or more, max_rounds of 1 or more and max_restarts "
                f"of 0 or more, got {self}")

    @property
    def label(self) -> str:
        """See :class:`validator.features.spectra.Solver`."""
        return (f"lanczos(probes={self.probes}, steps={self.steps}, tolerance={self.tolerance:g}, "
                f"extremal_tolerance={self.extremal_tolerance:g}, max_rounds={self.max_rounds}, "
                f"max_restarts={self.max_restarts}, exact_below={self.exact_below}, "
                f"seed={self.seed})")

    def fresh(self) -> LanczosSolver:
        """The same solver, that has seen no graph."""
        return replace(self, errors=SolverErrors())

    @property
    def has_modes(self) -> bool:
        """See :class:`validator.features.spectra.Solver`."""
        return False

    def spectra(self, attention: Tensor, kind: str, signals: Mapping[str, Tensor]) -> Spectra:
        """See :class:`validator.features.spectra.Solver`."""
        nodes = attention.shape[-1]
        leading = np.broadcast_shapes(
            attention.shape[:-2], *(x.shape[:-2] for x in signals.values()))
        width = self.probes + sum(
            x.shape[-1] if x.shape[-1] <= DIRECTIONS else DIRECTIONS + COMBINATIONS
            for x in signals.values())
        if nodes < self.exact_below or nodes <= width * 2:
            return ExactSolver().spectra(attention, kind, signals)
        every = attention.expand(*leading, nodes, nodes).reshape(-1, nodes, nodes)
        operator = GraphOperator.of(every, kind)
        if not bool(torch.isfinite(operator.trace).all()):
            raise ParameterError("attention that is not finite has no spectrum")
        flat = {name: x.expand(*leading, *x.shape[-2:]).reshape(-1, *x.shape[-2:])
                for name, x in signals.items()}
        return self._estimate(operator, flat, leading)

    def _estimate(
        self, operator: GraphOperator, signals: Mapping[str, Tensor], leading: tuple[int, ...]
    ) -> Spectra:
        graphs = len(operator.trace)
        spread, error = np.zeros(graphs), np.zeros(graphs)
        rounds: list[tuple[NDArray[np.intp], Round]] = []
        values, bound = np.empty(0), np.zeros(graphs)
        active, done, more = np.arange(graphs), 0, 1
        while len(active) and more:
            chosen = torch.from_numpy(active).to(operator.weights.device)
            part = operator.take(chosen)
            own = {name: x[chosen] for name, x in signals.items()}
            for _ in range(more):
                found, ritz = self._round(part, own, done)
                if done == 0:
                    values, bound = self._extremes(operator, ritz)
                spread[active] += found.error**2
                rounds.append((active, found))
                done += 1
            error[active] = np.sqrt(spread[active]) / done
            active = active[error[active] > self.tolerance]
            more = min(done, self.max_rounds - done)
        self.errors.add(done, error, bound, self.tolerance, self.extremal_tolerance)
        energies = {name: _energies(operator, x) for name, x in signals.items()}
        return LanczosSpectra(
            leading, operator.weights.shape[-1], operator.trace.cpu().numpy(), values, energies,
            tuple(rounds))

    def _round(
        self, operator: GraphOperator, signals: Mapping[str, Tensor], number: int
    ) -> tuple[Round, Ritz]:
        """One Krylov subspace: probes and signals together."""
        like = operator.weights
        graphs, nodes = like.shape[:2]
        generator = torch.Generator().manual_seed((self.seed * 1009 + number) * 1_000_003 + nodes)
        probes = _signs(generator, nodes, self.probes).to(like).expand(graphs, -1, -1)
        starts = {name: _Start.of(x.to(like), generator) for name, x in signals.items()}
        columns = torch.cat([probes, *(s.columns for s in starts.values())], dim=-1)
        null = operator.null_vector.mT @ columns
        steps = min(self.steps, (nodes - 1) // columns.shape[-1])
        ritz = block_krylov(operator, columns - operator.null_vector * null, steps)
        values, weights = ritz.values.numpy(), ritz.weights.numpy()
        masses = measures.node_masses(
            values, ritz.residuals.numpy(), weights[..., : self.probes], nodes, columns.shape[-1],
            operator.trace.cpu().numpy() / nodes)
        at_null = null.double().cpu().numpy() ** 2  # (G, 1, p)
        every = np.concatenate([at_null, weights], axis=1)[..., self.probes :]
        energy, first = {}, 0
        for name, start in starts.items():
            last = first + start.columns.shape[-1]
            energy[name] = start.energy(every[..., first:last])
            first = last
        first_mass = np.full((graphs, 1), 1.0 / nodes)
        return Round(
            np.concatenate([np.zeros((graphs, 1)), values], axis=1),
            np.concatenate([first_mass, masses.mean(-1)], axis=1),
            energy, measures.distribution_error(masses)), ritz

    def _extremes(self, operator: GraphOperator, ritz: Ritz) -> tuple[Array, Array]:
        """All Ritz values, the extremal ones refined, after the exact 0; and their error bounds."""
        values = ritz.values.numpy().copy()
        mean = operator.trace.cpu().numpy() / ritz.basis.shape[1]
        bound = _extremal_bounds(ritz, mean)
        low, high = LOWEST + GUARD, HIGHEST + GUARD
        columns = [*range(low), *range(values.shape[-1] - high, values.shape[-1])]
        active = np.flatnonzero(bound > self.extremal_tolerance)
        start = ritz.vectors(columns)[torch.from_numpy(active).to(operator.weights.device)]
        for _ in range(self.max_restarts):
            if not len(active):
                break
            part = operator.take(torch.from_numpy(active).to(operator.weights.device))
            found = block_krylov(part, start, min(self.steps, (start.shape[1] - 1) // (low + high)))
            values[active, :low] = found.values[:, :low].numpy()
            values[active, -high:] = found.values[:, -high:].numpy()
            bound[active] = _extremal_bounds(found, mean[active])
            left = bound[active] > self.extremal_tolerance
            last = found.values.shape[-1]
            ends = found.vectors([*range(low), *range(last - high, last)])
            start = ends[torch.from_numpy(left).to(ends.device)]
            active = active[left]
        values = np.maximum(values, 0.0)
        return np.concatenate([np.zeros((len(values), 1)), values], axis=1), bound


@dataclass(frozen=True, slots=True)
class _Start:
    """Start vectors that stand for a signal."""

    columns: Tensor
    """(G, n, c)."""
    taken: int
    """How many of the first are part of the signal; the others are random combinations."""
    total: Array
    """(G, 1) the signal's energy."""

    @classmethod
    def of(cls, signal: Tensor, generator: torch.Generator) -> _Start:
        """All columns of a narrow signal; leading directions and combinations of a wide one."""
        total = signal.double().square().sum((1, 2)).cpu().numpy()[:, None]
        width = signal.shape[-1]
        if width <= DIRECTIONS:
            return cls(signal, width, total)
        sketch = _signs(generator, width, DIRECTIONS).to(signal)
        leading, _ = torch.linalg.qr(signal.mT @ (signal @ sketch))
        mixed = _signs(generator, width, COMBINATIONS).to(signal)
        rest = mixed - leading @ (leading.mT @ mixed)
        return cls(signal @ torch.cat([leading, rest], dim=-1), DIRECTIONS, total)

    def energy(self, weights: Array) -> Array:
        """(G, m) energy of the signal at each node, from (G, m, c) of its start vectors."""
        energy = weights[..., : self.taken].sum(-1)
        if self.taken == weights.shape[-1]:
            return np.asarray(energy)
        rest = weights[..., self.taken :].mean(-1)
        left = np.maximum(self.total - energy.sum(-1, keepdims=True), 0.0)
        sampled = rest.sum(-1, keepdims=True)
        return np.asarray(energy + rest * left / np.where(sampled > 0, sampled, 1.0))


def _extremal_bounds(ritz: Ritz, mean: Array) -> Array:
    """(G,) largest error bound of the extremal Ritz values, in units of the mean eigenvalue.

    min(r, r^2 / gap) with r the residual and the gap to the next Ritz value (Parlett 1998,
    section 11.7).
    """
    values, residuals = ritz.values.numpy(), ritz.residuals.numpy()
    scale = np.maximum(mean, np.finfo(float).tiny)[:, None]
    apart = np.diff(values, axis=-1)
    edge = np.full_like(scale, np.inf)
    gap = np.minimum(np.concatenate([edge, apart], 1), np.concatenate([apart, edge], 1))
    bound = np.minimum(residuals, residuals**2 / np.maximum(gap, 1e-300)) / scale
    return np.asarray(np.maximum(bound[:, :LOWEST].max(-1), bound[:, -HIGHEST:].max(-1)))


def _energies(operator: GraphOperator, signal: Tensor) -> tuple[Array, Array]:
    """(G,) Tr(X^T L X) and ||X||^2."""
    signal = signal.to(operator.weights)
    dirichlet = (signal * operator.matmul(signal)).sum((1, 2), dtype=torch.float64)
    total = signal.square().sum((1, 2), dtype=torch.float64)
    return dirichlet.cpu().numpy(), total.cpu().numpy()


def _signs(generator: torch.Generator, rows: int, columns: int) -> Tensor:
    """(rows, columns) of +1 and -1."""
    return torch.randint(0, 2, (rows, columns), generator=generator).mul_(2).sub_(1).float()
