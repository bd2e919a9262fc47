"""Plots show the numbers they are given, and the attention is the model's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from validator.errors import ParameterError, TraceError
from validator.models.loading import LoadedModel
from validator.types import Trace
from validator.windtunnels.bijection import BijectionTunnel
from validator.windtunnels.contract import Problem
from validator.windtunnels.entropy import EntropyReport, measure_entropy
from validator.windtunnels.geometry import QueryStates, principal_plane
from validator.windtunnels.measure_evidence import uniform_subject
from validator.windtunnels.plots import (
    accuracy_plot,
    attention_plot,
    entropy_plot,
    manifold_plot,
    roles_plot,
    save_plot,
)
from validator.windtunnels.step_attention import StepAttention, step_attention, tree_marks
from validator.windtunnels.subjects import Subject
from validator.windtunnels.tree import TreePathTunnel

TREE = TreePathTunnel(nodes=(5, 6), depth=(2, 3), dummies=(0, 1), labels=8)
PAIRS = Subject("pairs", BijectionTunnel(4), "pairs", 4)


def walk(style: str) -> tuple[Problem, Trace, LoadedModel]:
    problem = TREE.sample(np.random.default_rng(1))
    subject = Subject("tiny", TREE, style, 4)
    return problem, TREE.render(problem, style), subject.loaded(subject.untrained(0), "tiny")


@pytest.mark.parametrize("style", ["edges", "flat"])
def test_rows_of_attention_are_the_models_own(style: str) -> None:
    _, trace, loaded = walk(style)
    found = step_attention(loaded, trace)
    words = (trace.prompt + trace.completion).split()
    assert list(found.tokens) == words
    assert list(found.steps) == trace.completion.split()
    loaded.model.set_attn_implementation("eager")
    ids = torch.tensor([loaded.tokenizer(" ".join(words))["input_ids"]])
    with torch.inference_mode():
        eager = loaded.model(input_ids=ids, output_attentions=True).attentions
    first = len(trace.prompt.split()) - 1
    rows = slice(first, len(words) - 1)
    expected = np.stack([layer[0, :, rows].numpy() for layer in eager])
    np.testing.assert_allclose(found.weights, expected, atol=1e-6)


@pytest.mark.parametrize("style", ["edges", "flat"])
def test_marks_point_at_the_edge_and_at_the_walks_own_step(style: str) -> None:
    problem, trace, _ = walk(style)
    words = (trace.prompt + trace.completion).split()
    marks = tree_marks(TREE, problem, style)
    back = trace.completion.split()[:len(problem.content.path) - 1]
    for step, place in enumerate(marks["edge"][:len(back)]):
        if style == "edges":
            child, parent = back[step].split("<")
            assert place is not None
            assert words[place] == f"{parent}>{child}"
        elif step:  # the middle of `parent child ;`
            assert place is not None
            assert words[place - 1:place + 2] == [back[step], back[step - 1], ";"]
    assert all(len(places) == len(trace.completion.split()) for places in marks.values())
    assert all(place is None or place >= len(trace.prompt.split()) for place in marks["own"])


def test_a_trace_without_steps_has_no_rows() -> None:
    _, trace, loaded = walk("edges")
    bare = Trace("bare", "p", trace.prompt, trace.completion)
    with pytest.raises(TraceError, match="'bare' has no steps"):
        step_attention(loaded, bare)


def test_a_panel_for_each_head_with_its_weights_and_marks() -> None:
    weights = np.random.default_rng(0).random((2, 2, 2, 4))
    figure = attention_plot(StepAttention(
        (0, 5), weights, ("a", "b", "c", "d"), ("s", "t"), {"edge": (1, None), "own": (None, 2)}))
    panels = [axes for axes in figure.axes if axes.images]
    assert [p.get_title() for p in panels] == [
        f"layer {layer}, head {head}" for layer in (0, 5) for head in range(2)]
    for panel, expected in zip(panels, weights.reshape(4, 2, 4), strict=True):
        np.testing.assert_array_equal(panel.images[0].get_array(), expected)
        assert [label.get_text() for label in panel.get_xticklabels()] == ["a", "b", "c", "d"]
        assert [label.get_text() for label in panel.get_yticklabels()] == ["s", "t"]
        edge, own = panel.get_lines()
        assert (edge.get_xydata().tolist(), own.get_xydata().tolist()) == ([[1, 0]], [[2, 1]])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "the edge it follows", "its own step"]


def lines_of(figure: Any) -> dict[str, list[list[float]]]:
    return {line.get_label(): line.get_xydata().tolist() for line in figure.axes[0].get_lines()}


def test_roles_over_training() -> None:
    figure = roles_plot({10: {"turn root": 0.5, "control": -0.1}, 0: {"turn root": 0.2}})
    lines = lines_of(figure)
    assert lines["turn root"] == [[0, 0.2], [10, 0.5]]
    assert lines["control"] == [[10, -0.1]]
    assert figure.axes[0].get_xlabel() == "training step"
    assert figure.axes[0].get_ylim()[0] < -0.1
    with pytest.raises(ParameterError, match="no steps"):
        roles_plot({})


def report() -> EntropyReport:
    model = uniform_subject(PAIRS.loaded(PAIRS.untrained(0), "tiny"))
    assert isinstance(PAIRS.tunnel, BijectionTunnel)
    return measure_entropy(model, PAIRS.tunnel, PAIRS.problems(2), "pairs")


def test_entropies_by_position() -> None:
    found = report()
    figure = entropy_plot(found, {"other": found})
    lines = lines_of(figure)
    exact = [[k, pytest.approx(np.log2(4 - k))] for k in range(4)]
    assert lines["exact posterior"] == exact
    name = f"(error {found.overall.entropy_mae_bits:.4g} bits)"
    assert lines[f"model {name}"] == [[k, pytest.approx(2)] for k in range(4)]
    assert f"other {name}" in lines
    assert figure.axes[0].get_ylabel() == "entropy, bits"


def test_the_manifold_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    states = QueryStates(rng.normal(size=(30, 5)) * [5, 3, 1, 1, 1], rng.random(30),
                         np.zeros(30, dtype=int), tuple("p" * 30))
    pca = PCA(2).fit(states.hidden)
    plane, shares = principal_plane(states.hidden)
    np.testing.assert_allclose(shares, pca.explained_variance_ratio_)
    np.testing.assert_allclose(np.abs(plane), np.abs(pca.transform(states.hidden)), atol=1e-9)
    figure = manifold_plot(states)
    points = figure.axes[0].collections[0]
    np.testing.assert_allclose(points.get_offsets(), plane)
    np.testing.assert_array_equal(points.get_array(), states.entropy)
    assert f"({shares[0]:.1%} of the variance)" in figure.axes[0].get_xlabel()
    assert figure.axes[1].get_ylabel() == "posterior entropy, bits"


def test_checkpoints_and_their_losses() -> None:
    figure = accuracy_plot([0, 5, 10], [0.0, 0.4, 0.9], "exact accuracy", [3.0, 1.0, 0.2],
                           highest=1)
    assert lines_of(figure)["exact accuracy"] == [[0, 0], [5, 0.4], [10, 0.9]]
    assert figure.axes[1].get_lines()[0].get_ydata().tolist() == [3.0, 1.0, 0.2]
    assert figure.axes[0].get_ylim() == (0, 1.02)
    legend = figure.axes[0].get_legend()
    assert legend is not None
    assert [t.get_text() for t in legend.get_texts()] == ["exact accuracy", "held-out loss"]
    assert len(accuracy_plot([0], [1.0], "exact accuracy").axes) == 1


def test_a_plot_is_written_twice_the_same(tmp_path: Path) -> None:
    history = {0: {"control": 0.1}, 5: {"control": 0.4}}
    first = save_plot(roles_plot(history), tmp_path / "new" / "a", "roles", ("svg", "png"))
    second = save_plot(roles_plot(history), tmp_path / "b", "roles", ("svg",))
    assert [p.name for p in first] == ["roles.svg", "roles.png"]
    assert first[1].read_bytes().startswith(b"\x89PNG")
    assert "training step" in first[0].read_text()
    assert first[0].read_bytes() == second[0].read_bytes()
