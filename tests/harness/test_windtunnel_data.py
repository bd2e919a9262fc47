"""What the wind tunnels' tasks ask, and how an answer to a tree is judged."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from validator.errors import HarnessError
from validator.plugins.harness.windtunnel_curves import curve_mae, position_mae
from validator.plugins.harness.windtunnel_data import DEMONSTRATIONS, draw, sula, tree_of, treepath
from validator.plugins.harness.windtunnel_evidence import QUERIES, judge_queries
from validator.plugins.harness.windtunnel_tree import judge_walk
from validator.windtunnels.bijection import BijectionTunnel
from validator.windtunnels.hmm import HMMTunnel
from validator.windtunnels.sula import SulaTunnel
from validator.windtunnels.tree import TreePathTunnel

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

SMALL = {"nodes": [6, 8], "depth": [2, 3], "dummies": [0, 1], "labels": 12}


def test_metadata_says_what_is_drawn_and_the_same_gives_the_same() -> None:
    asked = {"tunnel": {"size": 4, "repeat": True}, "problem_count": 3, "problem_seed": 5}
    drawn = draw("bijection", {**asked, "pretrained": "of the model arguments"})
    assert (drawn.tunnel, drawn.style) == (BijectionTunnel(4, repeat=True), "text")
    rng = np.random.default_rng(5)
    assert list(drawn.problems) == [drawn.tunnel.sample(rng) for _ in range(3)]
    assert draw("bijection", {**asked, "problem_seed": 6}).problems != drawn.problems
    assert len(draw("sula", {}).problems) == 100


def test_settings_of_several_tunnels_are_told_apart_by_name() -> None:
    asked = {"tunnel": {"bijection": {"size": 6}, "tree": SMALL}, "problem_count": 1}
    assert draw("bijection", asked).tunnel == BijectionTunnel(6)
    assert draw("hmm", asked).tunnel == HMMTunnel()
    assert draw("tree", asked).tunnel == TreePathTunnel(
        nodes=(6, 8), depth=(2, 3), dummies=(0, 1), labels=12)


@pytest.mark.parametrize(("name", "metadata", "message"), [
    ("bijection", {"tunnel": {"sise": 4}}, "no setting 'sise'; did you mean 'size'"),
    ("bijection", {"tunnel": {"size": "ten"}}, "'size' of 'bijection' must be int, got 'ten'"),
    ("bijection", {"tunnel": {"size": True}}, "must be int, got True"),
    ("bijection", {"tunnel": {"size": 1}}, "size must be 2 or more"),
    ("tree", {"tunnel": {"depth": [2]}}, r"'depth' of 'tree' must be list\[int, int\], got \[2\]"),
    ("sula", {"tunnel": {"words": ["a", 1]}}, "must be list"),
    ("hmm", {"tunnel": [1]}, "tunnel must be {setting: value}"),
    ("hmm", {"style": "pairs"}, "no style 'pairs'; it has: symbols, text"),
    ("hmm", {"problem_count": 0}, "problem_count must be a whole number, 1 or more, got 0"),
    ("hmm", {"problem_seed": "x"}, "problem_seed must be a whole number, 0 or more, got 'x'"),
])
def test_what_cannot_be_is_an_error(name: str, metadata: dict[str, Any], message: str) -> None:
    with pytest.raises(HarnessError, match=message):
        draw(name, metadata)


@pytest.mark.parametrize("settings", [{"size": 4, "pairs": None}, {"size": 4, "pairs": 3}])
def test_a_setting_may_be_left_open(settings: dict[str, Any]) -> None:
    assert draw("bijection", {"tunnel": settings, "problem_count": 1}).tunnel.size == 4


@pytest.mark.parametrize(("name", "metadata"), [
    ("bijection", {"style": "pairs"}), ("bijection", {"tunnel": {"size": 5, "repeat": True}}),
    ("hmm", {"tunnel": {"given": True, "states": 3, "outputs": 3}}), ("sula", {})])
def test_every_problem_of_a_run_has_as_many_queries(name: str, metadata: dict[str, Any]) -> None:
    """So that the mean of problems' means is the mean over all queries."""
    drawn = draw(name, {**metadata, "problem_count": 20})
    assert len({len(drawn.tunnel.queries(p, drawn.style)) for p in drawn.problems}) == 1


def test_a_document_is_a_problem_with_its_posteriors() -> None:
    row = sula(problem_count=1, tunnel={"examples": 2})["test"][0]
    assert row["candidates"] == [[" positive", " negative"]] * 3
    assert row["position"] == [0, 1, 2]
    assert all(prefix.endswith("The hidden label is") for prefix in row["prefix"])
    assert row["posterior"][0] == [0.5, 0.5]
    assert sorted(row["posterior"][1]) == pytest.approx([0.1, 0.9])
    exact = [q.posterior.probabilities.tolist() for q in SulaTunnel(2).queries(
        draw("sula", {"problem_count": 1, "tunnel": {"examples": 2}}).problems[0], "text")]
    assert row["posterior"] == exact


@pytest.mark.parametrize("style", ["text", "edges", "flat"])
def test_a_walk_is_judged_by_the_tunnel(style: str) -> None:
    asked = {"problem_count": 4, "style": style, "tunnel": SMALL}
    documents = treepath(**asked)
    drawn = draw("tree", asked)
    rng = np.random.default_rng(0)
    for row, problem in zip(documents["test"], drawn.problems, strict=True):
        assert tree_of(row)[1] == problem
        assert judge_walk(row, [row["solution"]]) == {"exact_match": 1.0, "right_steps": 1.0}
        for kind in drawn.tunnel.corruptions:
            wrong = drawn.tunnel.corrupt(problem, style, kind, rng)
            found = judge_walk(row, [wrong.completion])
            assert found["exact_match"] == 0
            assert found["right_steps"] == pytest.approx(np.mean(wrong.step_labels))
        assert judge_walk(row, [""]) == {"exact_match": 0.0, "right_steps": 0.0}
        parts = row["solution"].split("\n" if style == "text" else " ")
        half = ("\n" if style == "text" else " ").join(parts[:len(parts) // 2])
        assert judge_walk(row, [half]) == {
            "exact_match": 0.0, "right_steps": len(parts) // 2 / len(parts)}
        more = row["solution"] + ("\n" if style == "text" else " ") + parts[-1]
        assert judge_walk(row, [more]) == {
            "exact_match": 0.0, "right_steps": len(parts) / (len(parts) + 1)}


def test_demonstrations_are_solved_and_no_documents() -> None:
    # So few trees that a demonstration would be a document, were it not drawn again.
    asked = {"problem_count": 30, "tunnel": {
        "nodes": [4, 4], "depth": [2, 2], "dummies": [0, 0], "labels": 4}}
    found = treepath(**asked)
    shown = {row["problem_id"] for row in found["demonstrations"]}
    assert len(found["demonstrations"]) == DEMONSTRATIONS
    assert shown.isdisjoint(row["problem_id"] for row in found["test"])
    for row in found["demonstrations"]:
        assert judge_walk(row, [row["solution"]])["exact_match"] == 1


def test_demonstrations_that_cannot_be_are_an_error() -> None:
    with pytest.raises(HarnessError, match="fewer problems"):
        treepath(problem_count=400, tunnel={
            "nodes": [4, 4], "depth": [2, 2], "dummies": [0, 0], "labels": 4})


def test_a_documents_metrics_by_hand() -> None:
    document = {"problem_id": "p", "prefix": ["a", "b"], "position": [0, 1],
                "posterior": [[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]]}
    shares = [0.1, 0.1, 0.2, 0.4, 0.05, 0.05]
    found = judge_queries(document, [(math.log(p), False) for p in shares])
    entropies = [1.5, -0.8 * math.log2(0.8) - 0.2 * math.log2(0.1)]
    assert found["entropy_mae_bits"] == pytest.approx((0.5 + entropies[1]) / 2)
    assert found["posterior_kl_bits"] == pytest.approx((1 + math.log2(1.25)) / 2)
    assert found["mass_on_support"] == pytest.approx((0.5 + 0.8) / 2)
    assert found["candidate_mass"] == pytest.approx((0.4 + 0.5) / 2)
    assert found[QUERIES]["model_entropy"] == pytest.approx(entropies)
    assert found[QUERIES]["position"] == [0, 1]
    with pytest.raises(HarnessError, match=r"problem p: .* after 'b' are .*-inf"):
        judge_queries(document, [(math.log(0.1), False)] * 5 + [(-math.inf, False)])


def test_curves_are_those_of_the_resampled_problems() -> None:
    rng = np.random.default_rng(0)
    exact, found = rng.random((2, 5, 3))
    counts = np.array([[1, 1, 1, 1, 1], [3, 0, 0, 2, 0]])
    for statistic in (curve_mae, position_mae):
        values = statistic(exact, found, counts)
        for value, count in zip(values, counts, strict=True):
            rows = np.repeat(np.arange(5), count)
            a, b = exact[rows], found[rows]
            by_hand = (np.abs(a.mean(0) - b.mean(0)).mean() if statistic is curve_mae
                       else np.abs(a - a.mean(0)).mean())
            assert value == pytest.approx(by_hand)
