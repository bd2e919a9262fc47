"""Null-corrected columns against a slow reading of the same null graphs, and what nulls are."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from brute_force import Oracle

from validator.errors import FeatureMismatchError, ParameterError
from validator.features.extractor import SpectralFeatureExtractor
from validator.features.featureset import FeatureSet, GraphFeatures, HeadFeatures
from validator.features.null import content_free_attention, null_attention, permuted_attention
from validator.types import Trace

DRAWS = 5
GRAPH = GraphFeatures(
    spans=("whole", "prompt", "completion", "last"),
    descriptors=("fiedler_value", "spectral_gap", "eigenvalue_quantile", "eigenvalue_entropy",
                 "hfer", "signal_entropy", "roughness"),
    signals=("hidden", "surprisal"), nulls=("uniform", "recency", "permuted"), null_draws=DRAWS)
HEADS = HeadFeatures(
    spans=("whole", "completion"),
    descriptors=("directed_eigenvalue", "attention_entropy", "log_self_attention"),
    attended=("surprisal",), nulls=("uniform", "recency"), null_draws=DRAWS)
SET = FeatureSet("nulls", 1, HEADS, (GRAPH,), last_tokens=8)
TRACE = Trace("t", "t", "Q: add 3 and 4.\nA:", " 3 + 4 = 7. So it is 7.\n", 1)
HEAD_COUNT = 4


def extract(pair: Any, traces: list[Trace], features: FeatureSet = SET, **options: Any) -> Any:
    return SpectralFeatureExtractor(pair, feature_set=features, **options).fit_transform(traces)


def reading_of(oracle: Oracle, attention: list[Any]) -> Oracle:
    """The same trace with another attention."""
    other = copy.copy(oracle)
    other.attention = attention
    other.spectrum = functools.lru_cache(maxsize=None)(other._spectrum)
    other.column = functools.lru_cache(maxsize=None)(other._column)
    return other


def slow_z(oracle: Oracle, name: str) -> float:
    *base, transform = name.split("__")
    kind, per_head = transform[2:], "head_mean" not in name
    layer = int(base[1][5:])
    if per_head:
        base[2] = "head0"
    n, p = oracle.n, oracle.p
    span = {"whole": (0, n), "prompt": (0, p), "completion": (p, n), "last8": (n - 8, n)}[base[3]]
    drawn = []
    for draw in range(DRAWS):
        attention = [None] * len(oracle.attention)
        if per_head:
            attention[layer] = content_free_attention(kind, 0, n, 1, draw).numpy()[None]
        else:
            own = torch.from_numpy(oracle.attention[layer].mean(0))
            full = np.zeros((1, n, n))
            part = null_attention(kind, own, 0, span, HEAD_COUNT, draw)
            full[0, span[0] : span[1], span[0] : span[1]] = part.numpy()
            attention[layer] = full
        drawn.append(reading_of(oracle, attention).column("__".join(base)))
    own_value = oracle.column("__".join(name.split("__")[:-1]))
    return float((own_value - np.mean(drawn)) / np.std(drawn, ddof=1))


@pytest.mark.slow
def test_every_z_column_is_the_slow_one(tiny: Any, make_tiny: Callable[..., Any]) -> None:
    pair = (make_tiny().double(), tiny[1])
    found = extract(pair, [TRACE])
    oracle = Oracle(*pair, TRACE, last=8)
    columns = [i for i, n in enumerate(found.names) if "__z_" in n]
    kinds = {(found.names[i].split("__")[0], found.names[i].split("__")[3],
              found.names[i].rsplit("__", 1)[1]) for i in columns}
    assert len(kinds) > 90
    for i in columns:
        expected = slow_z(oracle, found.names[i])
        # Null graphs are drawn in single precision; close eigenvalues magnify that in what rests on
        # eigenvectors, by another amount on each processor.
        near = 1e-4 if "__hidden__" in found.names[i] else 2e-5
        assert found.values[0, i] == pytest.approx(expected, rel=near, abs=near), found.names[i]


def test_z_columns_do_not_depend_on_batch_order_or_layers(
    tiny: Any, make_tiny: Callable[..., Any], traces: list[Trace]
) -> None:
    """In double precision: z-scores magnify rounding by value over spread."""
    pair = (make_tiny().double(), tiny[1])
    together = extract(pair, traces)
    again = extract(pair, traces[::-1], max_batch_tokens=1, share_prefixes=False)
    alone = extract(pair, traces[:1], layers=[1])
    columns = [n for n in together.names if "__z_" in n]
    np.testing.assert_allclose(
        together.select(columns), again.select(columns)[::-1], rtol=1e-4, atol=1e-4)
    shared = [n for n in alone.names if "__z_" in n]
    np.testing.assert_allclose(
        alone.select(shared)[0], together.select(shared)[0], rtol=1e-4, atol=1e-4)


def test_nulls_are_centred_on_themselves(tiny: Any) -> None:
    """A drawn graph's own z-scores against many other draws have mean 0 and spread 1."""
    draws = [content_free_attention("uniform", 0, 30, 4, d).double() for d in range(60)]
    second = [np.linalg.eigvalsh(_laplacian(a.numpy()))[1] for a in draws]
    z = (np.array(second[:20]) - np.mean(second[20:])) / np.std(second[20:], ddof=1)
    assert abs(z.mean()) < 0.6
    assert 0.5 < z.std() < 1.7


def _laplacian(a: Any) -> Any:
    w = (a + a.T) / 2
    d = w.sum(1)
    return np.eye(len(a)) - w / np.sqrt(np.outer(d, d))


def test_expectation_of_the_content_free_rows() -> None:
    """Flat Dirichlet rows have mean 1 / (i + 1); both kinds are causal with rows of sum 1."""
    many = torch.stack([content_free_attention("uniform", 0, 12, 50, d) for d in range(60)])
    expected = torch.ones(12, 12).tril() / torch.arange(1, 13)[:, None]
    torch.testing.assert_close(many.mean(0), expected, atol=0.02, rtol=0)
    for kind in ("uniform", "recency"):
        a = content_free_attention(kind, 0, 12, 3, 0)
        assert not a.triu(1).any()
        torch.testing.assert_close(a.sum(-1), torch.ones(12))
    near = torch.stack([content_free_attention("recency", 0, 12, 50, d) for d in range(20)])
    assert bool((near.mean(0)[11].diff() > 0).all())  # the nearer the more


def test_variance_of_the_content_free_rows() -> None:
    """A flat Dirichlet weight among k has variance (k - 1) / (k^2 (k + 1))."""
    k = 10
    last = torch.stack([content_free_attention("uniform", 0, k, 1, d)[-1] for d in range(3000)])
    assert float(last.var()) == pytest.approx((k - 1) / (k**2 * (k + 1)), rel=0.05)


def test_a_part_of_a_null_is_cut_from_the_whole() -> None:
    whole = content_free_attention("recency", 0, 20, 2, 3)
    assert content_free_attention("recency", 8, 20, 2, 3).shape == (12, 12)
    assert float(content_free_attention("recency", 8, 20, 2, 3).sum()) < 12  # the rest is earlier
    assert whole.shape == (20, 20)


def test_permuted_rows_keep_their_weights() -> None:
    own = torch.rand(3, 9, 9).tril()
    found = permuted_attention(own, 0, 1)
    torch.testing.assert_close(found.sort(-1).values, own.sort(-1).values)
    assert not found.triu(1).any()
    assert (found != own).any()
    assert (permuted_attention(own, 0, 2) != found).any()
    torch.testing.assert_close(permuted_attention(own, 0, 1), found)


def test_draws_differ_and_repeat() -> None:
    a, b = (content_free_attention("uniform", 0, 9, 2, d) for d in (0, 1))
    assert (a != b).any()
    torch.testing.assert_close(a, content_free_attention("uniform", 0, 9, 2, 0))


def test_a_descriptor_that_the_null_leaves_alone_is_nan_with_a_reason(tiny: Any) -> None:
    """The smallest eigenvalue is 0 in every draw."""
    features = FeatureSet("n", 1, None, (GraphFeatures(
        spans=("whole",), descriptors=("eigenvalue_quantile",), eigenvalue_quantiles=(0.0,),
        nulls=("uniform",)),))
    found = extract(tiny, [TRACE], features)
    column = [i for i, n in enumerate(found.names) if "__z_" in n]
    assert np.isnan(found.values[0, column]).all()
    assert found.nan_reasons["t"] == "eigenvalue_quantile_on_whole_z_uniform_undefined"


def test_what_is_refused() -> None:
    with pytest.raises(FeatureMismatchError, match="needs a spread"):
        GraphFeatures(nulls=("uniform",), null_draws=1)
    with pytest.raises(FeatureMismatchError, match="unknown null"):
        GraphFeatures(nulls=("white",))
    with pytest.raises(FeatureMismatchError, match="unknown null of heads"):
        HeadFeatures(nulls=("permuted",))
    with pytest.raises(FeatureMismatchError, match="nulls are for the spans"):
        GraphFeatures(spans=("step",), nulls=("uniform",))
    with pytest.raises(ParameterError, match="whole rows"):
        null_attention("permuted", torch.rand(4, 4), 2, (2, 6), 1, 0)
    with pytest.raises(ParameterError, match="'uniform' or 'recency'"):
        content_free_attention("white", 0, 3, 1, 0)
