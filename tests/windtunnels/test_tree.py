"""Trees against networkx and against a walk that is written down here again, in another way."""

from __future__ import annotations

import dataclasses
from itertools import pairwise
from typing import Any

import networkx as nx
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from validator.errors import ParameterError
from validator.types import Trace
from validator.windtunnels.contract import Problem, Tunnel
from validator.windtunnels.symbols import EOS, symbol_tokenizer
from validator.windtunnels.tree import TreePathTunnel
from validator.windtunnels.tree_walk import TASKS, Tree

STYLES = ("edges", "flat", "text")


def problem_of(tunnel: TreePathTunnel, seed: int) -> Problem:
    return tunnel.sample(np.random.default_rng(seed))


def graph_of(tree: Tree) -> Any:
    return nx.DiGraph(tree.edges)


def oracle_path(tree: Tree) -> list[int]:
    """From the goal to the root."""
    path: list[int] = nx.shortest_path(graph_of(tree), tree.root, tree.goal)
    return path[::-1]


def oracle_completion(tree: Tree, task: str, style: str) -> str:
    up = [str(node + 10) for node in oracle_path(tree)]
    down = up[::-1]
    if style == "flat":
        return {"backward": " ".join(up), "direct": " ".join(down),
                "forward": " ".join([*up, "|", *down])}[task]
    steps = {
        "edges": ([f"{a}<{b}" for a, b in pairwise(up)], [f"{a}>{b}" for a, b in pairwise(down)]),
        "text": ([f"up from {a} to {b}" for a, b in pairwise(up)],
                 [f"down from {a} to {b}" for a, b in pairwise(down)])}[style]
    chosen = {"backward": steps[0], "direct": steps[1], "forward": steps[0] + steps[1]}[task]
    return ("\n" if style == "text" else " ").join(chosen)


def test_the_tunnel_keeps_the_contract() -> None:
    assert isinstance(TreePathTunnel(), Tunnel)


@given(seed=st.integers(0, 10**6), low=st.integers(8, 20), more=st.integers(0, 12),
       deepest=st.integers(2, 6), branching=st.integers(2, 4), dummies=st.integers(0, 4))
@settings(max_examples=40, deadline=None)
def test_a_tree_is_what_its_settings_say(
    seed: int, low: int, more: int, deepest: int, branching: int, dummies: int
) -> None:
    most = min(low + more, 2 ** (deepest + 1) - 1)
    tunnel = TreePathTunnel(nodes=(min(low, most) if deepest > 2 else 4, most),
                            depth=(2, deepest), branching=branching, dummies=(0, dummies))
    tree = problem_of(tunnel, seed).content
    graph = graph_of(tree)
    assert len(set(tree.edges)) == len(tree.edges)
    assert nx.is_arborescence(graph)
    inside = nx.descendants(graph, tree.root) | {tree.root}
    extra = len(tree.edges) - (len(inside) - 1)
    assert tunnel.nodes[0] <= len(inside) <= tunnel.nodes[1]
    assert 0 <= extra <= dummies
    assert len(list(graph.predecessors(tree.root))) == (1 if extra else 0)
    below = nx.single_source_shortest_path_length(graph, tree.root)
    assert max(below.values()) <= deepest
    assert 2 <= below[tree.goal] <= deepest
    assert max(graph.out_degree(node) for node in inside) <= branching
    assert set(graph) <= set(range(tunnel.labels))


def test_sizes_depths_and_shapes_vary() -> None:
    tunnel = TreePathTunnel()
    problems = tunnel.problems(tunnel.sample_arrays(np.random.default_rng(0), 400))
    assert {p.meta["depth"] for p in problems} == {2, 3, 4, 5, 6}
    sizes = [len(p.content.edges) for p in problems]
    assert min(sizes) <= 9
    assert max(sizes) >= 33
    goal_first = [p.content.edges[0][1] == p.content.goal for p in problems]
    assert 0 < sum(goal_first) < 60  # the order of the edges tells nothing


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("style", STYLES)
def test_the_solution_is_the_path(task: str, style: str) -> None:
    tunnel = TreePathTunnel(task=task)
    for seed in range(20):
        problem = problem_of(tunnel, seed)
        trace = tunnel.render(problem, style)
        assert trace.completion == oracle_completion(problem.content, task, style)
        assert trace.label == 1
        assert set(trace.step_labels or ()) == {1}
        assert tunnel.valid(problem, trace)
        assert problem.meta["depth"] == len(oracle_path(problem.content)) - 1


@pytest.mark.parametrize("style", STYLES)
def test_the_prompt_tells_the_tree_the_root_and_the_goal(style: str) -> None:
    tunnel = TreePathTunnel()
    problem = problem_of(tunnel, 5)
    tree: Tree = problem.content
    named = [(f"{p + 10}", f"{c + 10}") for p, c in tree.edges]
    root, goal = str(tree.root + 10), str(tree.goal + 10)
    prompt = tunnel.render(problem, style).prompt
    if style == "edges":
        assert prompt.split() == [*(f"{p}>{c}" for p, c in named), f"root={root}", f"goal={goal}"]
    elif style == "flat":
        listed = [word for p, c in named for word in (p, c, ";")]
        assert prompt.split() == [*listed, "root", root, "goal", goal, ":"]
    else:
        assert ", ".join(f"{p} > {c}" for p, c in named) + f". The root is {root}" in prompt


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("style", ["edges", "flat"])
def test_token_batches_are_the_rendered_problems(task: str, style: str) -> None:
    tunnel = TreePathTunnel(task=task)
    tokenizer = symbol_tokenizer(tunnel.symbols(style))
    problems = tunnel.problems(tunnel.sample_arrays(np.random.default_rng(3), 30))
    batch = tunnel.token_batch(np.random.default_rng(3), 30, style)
    assert batch.problem_ids == tuple(p.id for p in problems)
    for problem, ids, labels in zip(problems, batch.ids, batch.labels, strict=True):
        trace = tunnel.render(problem, style)
        prompt = tokenizer(trace.prompt)["input_ids"]
        whole = tokenizer(trace.prompt + trace.completion)["input_ids"] + [tokenizer.eos_token_id]
        assert ids[: len(whole)].tolist() == whole
        assert set(ids[len(whole):]) <= {tokenizer.pad_token_id}
        assert (labels[: len(prompt)] == -100).all()
        assert labels[len(prompt): len(whole)].tolist() == whole[len(prompt):]
        assert (labels[len(whole):] == -100).all()


@pytest.mark.parametrize("style", ["edges", "flat"])
def test_symbols_are_all_there_is_and_each_is_one_token(style: str) -> None:
    tunnel = TreePathTunnel(labels=36)
    symbols = tunnel.symbols(style)
    assert len(symbols) == {"edges": 2 * 36 * 35 + 72, "flat": 41}[style]
    used = {word for seed in range(20) for t in [tunnel.render(problem_of(tunnel, seed), style)]
            for word in (t.prompt + t.completion).split()}
    assert used <= set(symbols)
    assert tunnel.symbols("text") == ()


def test_the_same_generator_gives_the_same_problem_and_another_another() -> None:
    tunnel = TreePathTunnel()
    assert problem_of(tunnel, 4).id == problem_of(tunnel, 4).id
    assert problem_of(tunnel, 4).content == problem_of(tunnel, 4).content
    assert len({problem_of(tunnel, seed).id for seed in range(200)}) == 200


@given(seed=st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_an_id_is_the_tree_whatever_the_order_of_its_edges(seed: int) -> None:
    tunnel = TreePathTunnel()
    rng = np.random.default_rng(seed)
    arrays = tunnel.sample_arrays(rng, 1)
    before = tunnel.problems(arrays)[0]
    order = rng.permutation(arrays.edges.shape[1])
    again = tunnel.problems(dataclasses.replace(arrays, edges=arrays.edges[:, order]))[0]
    assert again.id == before.id
    path = set(before.content.path)
    off = next((e for e in before.content.edges if path.isdisjoint(e)), None)
    assume(off is not None)
    changed = arrays.edges.copy()
    changed[0, before.content.edges.index(off)] = off[::-1]
    assert tunnel.problems(dataclasses.replace(arrays, edges=changed))[0].id != before.id


CASES = [(task, kind) for task in TASKS for kind in TreePathTunnel(task=task).corruptions]


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(("task", "kind"), CASES)
def test_a_twin_is_wrong_and_as_long(task: str, kind: str, style: str) -> None:
    tunnel = TreePathTunnel(task=task)
    for seed in range(30):
        problem = problem_of(tunnel, seed)
        right = tunnel.render(problem, style)
        wrong = tunnel.corrupt(problem, style, kind, np.random.default_rng(seed))
        assert wrong.prompt == right.prompt
        assert wrong.problem_id == right.problem_id
        assert wrong.completion != right.completion
        assert [len(w) for w in wrong.completion.split()] == [
            len(w) for w in right.completion.split()]
        assert (wrong.label, wrong.meta["corruption"]) == (0, kind)
        assert wrong.step_labels == tuple(map(int, tunnel.verify(problem, wrong)))
        assert 0 in (wrong.step_labels or ())
        assert not tunnel.valid(problem, wrong)
        same = tunnel.corrupt(problem, style, kind, np.random.default_rng(seed))
        assert same == wrong


def nodes_of(trace: Trace) -> tuple[list[str], list[str]]:
    """Nodes of both stages of a forward trace in the flat style."""
    back, forth = trace.completion.split("|")
    return back.split(), forth.split()


@pytest.mark.parametrize("seed", range(12))
def test_what_each_corruption_does(seed: int) -> None:
    tunnel = TreePathTunnel(depth=(3, 6))
    problem = problem_of(tunnel, seed)
    back, forth = nodes_of(tunnel.render(problem, "flat"))

    def wrong(kind: str) -> tuple[list[str], list[str]]:
        return nodes_of(tunnel.corrupt(problem, "flat", kind, np.random.default_rng(seed)))

    swapped, again = wrong("swapped")
    moved = [i for i, (a, b) in enumerate(zip(back, swapped, strict=True)) if a != b]
    assert moved == [moved[0], moved[0] + 1]
    assert 0 < moved[0] < len(back) - 2
    assert sorted(swapped) == sorted(back)
    assert again == swapped[::-1]

    replaced, again = wrong("off_path")
    moved = [i for i, (a, b) in enumerate(zip(back, replaced, strict=True)) if a != b]
    assert len(moved) == 1
    assert 0 < moved[0] < len(back) - 1
    assert replaced[moved[0]] not in back
    assert again == replaced[::-1]

    untouched, short = wrong("early_stop")
    assert untouched == back
    kept = short.index(short[-1]) + 1
    assert kept < len(forth)
    assert short == forth[:kept] + [forth[kept - 1]] * (len(forth) - kept)

    untouched, other = wrong("bad_reversal")
    assert untouched == back
    assert other != forth
    assert sorted(other) == sorted(forth)


def test_verdicts_by_hand() -> None:
    """10 -> 11 -> 12 -> 13, with 14 under 11, and 15 above the root."""
    tree = Tree(((0, 1), (1, 2), (2, 3), (1, 4), (5, 0)), root=0, goal=3)
    problem = Problem("by hand", tree, {})
    tunnel = TreePathTunnel()

    def verdicts(completion: str, style: str) -> tuple[tuple[int, ...], int | None]:
        trace = tunnel.judge(problem, style, completion, trace_id="t")
        return tuple(v or 0 for v in trace.step_labels or ()), trace.label

    assert verdicts("13<12 12<11 11<10 10>11 11>12 12>13", "edges") == ((1,) * 6, 1)
    # A wrong step, and a right one from where it led; the way back follows the way there.
    assert verdicts("13<14 14<11 11<10 10>11 11>14 14>13", "edges") == ((0, 1, 1, 1, 1, 1), 0)
    assert verdicts("13<12 12<11 11<10 10>11 11>14 14>13", "edges") == ((1, 1, 1, 1, 0, 0), 0)
    # Turning too early, going on above the root, going on after the goal, not turning at all.
    assert verdicts("13<12 12<11 11>12 12>13", "edges") == ((1, 1, 0, 1), 0)
    assert verdicts("13<12 12<11 11<10 10<15", "edges") == ((1, 1, 1, 0), 0)
    assert verdicts("13<12 12<11 11<10 10>11 11>12 12>13 13>12", "edges") == ((1,) * 6 + (0,), 0)
    assert verdicts("13<12 12<11 11<10", "edges") == ((1, 1, 1), 0)
    assert verdicts("13 12 11 10 | 10 11 12 13", "flat") == ((1,) * 9, 1)
    assert verdicts("13 12 11 10 10 11 12 13", "flat") == ((1,) * 4 + (0,) * 4, 0)
    assert verdicts("13 12 | 12 13", "flat") == ((1, 1, 0, 1, 1), 0)
    assert verdicts("up from 13 to 12\n\n- Up from 12 to 11.\nup from 11 to 10\n"
                    "down from 10 to 11\ndown from 11 to 12\ndown from 12 to 13", "text"
                    ) == ((1,) * 6, 1)


@given(text=st.text(alphabet="0123456789<>| \nupdownfromt;:.-x\u0663", max_size=60),
       style=st.sampled_from(STYLES), task=st.sampled_from(TASKS))
@settings(max_examples=200, deadline=None)
def test_whatever_a_model_writes_is_judged(text: str, style: str, task: str) -> None:
    tunnel = TreePathTunnel(task=task)
    problem = problem_of(tunnel, 1)
    trace = tunnel.judge(problem, style, text, trace_id="t")
    assert len(trace.step_labels or ()) == len(trace.steps or ())
    right = oracle_completion(problem.content, task, style)
    assert (trace.label == 1) == (text.split() == right.split())


def test_verify_reads_the_steps_that_a_trace_names() -> None:
    tunnel = TreePathTunnel(task="backward")
    problem = problem_of(tunnel, 2)
    right = tunnel.render(problem, "edges")
    assert right.steps is not None
    whole = Trace("t", problem.id, right.prompt, right.completion,
                  steps=((right.steps[0][0], right.steps[1][1]),))  # no style named: edges
    assert tunnel.verify(problem, whole) == (False,)
    bare = Trace("t", problem.id, right.prompt, right.completion)
    assert tunnel.verify(problem, bare) == (True,) * len(right.steps)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("style", ["edges", "flat"])
def test_the_posterior_is_the_solution_and_then_the_end(task: str, style: str) -> None:
    tunnel = TreePathTunnel(task=task)
    problem = problem_of(tunnel, 8)
    trace = tunnel.render(problem, style)
    written: list[str] = []
    for symbol in [*trace.completion.split(), EOS]:
        belief = tunnel.posterior(problem, trace.prompt.split() + written)
        assert belief.support == {symbol}
        assert belief.entropy == 0
        assert belief.probabilities.sum() == 1
        written.append(symbol)


@pytest.mark.parametrize("style", ["edges", "flat"])
def test_a_step_is_right_exactly_where_the_posterior_says_so(style: str) -> None:
    tunnel = TreePathTunnel()
    for seed, kind in enumerate(tunnel.corruptions * 5):
        problem = problem_of(tunnel, seed)
        wrong = tunnel.corrupt(problem, style, kind, np.random.default_rng(seed))
        prompt, words = wrong.prompt.split(), wrong.completion.split()
        supported = tuple(word in tunnel.posterior(problem, prompt + words[:i]).support
                          for i, word in enumerate(words))
        assert supported == tunnel.verify(problem, wrong)


def test_a_prefix_must_hold_the_prompt() -> None:
    tunnel = TreePathTunnel()
    problem = problem_of(tunnel, 1)
    with pytest.raises(ParameterError, match="must begin with the problem's prompt"):
        tunnel.posterior(problem, ["13<14"])


@pytest.mark.parametrize("wrong", [
    {"task": "sideways"}, {"depth": (1, 3)}, {"depth": (5, 3)}, {"nodes": (7, 16)},
    {"nodes": (12, 8)}, {"branching": 1}, {"nodes": (8, 16), "depth": (2, 3)},
    {"dummies": (-1, 2)}, {"labels": 35}, {"labels": 91}])
def test_settings_that_cannot_be_met_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ParameterError, match="must be"):
        TreePathTunnel(**wrong)


def test_unknown_styles_and_kinds_are_refused() -> None:
    tunnel = TreePathTunnel(task="direct")
    problem = problem_of(tunnel, 1)
    with pytest.raises(ParameterError, match="no style 'prose'"):
        tunnel.render(problem, "prose")
    with pytest.raises(ParameterError, match="no corruption 'bad_reversal'"):
        tunnel.corrupt(problem, "flat", "bad_reversal", np.random.default_rng(0))
    with pytest.raises(ParameterError, match="styles edges and flat"):
        tunnel.token_batch(np.random.default_rng(0), 2, "text")
