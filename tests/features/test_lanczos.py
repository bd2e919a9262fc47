"""The Lanczos solver against the exact one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.base import clone
from test_krylov import causal
from torch import Tensor

from validator.errors import ParameterError
from validator.features import solvers
from validator.features.extractor import SpectralFeatureExtractor
from validator.features.lanczos import LanczosSolver
from validator.features.solvers import SolverAccuracyWarning, make_solver
from validator.features.spectra import ExactSolver, Spectra
from validator.types import Trace

Q = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


def uniform(nodes: int) -> Tensor:
    return torch.ones(1, nodes, nodes).tril() / torch.arange(1, nodes + 1)[:, None]


def recency(nodes: int) -> Tensor:
    distance = torch.arange(nodes)[:, None] - torch.arange(nodes)
    weights = torch.where(distance >= 0, 1 / (distance + 1.0), 0.0)
    return (weights / weights.sum(-1, keepdim=True))[None]


def sink(nodes: int) -> Tensor:
    attention = causal(nodes).float() * 0.3
    attention[:, :, 0] += 0.7
    return attention


def blocks(nodes: int) -> Tensor:
    """Two components and an isolated token."""
    attention = torch.zeros(1, nodes, nodes)
    half = nodes // 2
    attention[:, :half, :half] = causal(half).float()
    attention[:, half:-1, half:-1] = causal(nodes - half - 1, seed=1).float()
    return attention


MAKERS = {"uniform": uniform, "recency": recency, "sink": sink, "blocks": blocks,
          "random": lambda n: causal(n).float()}


def signals(nodes: int, graphs: int = 1) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    wide = torch.randn(graphs, nodes, 40, generator=generator) * torch.logspace(0, -2, 40)
    return {"wide": wide.cumsum(1), "narrow": torch.rand(nodes, 1, generator=generator)}


def everything(found: Spectra) -> dict[str, NDArray[np.float64]]:
    result = {"fiedler_value": found.fiedler_value(), "quantiles": found.quantiles(Q),
              "entropy": found.eigenvalue_entropy()}
    result |= {f"gap{k}": found.spectral_gap(k) for k in (1, 2, 3)}
    for s in ("wide", "narrow"):
        result |= {f"hfer{c}_{s}": found.hfer(s, c) for c in (0.25, 0.5, 0.75)}
        for name in ("roughness", "smoothness", "dirichlet_energy"):
            result[f"{name}_{s}"] = getattr(found, name)(s)
    return result


TOLERANCES = {"fiedler_value": 1e-4, "gap": 1e-4, "quantiles": 0.05, "entropy": 0.005,
              "hfer": 0.05, "roughness": 1e-5, "smoothness": 1e-4, "dirichlet_energy": 1e-5}


@pytest.mark.parametrize("kind", ["normalized", "combinatorial"])
@pytest.mark.parametrize("maker", MAKERS)
def test_near_the_exact_solver(maker: str, kind: str) -> None:
    attention, x = MAKERS[maker](600), signals(600)
    solver = LanczosSolver()
    found = everything(solver.spectra(attention, kind, x))
    exact = everything(ExactSolver().spectra(attention, kind, x))
    assert solver.errors.graphs == 1
    assert solver.errors.beyond_tolerance == 0
    for name, value in found.items():
        bound = next(v for k, v in TOLERANCES.items() if name.startswith(k))
        scale = np.maximum(1.0, np.abs(exact[name]))
        assert np.abs(value - exact[name]).max() <= bound * scale.max(), name
    assert found["quantiles"][0] == 0.0
    np.testing.assert_allclose(found["quantiles"][-1], exact["quantiles"][-1], rtol=1e-4)


def test_error_falls_with_probes_and_steps() -> None:
    attention, x = sink(600), signals(600)
    exact = everything(ExactSolver().spectra(attention, "normalized", x))

    def error(**settings: Any) -> float:
        errors = []
        for seed in range(6):
            solver = LanczosSolver(seed=seed, tolerance=1.0, **settings)
            found = everything(solver.spectra(attention, "normalized", x))
            errors.append(np.abs(found["quantiles"] - exact["quantiles"]).mean())
        return float(np.mean(errors))

    assert error(probes=16, steps=20) < 0.6 * error(probes=4, steps=8)


def test_probes_are_doubled_until_the_tolerance_is_met() -> None:
    attention = sink(600)
    loose, tight = LanczosSolver(tolerance=1.0), LanczosSolver(tolerance=0.008)
    loose.spectra(attention, "normalized", {})
    tight.spectra(attention, "normalized", {})
    assert loose.errors.rounds == 1
    assert tight.errors.rounds in (2, 4, 8)
    assert tight.errors.distribution <= 0.008 < loose.errors.distribution
    assert tight.errors.beyond_tolerance == 0
    hopeless = LanczosSolver(tolerance=1e-6, max_rounds=2)
    hopeless.spectra(attention, "normalized", {})
    assert hopeless.errors.rounds == 2
    assert hopeless.errors.beyond_tolerance == 1


def test_extremal_eigenvalues_are_refined_to_their_tolerance() -> None:
    """A path has close eigenvalues at both ends of its spectrum."""
    nodes = 520
    path = torch.diag_embed(torch.ones(nodes - 1), -1)[None] + torch.diag_embed(
        torch.ones(nodes - 1), 1)[None]
    expected = 1 - np.cos(np.pi / (nodes - 1))
    rough = LanczosSolver(max_restarts=0)
    rough.spectra(path, "normalized", {})
    assert rough.errors.beyond_tolerance == 1
    fine = LanczosSolver(max_restarts=300, extremal_tolerance=1e-7)
    found = fine.spectra(path, "normalized", {})
    assert fine.errors.extremal <= 1e-7
    assert found.fiedler_value()[0] == pytest.approx(expected, abs=1e-6)


def test_numbers_depend_on_the_seed_and_never_on_the_batch() -> None:
    attention = torch.cat([sink(600), recency(600), causal(600, seed=3).float()])
    x = signals(600, 3)
    together = everything(LanczosSolver().spectra(attention, "normalized", x))
    again = everything(LanczosSolver().spectra(attention, "normalized", x))
    other = everything(LanczosSolver(seed=1).spectra(attention, "normalized", x))
    alone = everything(LanczosSolver().spectra(
        attention[1:2], "normalized", {"wide": x["wide"][1:2], "narrow": x["narrow"]}))
    for name, value in together.items():
        np.testing.assert_array_equal(value, again[name])
        np.testing.assert_allclose(value[..., 1], alone[name][..., 0], atol=1e-5, rtol=1e-5)
    assert (together["quantiles"] != other["quantiles"]).any()


def test_leading_shapes_and_signals_shared_by_heads() -> None:
    attention = torch.stack([sink(600), recency(600)]).reshape(2, 1, 600, 600)
    x = signals(600, 2)
    found = LanczosSolver().spectra(
        attention, "normalized", {"wide": x["wide"][:, None], "narrow": x["narrow"]})
    assert found.fiedler_value().shape == (2, 1)
    assert found.quantiles(Q).shape == (len(Q), 2, 1)
    assert found.hfer("wide", 0.5).shape == (2, 1)
    flat = LanczosSolver().spectra(
        attention[:, 0], "normalized", {"wide": x["wide"], "narrow": x["narrow"]})
    np.testing.assert_allclose(
        found.hfer("wide", 0.5)[:, 0], flat.hfer("wide", 0.5), atol=1e-6)


def test_small_graphs_are_decomposed_exactly() -> None:
    for nodes in (2, 3, 5, 100, 511):
        attention = causal(nodes).float()
        found = LanczosSolver().spectra(attention, "normalized", {})
        exact = ExactSolver().spectra(attention, "normalized", {})
        np.testing.assert_array_equal(found.quantiles(Q), exact.quantiles(Q))


def test_a_subspace_of_all_dimensions_is_exact() -> None:
    """118 nodes: 9 steps of 13 vectors are all that is orthogonal to the null vector."""
    attention, x = causal(118).float(), signals(118)
    solver = LanczosSolver(exact_below=0, probes=4, steps=9)
    found = everything(solver.spectra(attention, "normalized", x))
    exact = everything(ExactSolver().spectra(attention, "normalized", x))
    assert solver.errors.graphs == 1
    assert solver.errors.distribution < 1e-4
    for name, value in found.items():
        wide = name.startswith("hfer") and name.endswith("wide")  # its rest is sampled
        np.testing.assert_allclose(value, exact[name], atol=0.02 if wide else 1e-4, err_msg=name)


@pytest.mark.parametrize("kind", ["normalized", "combinatorial"])
def test_a_graph_without_edges_and_a_signal_without_energy(kind: str) -> None:
    attention = torch.zeros(1, 600, 600)
    solver = LanczosSolver()
    found = solver.spectra(attention, kind, {"none": torch.zeros(600, 1)})
    assert found.fiedler_value()[0] == 0
    assert np.isnan(found.eigenvalue_entropy()[0])
    assert np.isnan(found.hfer("none", 0.5)[0])
    assert np.isnan(found.roughness("none")[0])
    found = LanczosSolver().spectra(sink(600), kind, {"none": torch.zeros(600, 1)})
    assert np.isnan(found.hfer("none", 0.5)[0])
    assert np.isfinite(found.eigenvalue_entropy()[0])


def test_attention_that_is_not_finite_is_refused() -> None:
    attention = sink(600)
    attention[0, 5, 5] = torch.nan
    with pytest.raises(ParameterError, match="not finite"):
        LanczosSolver().spectra(attention, "normalized", {})


@pytest.mark.parametrize("settings", [
    {"probes": 1}, {"steps": 1}, {"max_rounds": 0}, {"max_restarts": -1}])
def test_settings_out_of_range(settings: dict[str, int]) -> None:
    with pytest.raises(ParameterError, match="expected probes"):
        LanczosSolver(**settings)  # type: ignore[arg-type]


def test_solvers_by_name_and_as_objects() -> None:
    assert isinstance(make_solver("exact"), ExactSolver)
    assert make_solver("lanczos", 7) == LanczosSolver(seed=7)
    own = LanczosSolver(probes=4)
    own.errors.graphs = 3
    assert make_solver(own) == own
    assert make_solver(own).errors.graphs == 0  # type: ignore[attr-defined]
    with pytest.raises(ParameterError, match="exact, lanczos"):
        make_solver("arpack")
    assert "probes=4" in own.label


@pytest.fixture
def long_traces() -> list[Trace]:
    return [Trace(f"t{i}", f"t{i}", "Q: count.\nA:", "".join(f" {k}" for k in range(40 + 10 * i)),
                  i % 2) for i in range(3)]


def test_extraction_names_the_solver_and_reports_its_errors(
    tiny: Any, make_tiny: Any, long_traces: list[Trace]
) -> None:
    pair = (make_tiny(max_position_embeddings=1024), tiny[1])
    solver = LanczosSolver(exact_below=100, steps=4, probes=4)
    extractor = SpectralFeatureExtractor(pair, solver=solver)
    found = extractor.fit_transform(long_traces)
    assert found.provenance.solver == solver.label
    assert not any("signal_entropy" in n for n in found.names)
    exact = SpectralFeatureExtractor(pair).fit_transform(long_traces)
    assert set(exact.names) - set(found.names) == {n for n in exact.names if "signal_ent" in n}
    assert extractor.solver_errors_["graphs"] == 3 * 3  # layers of each trace
    assert 0 < extractor.solver_errors_["distribution"] <= solver.tolerance * 3
    again = extractor.transform(long_traces)
    assert extractor.solver_errors_["graphs"] == 9  # of the last transform only
    np.testing.assert_array_equal(found.values, again.values)
    assert SpectralFeatureExtractor(pair).fit(long_traces).transform(
        long_traces).provenance.solver == "exact"
    assert clone(extractor).get_params()["solver"] == solver


def test_short_and_long_traces_have_the_same_columns(
    tiny: Any, make_tiny: Any, long_traces: list[Trace]
) -> None:
    pair = (make_tiny(max_position_embeddings=1024), tiny[1])
    short = Trace("short", "short", "Q: count.\nA:", " 1", 1)
    solver = LanczosSolver(
        exact_below=60, steps=3, probes=3, tolerance=1.0, extremal_tolerance=1.0)
    found = SpectralFeatureExtractor(
        pair, feature_set="full", layers=[0], solver=solver).fit_transform([short, long_traces[0]])
    assert len(found.names) == len(set(found.names))


def test_estimates_beyond_the_tolerance_are_warned_about(
    tiny: Any, make_tiny: Any, long_traces: list[Trace]
) -> None:
    pair = (make_tiny(max_position_embeddings=1024), tiny[1])
    solver = LanczosSolver(exact_below=100, steps=4, probes=4, tolerance=1e-6, max_rounds=1)
    with pytest.warns(SolverAccuracyWarning, match="9 of 9 graphs"):
        SpectralFeatureExtractor(pair, solver=solver).fit_transform(long_traces)


def test_long_exact_runs_are_warned_about_and_lanczos_runs_are_not(
    tiny: Any, make_tiny: Any, long_traces: list[Trace], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(solvers, "LONG_NODES", 100)
    monkeypatch.setattr(solvers, "LONG_SECONDS", 1e-6)
    pair = (make_tiny(max_position_embeddings=1024), tiny[1])
    with pytest.warns(solvers.LongComputationWarning, match="'t2'.*solver='lanczos'"):
        SpectralFeatureExtractor(pair).fit_transform(long_traces)
    SpectralFeatureExtractor(pair, solver="lanczos").fit_transform(long_traces)
