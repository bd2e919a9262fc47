from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from evidence_checks import check_batch, check_render, check_token_queries, check_twins
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from validator.errors import ParameterError
from validator.windtunnels.bijection import Bijection, BijectionTunnel
from validator.windtunnels.contract import Problem, Tunnel
from validator.windtunnels.evidence import EvidenceTunnel


def by_enumeration(size: int, pairs: list[tuple[int, int]], key: int) -> np.ndarray:
    """The value's distribution, by counting the bijections that agree with the pairs."""
    counts = np.zeros(size)
    for values in itertools.permutations(range(size)):
        if all(values[k] == v for k, v in pairs):
            counts[values[key]] += 1
    return counts / counts.sum()


@st.composite
def tunnels(draw: st.DrawFn) -> BijectionTunnel:
    size, repeat = draw(st.integers(3, 6)), draw(st.booleans())
    most = 2 * size if repeat else size
    return BijectionTunnel(size, repeat, draw(st.integers(size - 1, most)))


@given(tunnels(), st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_the_posterior_counts_bijections(tunnel: BijectionTunnel, seed: int) -> None:
    problem = tunnel.sample(np.random.default_rng(seed))
    pairs = list(problem.content.pairs)
    for i, query in enumerate(tunnel.queries(problem, "pairs")):
        wanted = by_enumeration(tunnel.size, pairs[:i], pairs[i][0])
        np.testing.assert_allclose(query.posterior.probabilities, wanted, atol=1e-9)
        k = len(set(pairs[:i]))
        seen = pairs[i][0] in {key for key, _ in pairs[:i]}
        assert query.posterior.entropy == pytest.approx(
            0 if seen else math.log2(tunnel.size - k), abs=1e-12)


@given(tunnels(), st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_what_every_evidence_tunnel_holds_to(tunnel: BijectionTunnel, seed: int) -> None:
    pairs = tunnel.sample(np.random.default_rng(seed)).content.pairs
    assume(len({key for key, _ in pairs}) > 1)  # else no other key has a value to take
    check_render(tunnel, seed)
    check_twins(tunnel, seed)
    check_token_queries(tunnel, seed)
    batch, ids = check_batch(tunnel, seed)
    assert batch.ids[0].tolist() == ids
    assert (batch.labels[0, 2::2] == batch.ids[0, 2::2]).all()
    assert (batch.labels[0, ::2][1:] != -100).all()
    assert (batch.labels[0, 1::2] == -100).all()


def test_it_is_a_tunnel() -> None:
    assert isinstance(BijectionTunnel(), Tunnel)
    assert isinstance(BijectionTunnel(), EvidenceTunnel)


def test_the_next_key() -> None:
    problem = BijectionTunnel(3).sample(np.random.default_rng(0))
    prefix = ["<s>", "k1", "v0"]
    left = BijectionTunnel(3).posterior(problem, prefix)
    assert left.symbols == ("k0", "k1", "k2")
    assert left.probabilities.tolist() == [0.5, 0, 0.5]
    any_key = BijectionTunnel(3, repeat=True).posterior(problem, prefix).probabilities
    np.testing.assert_allclose(any_key, 1 / 3)


@pytest.mark.parametrize(("text", "verdicts"), [
    ("k0 v1 k1 v0 k2 v2", (True, True, True)),
    ("k0 v1 k1 v1 k2 v0", (True, False, True)),
    ("k0 v1 k0 v1 k2 v2", (True, False, True)),  # a key comes once here
    ("k0 v3 k1 v1 k2 v0", (False, True, True)),  # there is no v3
    ("v0 k1 k1 v1", (False, True)),
    ("k0 v1 k1 v1 k1 v0", (True, False, True)),  # the wrong pair is not believed
])
def test_verify(text: str, verdicts: tuple[bool, ...]) -> None:
    tunnel = BijectionTunnel(3)
    problem = Problem("p", Bijection(((0, 0), (1, 1), (2, 2))))
    trace = tunnel.judge(problem, "pairs", text, trace_id="t")
    assert tuple(map(bool, trace.step_labels or ())) == verdicts
    assert trace.label == int(all(verdicts))
    assert tunnel.verify(problem, replace(trace, steps=None, step_labels=None)) == verdicts


def test_repeated_keys_must_keep_their_value() -> None:
    tunnel = BijectionTunnel(3, repeat=True)
    problem = Problem("p", Bijection(((0, 0),)))
    trace = tunnel.judge(problem, "text", "A is b\nA is b\nA is c\nB is b\nB is a", trace_id="t")
    assert trace.step_labels == (1, 1, 0, 0, 1)


def test_twins_spoil_one_pair() -> None:
    tunnel, rng = BijectionTunnel(6, repeat=True), np.random.default_rng(0)
    for _ in range(20):
        problem = tunnel.sample(rng)
        for kind in tunnel.corruptions:
            wrong = tunnel.corrupt(problem, "pairs", kind, rng)
            at = (wrong.step_labels or ()).index(0)
            assert (wrong.step_labels or ()).count(0) == 1
            key = problem.content.pairs[at][0]
            before = {k for k, _ in problem.content.pairs[:at]}
            assert (key in before) == (kind == "changed_value")


def test_drawn_values_are_uniform() -> None:
    batch = BijectionTunnel(5).token_batch(np.random.default_rng(0), 5000, "pairs")
    first = np.bincount(batch.ids[:, 2] - 8, minlength=5)
    assert np.abs(first - 1000).max() < 4 * math.sqrt(800)


@pytest.mark.parametrize("settings_", [
    {"size": 1}, {"pairs": 1}, {"size": 4, "pairs": 5}])
def test_settings_out_of_range(settings_: dict[str, int]) -> None:
    with pytest.raises(ParameterError, match="must be"):
        BijectionTunnel(**settings_)


def test_errors_name_what_there_is() -> None:
    tunnel, rng = BijectionTunnel(4), np.random.default_rng(0)
    problem = tunnel.sample(rng)
    with pytest.raises(ParameterError, match="it has: pairs, text"):
        tunnel.render(problem, "flat")
    with pytest.raises(ParameterError, match="it has: used_value"):
        tunnel.corrupt(problem, "pairs", "changed_value", rng)
    with pytest.raises(ParameterError, match="no token ids"):
        tunnel.token_batch(rng, 2, "text")
    with pytest.raises(ParameterError, match="expected a key"):
        tunnel.posterior(problem, ["<s>", "v0"])
    one = Problem("p", Bijection(((0, 0), (0, 0))))
    with pytest.raises(ParameterError, match="one key only"):
        tunnel.corrupt(one, "pairs", "used_value", rng)
    assert BijectionTunnel(40).styles == ("pairs",)
