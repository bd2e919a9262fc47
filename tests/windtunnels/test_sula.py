from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from evidence_checks import check_batch, check_render, check_token_queries, check_twins
from hypothesis import given, settings
from hypothesis import strategies as st

from validator.errors import ParameterError
from validator.windtunnels.evidence import EvidenceTunnel
from validator.windtunnels.sula import SulaTunnel


def joint(labels: int, examples: int, reliability: float) -> dict[tuple[int, ...], float]:
    """Chance of every (hidden label, shown labels)."""
    wrong = (1 - reliability) / (labels - 1)
    return {case: math.prod(reliability if s == case[0] else wrong for s in case[1:]) / labels
            for case in itertools.product(range(labels), repeat=examples + 1)}


@st.composite
def tunnels(draw: st.DrawFn) -> SulaTunnel:
    words = ("red", "blue", "green")[:draw(st.integers(2, 3))]
    return SulaTunnel(draw(st.integers(1, 4)), draw(st.sampled_from([0.6, 0.9])), words)


@given(tunnels(), st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_the_posterior_is_the_share_of_the_joint_distribution(
    tunnel: SulaTunnel, seed: int
) -> None:
    labels = len(tunnel.words)
    problem = tunnel.sample(np.random.default_rng(seed))
    for query in tunnel.queries(problem, "answer"):
        shown = problem.content.shown[:query.position]
        whole = joint(labels, len(shown), tunnel.reliability)
        mass = np.array([whole[(y, *shown)] for y in range(labels)])
        np.testing.assert_allclose(query.posterior.probabilities, mass / mass.sum(), atol=1e-9)
        longer = joint(labels, len(shown) + 1, tunnel.reliability)
        following = np.array([sum(longer[(y, *shown, s)] for y in range(labels))
                              for s in range(labels)])
        found = tunnel.posterior(problem, ["<s>", *(f"l{s}" for s in shown)])
        np.testing.assert_allclose(found.probabilities, following / following.sum(), atol=1e-9)


@given(tunnels(), st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_what_every_evidence_tunnel_holds_to(tunnel: SulaTunnel, seed: int) -> None:
    check_render(tunnel, seed)
    check_twins(tunnel, seed)
    check_token_queries(tunnel, seed)
    batch, ids = check_batch(tunnel, seed)
    used = int((batch.ids[0] != 0).sum())
    ask = ids[-2]
    assert batch.ids[0, used - 2] == ask
    assert batch.ids[0, :used - 2].tolist() == ids[:used - 2]
    assert batch.ids[0, used - 1] == ids[-1]
    asked = batch.labels[0] != -100
    assert asked.tolist() == [False] + [True] * (used - 3) + [False, True] + [False] * (
        len(asked) - used)


def test_entropy_falls_with_agreeing_evidence() -> None:
    tunnel = SulaTunnel()
    problem = tunnel.sample(np.random.default_rng(0))
    bits = [tunnel.posterior(problem, ["l0"] * k + ["?"]).entropy for k in range(5)]
    assert bits[0] == pytest.approx(1)
    assert bits[1] == pytest.approx(-0.9 * math.log2(0.9) - 0.1 * math.log2(0.1))
    assert bits == sorted(bits, reverse=True)
    assert tunnel.posterior(problem, ["l0", "l1", "?"]).entropy == pytest.approx(1)


def test_examples_that_tell_nothing() -> None:
    tunnel = SulaTunnel(reliability=0.5)
    problem = tunnel.sample(np.random.default_rng(0))
    assert all(q.posterior.entropy == pytest.approx(1) for q in tunnel.queries(problem, "text"))


def test_examples_hold_as_often_as_they_should() -> None:
    tunnel = SulaTunnel(examples=4, words=("a", "b", "c"))
    rng = np.random.default_rng(0)
    problems = [tunnel.sample(rng).content for _ in range(3000)]
    right = np.mean([s == p.hidden for p in problems for s in p.shown])
    assert abs(right - 0.9) < 4 * (0.09 / 12_000) ** 0.5


def test_text_asks_after_each_number_of_examples() -> None:
    tunnel = SulaTunnel(examples=2, words=("red", "blue"))
    problem = tunnel.sample(np.random.default_rng(0))
    queries = tunnel.queries(problem, "text")
    assert [q.prefix.count("\n") for q in queries] == [1, 2, 3]
    assert queries[0].candidates == (" red", " blue")
    trace = tunnel.render(problem, "text")
    assert trace.prompt == queries[-1].prefix + " "


def test_it_is_a_tunnel_of_evidence() -> None:
    assert isinstance(SulaTunnel(), EvidenceTunnel)


def test_errors() -> None:
    for wrong in ({"examples": -1}, {"words": ("a",)}, {"words": ("a", "a")}, {"reliability": 1.0}):
        with pytest.raises(ParameterError, match="must be"):
            SulaTunnel(**wrong)
    problem = SulaTunnel().sample(np.random.default_rng(0))
    with pytest.raises(ParameterError, match="expected a label"):
        SulaTunnel().posterior(problem, ["?", "l0"])
