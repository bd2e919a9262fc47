"""Measures of whole models: against closed forms, SciPy and answers that are known."""

from __future__ import annotations

from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest
from tiny_models import byte_tokenizer, tiny_model

from validator.errors import ContextLengthError, ParameterError
from validator.models.loading import LoadedModel
from validator.windtunnels import in_context
from validator.windtunnels.bijection import BijectionTunnel
from validator.windtunnels.filter_sort import FilterSortTunnel
from validator.windtunnels.in_context import few_shot_prompt, text_answers
from validator.windtunnels.measure_evidence import (
    measure_evidence,
    measure_geometry,
    train_control,
    uniform_subject,
)
from validator.windtunnels.measure_walks import deeper_tunnel, exactness, measure_walks
from validator.windtunnels.measured import Measuring, measure_subject
from validator.windtunnels.subjects import SUBJECTS, Subject
from validator.windtunnels.sula import SulaTunnel
from validator.windtunnels.traces import tunnel_traces
from validator.windtunnels.tree import TreePathTunnel

TREE = TreePathTunnel(nodes=(8, 9), depth=(2, 3), dummies=(0, 1), labels=10)
WALKS = Subject("walks", TREE, "edges", 4)
PAIRS = Subject("pairs", BijectionTunnel(5), "pairs", 4)


@contextmanager
def silent(_: str) -> Any:
    yield lambda done, total: None


def made(subject: Subject) -> LoadedModel:
    return subject.loaded(subject.untrained(0), "made here")


def test_exactness_counts_by_depth_with_scipys_interval() -> None:
    problems = WALKS.problems(12)
    right = [TREE.render(p, "edges") for p in problems]
    wrong = [TREE.corrupt(p, "edges", "swapped", np.random.default_rng(0)) for p in problems]
    found = exactness([*right, *wrong[:5]])
    assert (found.exact, found.problems) == (12 / 17, 17)
    expected = binomtest(12, 17).proportion_ci(method="wilson")
    assert found.interval == pytest.approx((expected.low, expected.high))
    assert sum(count for _, count in found.by_depth.values()) == 17


def test_deeper_trees_are_deeper_than_any_and_none_where_they_do_not_fit() -> None:
    large = SUBJECTS["edges-32"].tunnel
    deeper = deeper_tunnel(large)
    assert deeper is not None
    assert (deeper.depth, deeper.nodes) == ((7, 12), (14, 32))
    depths = {p.meta["depth"] for p in deeper.problems(
        deeper.sample_arrays(np.random.default_rng(0), 60))}
    assert min(depths) > 6
    assert deeper_tunnel(TreePathTunnel(nodes=(5, 6), depth=(2, 3), labels=10)) is None
    assert deeper_tunnel(FilterSortTunnel()) is None


def test_walks_are_measured_on_problems_and_deeper_ones() -> None:
    found = measure_walks(made(WALKS), WALKS, WALKS.problems(6))
    assert found.unseen.problems == 6
    assert found.deeper is not None
    assert min(found.deeper.by_depth) > 3
    assert "backward edge" in found.roles
    plain = found.to_json()
    assert plain["roles"]["backward edge"]["value"] == found.roles["backward edge"].value


def test_the_uniform_control_is_wrong_by_what_is_known() -> None:
    """V equal chances against V - k: an error of log2 V - log2 (V - k), and so is the KL."""
    problems = PAIRS.problems(3)
    found = measure_evidence(made(PAIRS), PAIRS, problems, "pairs").controls["uniform"]
    gaps = [np.log2(5) - np.log2(5 - k) for k in range(5)]
    assert found.overall.entropy_mae_bits == pytest.approx(np.mean(gaps))
    assert found.overall.posterior_kl_bits == pytest.approx(np.mean(gaps))
    assert found.overall.mass_on_support == pytest.approx(np.mean([(5 - k) / 5 for k in range(5)]))
    vocabulary = len(uniform_subject(made(PAIRS)).tokenizer)
    assert found.overall.candidate_mass == pytest.approx(5 / vocabulary)


def test_geometry_and_controls_of_a_subject_of_evidence() -> None:
    problems = PAIRS.problems(10)
    found = measure_geometry(made(PAIRS), PAIRS, problems, made(PAIRS))
    assert found.key_frame == found.key_frame_untrained
    assert set(found.to_json()) == {"problems", "key_frame", "key_frame_untrained", "entropy_axis",
                                    "entropy_error_without"}
    control = train_control(PAIRS, problems, sees="last", seed=0, steps=2)
    assert control.steps == 2
    assert control.to_json()["overall"]["entropy_mae_bits"] > 0


def test_everything_of_a_subject_and_what_could_not_be_measured() -> None:
    flat = Subject("no evidence", SulaTunnel(3, reliability=0.5), "answer", 4, hold_out=False)
    found = measure_subject(made(flat), flat, Measuring(4, control_steps=1), progress=silent)
    assert found.geometry is None
    assert "same posterior entropy" in found.notes[0]
    assert set(found.to_json()["evidence"]["controls"]) == {"uniform", "mlp last", "mlp all"}


@pytest.mark.parametrize(("subject", "how", "said"), [
    (WALKS, Measuring(2, control_steps=3), "MLPs are controls of evidence"),
    (WALKS, Measuring(2, shots=1), "measure walks without them"),
    (PAIRS, Measuring(2, in_context=True, shots=1), "measure pairs in context without them"),
    (SUBJECTS["edges-32"], Measuring(2), "does not know .* symbols of edges-32")])
def test_what_has_no_part_in_a_subject_is_refused(subject: Subject, how: Measuring, said: str
                                                  ) -> None:
    with pytest.raises(ParameterError, match=said):
        measure_subject(made(WALKS), subject, how, progress=silent)


@pytest.mark.parametrize("tunnel", [TREE, FilterSortTunnel()])
def test_right_answers_in_context_are_right_and_the_rest_is_not(
    tunnel: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    problems = [tunnel.sample(np.random.default_rng(i)) for i in range(4)]
    right = [tunnel.render(p, "text").completion for p in problems]
    asked: list[str] = []

    class Told:
        """Writes the right answer, cut off in one case, with a line too many in another."""

        chunks = ((0, 1), (2, 3))

        def __init__(self, model: Any, tokenizer: Any, prompts: list[str], *_: Any) -> None:
            asked.extend(prompts)

        def draw(self, chunk: tuple[int, ...]) -> list[list[Any]]:
            texts = [right[0], right[1] + "\n" + right[1].splitlines()[0], right[2], right[3]]
            return [[SimpleNamespace(text=texts[i], finished=i != 2)] for i in chunk]

    monkeypatch.setattr(in_context, "Sampler", Told)
    loaded = LoadedModel(tiny_model(), byte_tokenizer(), "told", "")
    answers = text_answers(loaded, tunnel, problems, shots=2)
    assert [a.label for a in answers] == [1, 0, 0, 1]
    assert [a.status for a in answers] == ["ok", "ok", "truncated", "ok"]
    for prompt, problem in zip(asked, problems, strict=True):
        own = tunnel.render(problem, "text").prompt
        assert prompt.endswith("\n\n" + own)
        assert prompt.count("\n\n") == 2


def test_a_model_that_knows_nothing_answers_in_context_too() -> None:
    problems = [TREE.sample(np.random.default_rng(i)) for i in range(1)]
    loaded = LoadedModel(tiny_model(max_position_embeddings=1024), byte_tokenizer(), "tiny", "")
    answers = text_answers(loaded, TREE, problems, shots=0)
    assert [(a.label, a.problem_id) for a in answers] == [(0, p.id) for p in problems]
    assert few_shot_prompt(TREE, problems[0], []) == TREE.render(problems[0], "text").prompt
    with pytest.raises(ContextLengthError, match="positions of tiny; take fewer shots"):
        text_answers(loaded, TREE, problems, shots=4)
    with pytest.raises(ParameterError, match="0 or more shots"):
        text_answers(loaded, TREE, problems, shots=-1)


def test_traces_are_of_different_problems_with_twins_of_equal_length() -> None:
    kinds = TREE.corruptions
    traces = tunnel_traces(TREE, 7, style="flat", seed=2, kinds=kinds)
    alone = tunnel_traces(TREE, 7, style="flat", seed=2)
    assert [t for t in traces if t.label == 1] == alone
    assert len({t.id for t in traces}) == len(traces) == 7 * (1 + len(kinds))
    for right in alone:
        own = [t for t in traces if t.problem_id == right.problem_id]
        assert len({len(t.completion.split()) for t in own}) == 1
    with pytest.raises(ParameterError, match="gave 4 different problems"):
        tunnel_traces(SulaTunnel(1), 5, style="answer", seed=0)
    with pytest.raises(ParameterError, match="no style 'words'"):
        tunnel_traces(TREE, 1, style="words", seed=0)
    with pytest.raises(ParameterError, match="no corruption 'worse'"):
        tunnel_traces(TREE, 1, style="flat", seed=0, kinds=("worse",))
