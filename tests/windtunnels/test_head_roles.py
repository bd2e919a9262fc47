"""Head roles against attention that was made by hand, and decisions against the text itself."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import byte_tokenizer, tiny_model

from validator.errors import ParameterError
from validator.windtunnels.edge_model import edge_model
from validator.windtunnels.head_roles import RoleRecord, head_roles
from validator.windtunnels.symbols import symbol_tokenizer
from validator.windtunnels.tree import TreePathTunnel
from validator.windtunnels.tree_roles import STAGES, TARGETS, tree_decisions

SMALL = TreePathTunnel(nodes=(5, 6), depth=(2, 3), dummies=(0, 1), labels=8)


def problems(count: int, tunnel: TreePathTunnel = SMALL) -> Any:
    return tunnel.problems(tunnel.sample_arrays(np.random.default_rng(5), count))


def pointed_at(tunnel: TreePathTunnel, problem: Any, style: str) -> list[tuple[str, str, dict]]:
    """Stage, what comes at the decision, and the words of each target."""
    trace, decisions = tree_decisions(tunnel, problem, style)
    text = trace.prompt + trace.completion
    return [(d.stage, text[d.at:d.at + 5], {k: text[a:b] for k, (a, b) in d.targets.items()})
            for d in decisions]


@pytest.mark.parametrize("seed", range(6))
def test_decisions_of_edges(seed: int) -> None:
    problem = problems(6)[seed]
    path = [str(node + 10) for node in problem.content.path]
    root, goal = f"root={path[-1]}", f"goal={path[0]}"
    marks = {"root": root, "goal": goal}
    ups = [f"{a}<{b}" for a, b in pairwise(path)]
    expected = []
    for i, (child, parent) in enumerate(pairwise(path)):
        own = {"own": ups[i - 1]} if i else {}
        expected.append(("backward", ups[i], {**marks, "edge": f"{parent}>{child}", **own}))
    for i, (parent, child) in enumerate(pairwise(path[::-1])):
        expected.append(("forward" if i else "turn", f"{parent}>{child}", {
            **marks, "edge": f"{parent}>{child}", "own": f"{child}<{parent}"}))
    expected.append(("end", "", marks))
    assert pointed_at(SMALL, problem, "edges") == expected
    trace, decisions = tree_decisions(SMALL, problem, "edges")
    owns = [d.targets["own"] for d in decisions if d.stage == "forward"]
    assert owns
    assert all(a >= len(trace.prompt) for a, _ in owns)  # its own step, not the listed edge


def test_decisions_of_flat_nodes() -> None:
    problem = next(p for p in problems(20) if p.meta["depth"] == 2)
    g, a, r = (str(node + 10) for node in problem.content.path)
    marks = {"root": f"root {r}", "goal": f"goal {g}"}
    found = [(stage, word.split()[0] if word else "", targets)
             for stage, word, targets in pointed_at(SMALL, problem, "flat")]
    assert found == [
        ("start", g, marks),
        ("backward", a, {**marks, "edge": f"{a} {g} ;", "own": g}),
        ("backward", r, {**marks, "edge": f"{r} {a} ;", "own": a}),
        ("turn", "|", {**marks, "own": r}),
        ("restart", r, {**marks, "own": r}),
        ("forward", a, {**marks, "edge": f"{r} {a} ;", "own": f"{a} {r}"}),
        ("forward", g, {**marks, "edge": f"{a} {g} ;", "own": f"{g} {a}"}),
        ("end", "", marks)]


def test_decisions_of_text() -> None:
    problem = next(p for p in problems(20) if p.meta["depth"] == 2)
    g, a, r = (str(node + 10) for node in problem.content.path)
    marks = {"root": f"root is {r}", "goal": f"goal is {g}"}
    found = [(stage, word[:4].strip(), targets)
             for stage, word, targets in pointed_at(SMALL, problem, "text")]
    assert [(stage, targets) for stage, _, targets in found] == [
        ("backward", {**marks, "edge": f"{a} > {g}"}),
        ("backward", {**marks, "edge": f"{r} > {a}", "own": f"up from {g} to {a}"}),
        ("turn", marks),
        ("forward", {**marks, "edge": f"{r} > {a}", "own": f"up from {a} to {r}"}),
        ("forward", {**marks, "edge": f"{a} > {g}", "own": f"up from {g} to {a}"})]
    assert [word[:2] for _, word, _ in found] == [a, r, "do", a, g]


@pytest.mark.parametrize("task", ["backward", "direct"])
@pytest.mark.parametrize("style", ["edges", "flat", "text"])
def test_walks_of_one_stage_have_no_turn(task: str, style: str) -> None:
    tunnel = TreePathTunnel(task=task, nodes=(5, 6), depth=(2, 3), dummies=(0, 1), labels=8)
    problem = problems(1, tunnel)[0]
    stages = [d.stage for d in tree_decisions(tunnel, problem, style)[1]]
    walk = {"backward": "backward", "direct": "forward"}[task]
    start = ["start"] if style == "flat" else []
    end = [] if style == "text" else ["end"]
    assert stages == [*start, *[walk] * problem.meta["depth"], *end]


def eager_masses(model: Any, tokenizer: Any, asked: Any, style: str) -> tuple[Any, Any]:
    """(L, H, S, K) by transformers' own eager attention, one problem at a time."""
    model.set_attn_implementation("eager")
    config = model.config
    shape = (config.num_hidden_layers, config.num_attention_heads, len(STAGES), len(TARGETS))
    total, counts = np.zeros(shape), np.zeros(shape[2:])
    for problem in asked:
        trace, decisions = tree_decisions(SMALL, problem, style)
        words = trace.prompt.split() + trace.completion.split()
        ids = torch.tensor([tokenizer(trace.prompt + trace.completion)["input_ids"]])
        with torch.inference_mode():
            weights = [w[0].numpy() for w in model(
                input_ids=ids, attention_mask=torch.ones_like(ids), output_attentions=True
            ).attentions]
        text = trace.prompt + trace.completion
        for d in decisions:
            query = len(text[:d.at].split()) - 1
            for name, (a, b) in d.targets.items():
                first = len(text[:a].split())
                keys = slice(first, first + len(text[a:b].split()))
                s, k = STAGES.index(d.stage), TARGETS.index(name)
                counts[s, k] += 1
                for layer, w in enumerate(weights):
                    total[layer, :, s, k] += w[:, query, keys].sum(-1)
        assert len(words) == ids.shape[1]
    model.set_attn_implementation("sdpa")
    return total, counts


@pytest.mark.parametrize("style", ["edges", "flat"])
def test_masses_are_those_of_eager_attention(style: str) -> None:
    tokenizer = symbol_tokenizer(SMALL.symbols(style))
    model = (edge_model(SMALL.symbols(style), seed=1, width=16) if style == "edges"
             else tiny_model("llama"))
    asked = problems(7)
    total, counts = eager_masses(model, tokenizer, asked, style)
    roles = head_roles(model, tokenizer, SMALL, asked, style, batch_size=3)
    assert roles.counts.tolist() == counts.tolist()
    for s, stage in enumerate(STAGES):
        for k, target in enumerate(TARGETS):
            if counts[s, k]:
                np.testing.assert_allclose(
                    roles.of(stage, target), total[:, :, s, k] / counts[s, k], atol=1e-5)
            else:
                assert np.isnan(roles.of(stage, target)).all()


def test_the_best_head_is_the_one_with_most_and_control_is_a_difference() -> None:
    tokenizer = symbol_tokenizer(SMALL.symbols("flat"))
    roles = head_roles(tiny_model("llama"), tokenizer, SMALL, problems(4), "flat")
    masses = roles.of("backward", "edge")
    best = roles.best("backward", "edge")
    assert masses[best.layer, best.head] == best.value == masses.max()
    control = roles.of("turn", "root") - roles.of("backward", "root")
    strongest = roles.best_control()
    assert control[strongest.layer, strongest.head] == strongest.value == control.max()
    with pytest.raises(ParameterError, match="start has no edge"):
        roles.best("start", "edge")
    with pytest.raises(ParameterError, match="none of start"):
        roles.of("middle", "edge")


def test_any_model_is_read_in_text_and_over_training() -> None:
    tunnel = TreePathTunnel(nodes=(4, 4), depth=(2, 2), dummies=(0, 0), labels=4)
    asked = problems(2, tunnel)
    model = tiny_model("llama", max_position_embeddings=1024)
    record = RoleRecord(model, byte_tokenizer(), tunnel, asked, "text")
    record(0)
    with torch.no_grad():
        model.model.layers[0].self_attn.q_proj.weight.mul_(50)
    record(10)
    history = record.history("backward", "edge")
    assert list(history) == [0, 10]
    assert 0 < history[0] < 1
    assert history[0] != history[10]
    with pytest.raises(ParameterError, match="no problems"):
        head_roles(model, byte_tokenizer(), tunnel, [], "text")
