from __future__ import annotations

import itertools
import re
from fractions import Fraction

import numpy as np
import pytest
from evidence_checks import check_batch, check_render, check_token_queries, check_twins
from hypothesis import given, settings
from hypothesis import strategies as st

from validator.errors import ParameterError
from validator.windtunnels.evidence import EvidenceTunnel
from validator.windtunnels.hmm import HMMTunnel, forward
from validator.windtunnels.hmm_weights import Weights


def by_enumeration(weights: Weights, seen: tuple[int, ...], outputs: int) -> list[Fraction]:
    """The next observation's distribution, by summing over every path of hidden states."""
    joint = []
    for following in range(outputs):
        total = Fraction(0)
        for path in itertools.product(range(len(weights.transition)), repeat=len(seen) + 1):
            chance = Fraction(1, len(weights.transition))
            for t, (state, shown) in enumerate(zip(path, (*seen, following), strict=True)):
                chance *= Fraction(weights.emission[state][shown], sum(weights.emission[state]))
                if t:
                    row = weights.transition[path[t - 1]]
                    chance *= Fraction(row[state], sum(row))
            total += chance
        joint.append(total)
    return [p / sum(joint) for p in joint]


@st.composite
def tunnels(draw: st.DrawFn) -> HMMTunnel:
    if draw(st.booleans()):
        return HMMTunnel(5, 5, 3, given=draw(st.booleans()), banded=True)
    return HMMTunnel(draw(st.integers(2, 3)), draw(st.integers(2, 4)), 4,
                     given=draw(st.booleans()), levels=10, parameter_seed=draw(st.integers(0, 9)))


@given(tunnels(), st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_the_posterior_sums_over_paths(tunnel: HMMTunnel, seed: int) -> None:
    problem = tunnel.sample(np.random.default_rng(seed))
    chain = problem.content
    for i, query in enumerate(tunnel.queries(problem, "symbols")):
        wanted = by_enumeration(chain.weights, chain.observations[:i], tunnel.outputs)
        np.testing.assert_allclose(
            query.posterior.probabilities, [float(p) for p in wanted], atol=1e-9)


@given(tunnels(), st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_what_every_evidence_tunnel_holds_to(tunnel: HMMTunnel, seed: int) -> None:
    check_render(tunnel, seed)
    check_twins(tunnel, seed)
    check_token_queries(tunnel, seed)
    batch, ids = check_batch(tunnel, seed)
    assert batch.ids[0].tolist() == ids
    asked = batch.labels[0] != -100
    assert asked.sum() == tunnel.length
    assert asked[-tunnel.length:].all()


def test_it_is_a_tunnel_of_evidence() -> None:
    assert isinstance(HMMTunnel(), EvidenceTunnel)


def test_observations_have_the_right_frequencies() -> None:
    """Pairs of observations, against the exact joint distribution."""
    tunnel = HMMTunnel(3, 3, 2, levels=10)
    ids = tunnel.token_batch(np.random.default_rng(0), 40_000, "symbols").ids[:, 1:] - 3
    weights = tunnel.sample(np.random.default_rng(0)).content.weights
    first = by_enumeration(weights, (), 3)
    for a in range(3):
        for b, p in enumerate(by_enumeration(weights, (a,), 3)):
            wanted = float(first[a] * p)
            found = ((ids[:, 0] == a) & (ids[:, 1] == b)).mean()
            assert abs(found - wanted) < 4.5 * (wanted / 40_000) ** 0.5


def test_weights_sum_and_are_positive_or_banded() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        weights = HMMTunnel(3, 4, given=True, levels=10).sample(rng).content.weights
        for row in (*weights.transition, *weights.emission):
            assert sum(row) == 10
            assert min(row) >= 1
        banded = HMMTunnel(given=True, banded=True).sample(rng).content.weights
        for rows in (banded.transition, banded.emission):
            for i, row in enumerate(rows):
                assert {j for j, w in enumerate(row) if w} == {i, (i + 1) % 5}


def test_fixed_parameters_are_the_same_for_all_and_follow_their_seed() -> None:
    a, b = (HMMTunnel().sample(np.random.default_rng(s)).content for s in (1, 2))
    assert a.weights == b.weights
    assert a.observations != b.observations
    other = HMMTunnel(parameter_seed=1).sample(np.random.default_rng(1)).content
    assert other.weights != a.weights


def test_after_an_impossible_observation_the_belief_moves_on_unmoved_by_it() -> None:
    tunnel = HMMTunnel(banded=True)
    weights = tunnel.sample(np.random.default_rng(0)).content.weights
    impossible = int(np.flatnonzero(forward(weights, [0])[1] == 0)[0])
    np.testing.assert_allclose(
        forward(weights, [0, impossible, 1]), forward(weights, [0, None, 1]), atol=1e-12)


def test_the_unlikely_twin_takes_the_least_chance() -> None:
    tunnel, rng = HMMTunnel(), np.random.default_rng(0)
    problem = tunnel.sample(rng)
    seen = problem.content.observations
    wrong = tunnel.corrupt(problem, "symbols", "unlikely", rng)
    at = (wrong.step_labels or ()).index(0)
    put = int(wrong.completion.split()[at][1:])
    chances = forward(problem.content.weights, seen)[at]
    assert chances[put] == min(p for o, p in enumerate(chances) if o != seen[at])


def test_text_says_the_weights() -> None:
    tunnel = HMMTunnel(3, 3, 4, given=True, levels=10)
    problem = tunnel.sample(np.random.default_rng(3))
    prompt = tunnel.render(problem, "text").prompt
    shares = [int(s) for s in re.findall(r"with (\d+)%", prompt)]
    weights = problem.content.weights
    wanted = [w for e, t in zip(weights.emission, weights.transition, strict=True)
              for w in (*e, *t)]
    assert shares == [10 * w for w in wanted]


def test_errors() -> None:
    tunnel = HMMTunnel(3, 3, 4, given=True, levels=10)
    problem = tunnel.sample(np.random.default_rng(0))
    with pytest.raises(ParameterError, match="must begin with the problem's weights"):
        tunnel.posterior(problem, ["<s>", "o1"])
    with pytest.raises(ParameterError, match="it has: unlikely"):
        tunnel.corrupt(problem, "symbols", "impossible", np.random.default_rng(0))
    for wrong in ({"states": 1}, {"outputs": 1}, {"length": 0}, {"levels": 4},
                  {"banded": True, "states": 4, "outputs": 4}):
        with pytest.raises(ParameterError, match="must be"):
            HMMTunnel(**wrong)
