"""Sampling with a shared cache equals plain sampling; a killed run resumes to the same file."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from validator.errors import ContextLengthError, LabelError, ParameterError, TraceError
from validator.models.loading import LoadedModel, load_model
from validator.training.decoding import Sampler, Sampling, plan_chunks
from validator.training.problems import Problem, PromptFormat, problem_set, prompt_format
from validator.training.sampling import EMPTY, sample_traces

STYLE = PromptFormat("t", "Q: {question} A:", "last-number", (("0 0", " 0"),), "\n", ("\n",), 6)
PROBLEMS = [Problem(f"p{i}", q, "1") for i, q in enumerate(["1 1", "1 2", "3", "44", "5 5"])]
KINDS = ["llama", "qwen2", "gpt2", "gemma3_text"]


def sampler(pair: Any, **options: Any) -> Sampler:
    prompts = [STYLE.prompt(p.question) for p in PROBLEMS]
    return Sampler(pair[0], pair[1], prompts, Sampling(n=2, max_new_tokens=6, **options), ("\n",))


def plain(pair: Any, prompt: str, tokens: int) -> str:
    """Greedy continuation by the argmax of a full forward pass at each step."""
    ids = pair[1](prompt)["input_ids"]
    start = len(ids)
    with torch.inference_mode():
        while len(ids) < start + tokens:
            ids.append(int(pair[0](torch.tensor([ids])).logits[0, -1].argmax()))
            if ids[-1] == 2 or "\n" in pair[1].decode(ids[start:]):
                break
    text = pair[1].decode([i for i in ids[start:] if i != 2], skip_special_tokens=True)
    return text.split("\n")[0]


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_with_shared_cache_is_the_plain_argmax(
    kind: str, make_tiny: Callable[..., Any], tiny: Any
) -> None:
    pair = (make_tiny(kind), tiny[1])
    drawer = sampler(pair, temperature=0.0)
    for chunk in drawer.chunks:
        for i, samples in zip(chunk, drawer.draw(chunk), strict=True):
            expected = plain(pair, STYLE.prompt(PROBLEMS[i].question), 6)
            assert [s.text for s in samples] == [expected, expected]


@pytest.mark.parametrize(("kind", "shares"), [*((k, True) for k in KINDS[:3]), (KINDS[3], False)])
def test_sampling_with_and_without_the_cache_draws_the_same(
    kind: str, shares: bool, make_tiny: Callable[..., Any], tiny: Any
) -> None:
    pair = (make_tiny(kind), tiny[1])
    shared, alone = sampler(pair), sampler(pair)
    assert shared.shares_prefix is shares
    alone._cache = None
    for chunk in shared.chunks:
        assert shared.draw(chunk) == alone.draw(chunk)


def test_chunks_do_not_depend_on_order_of_drawing_and_samples_differ(tiny: Any) -> None:
    drawer = sampler(tiny, temperature=1.5)
    forward = {c: drawer.draw(c) for c in drawer.chunks}
    assert {c: drawer.draw(c) for c in reversed(drawer.chunks)} == forward
    texts = [[s.text for s in samples] for drawn in forward.values() for samples in drawn]
    assert any(a != b for a, b in texts)
    other = sampler(tiny, temperature=1.5, seed=1)
    assert {c: other.draw(c) for c in other.chunks} != forward


@pytest.mark.parametrize("hidden", [
    {"repetition_penalty": 50.0}, {"suppress_tokens": list(range(50))}, {"typical_p": 0.5},
    {"num_beams": 2}, {"num_return_sequences": 2},
])
def test_the_models_own_generation_settings_do_not_shape_the_samples(
    hidden: dict[str, Any], make_tiny: Callable[..., Any], tiny: Any
) -> None:
    model = make_tiny()
    for name, value in hidden.items():
        setattr(model.generation_config, name, value)
    expected, drawer = sampler(tiny), sampler((model, tiny[1]))
    assert [drawer.draw(c) for c in drawer.chunks] == [expected.draw(c) for c in expected.chunks]
    assert all(getattr(model.generation_config, k) == v for k, v in hidden.items())


def test_drawing_leaves_the_global_generator_alone(tiny: Any) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    drawer = sampler(tiny)
    drawer.draw(drawer.chunks[0])
    torch.testing.assert_close(torch.rand(3), expected)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=30), st.integers(1, 9), st.integers(1, 20))
def test_chunks_are_a_partition_of_equal_lengths(lengths: list[int], n: int, size: int) -> None:
    chunks = plan_chunks(lengths, n, size)
    assert sorted(i for c in chunks for i in c) == list(range(len(lengths)))
    for chunk in chunks:
        assert len({lengths[i] for i in chunk}) == 1
        assert len(chunk) == 1 or len(chunk) * n <= size


def loaded(pair: Any) -> LoadedModel:
    return load_model(pair)


def run(pair: Any, output: Path, **options: Any) -> Any:
    settings: dict[str, Any] = {"n": 2, "max_new_tokens": 6, "batch_size": 2, **options}
    return sample_traces(loaded(pair), PROBLEMS, STYLE, Sampling(**settings), output)


def test_a_killed_run_resumes_to_the_same_file(tiny: Any, tmp_path: Path) -> None:
    whole = tmp_path / "whole.jsonl"
    run(tiny, whole)
    killed = tmp_path / "killed.jsonl"
    stopped = RuntimeError("killed")

    def stop(done: int, total: int) -> None:
        if done >= 4:
            raise stopped

    with pytest.raises(RuntimeError, match="killed"):
        sample_traces(loaded(tiny), PROBLEMS, STYLE,
                      Sampling(n=2, max_new_tokens=6, batch_size=2), killed, progress=stop)
    partial = killed.with_name("killed.jsonl.partial")
    partial.write_bytes(partial.read_bytes()[:-30])  # the last line torn
    assert not killed.exists()
    again = run(tiny, killed)
    assert again.resumed == 2
    assert killed.read_bytes() == whole.read_bytes()
    assert not partial.exists()
    third = run(tiny, killed)
    assert (third.resumed, third.tokens) == (10, 0)
    assert killed.read_bytes() == whole.read_bytes()


def test_other_settings_or_a_foreign_file_are_refused(tiny: Any, tmp_path: Path) -> None:
    output = tmp_path / "t.jsonl"
    run(tiny, output)
    with pytest.raises(ParameterError, match="other settings \\(sampling\\)"):
        run(tiny, output, seed=9)
    foreign = tmp_path / "foreign.jsonl"
    foreign.write_text("mine\n")
    with pytest.raises(ParameterError, match="not made by this command"):
        run(tiny, foreign)
    assert foreign.read_text() == "mine\n"


def test_damaged_files_are_typed_errors(tiny: Any, tmp_path: Path) -> None:
    output = tmp_path / "t.jsonl"
    run(tiny, output)
    whole, manifest = output.read_text(), output.with_name("t.jsonl.manifest.json")
    output.write_text(whole.replace('"problem_id": "p0"', '"problem_id": "q"', 1))
    with pytest.raises(TraceError, match="'q' was not asked"):
        run(tiny, output)
    for damaged in (manifest.read_text()[:50], "[]"):
        manifest.write_text(damaged)
        with pytest.raises(TraceError, match="is damaged"):
            run(tiny, output)


def test_order_and_repetition_of_lines_found_do_not_matter(tiny: Any, tmp_path: Path) -> None:
    output = tmp_path / "t.jsonl"
    run(tiny, output)
    whole = output.read_text()
    lines = whole.splitlines(keepends=True)
    output.write_text("".join([*lines[::-1], lines[0]]))
    again = run(tiny, output)
    assert (again.tokens, again.resumed) == (0, 10)
    assert output.read_text() == whole


@pytest.mark.parametrize(("problems", "error", "reason"), [
    ([], ParameterError, "got 0 problems"),
    ([PROBLEMS[0], PROBLEMS[0]], ParameterError, "2 problems, 1 ids"),
    ([Problem("w", "1", "yes")], LabelError, "'w'.*'yes'"),
])
def test_problems_that_cannot_be_checked_fail_before_sampling(
    problems: list[Problem], error: type[Exception], reason: str, tiny: Any, tmp_path: Path
) -> None:
    with pytest.raises(error, match=reason):
        sample_traces(loaded(tiny), problems, STYLE, Sampling(n=2), tmp_path / "t.jsonl")
    assert not list(tmp_path.iterdir())


def test_every_answer_is_kept_and_marked(tiny: Any, tmp_path: Path) -> None:
    done = run(tiny, tmp_path / "t.jsonl", n=4, temperature=2.0)
    assert len(done.traces) == 20
    assert [t.id for t in done.traces] == [f"p{i}#{k}" for i in range(5) for k in range(4)]
    for trace in done.traces:
        digits = "".join(c if c.isdigit() else " " for c in trace.completion).split()
        assert (trace.status == "ok") <= bool(digits)
        assert (trace.answer is None) <= (trace.label == 0)
        assert trace.completion
        assert "\n" not in trace.completion
    assert done.empty == sum(t.completion == EMPTY for t in done.traces)
    manifest = json.loads((tmp_path / "t.jsonl.manifest.json").read_text())
    assert manifest["sampling"]["temperature"] == 2.0
    assert manifest["revision"].startswith("state-sha256:")


def test_no_room_for_an_answer_and_bad_settings_are_typed_errors(tiny: Any) -> None:
    with pytest.raises(ContextLengthError, match="256"):
        Sampler(*tiny, ["x" * 300], Sampling(), ())
    with pytest.raises(ParameterError, match="top_p"):
        Sampling(top_p=0.0)
    with pytest.raises(ParameterError, match="n must be"):
        dataclasses.replace(Sampling(), n=0)


@pytest.mark.slow
@pytest.mark.model
def test_the_default_model_answers_the_same_with_a_shared_prefix(tmp_path: Path) -> None:
    """Compared where nothing is shared: one prompt at a time, by generate, greedily."""
    model = load_model("smollm2-135m-instruct")
    problems, style = problem_set("one-step", 4), prompt_format("one-step")
    done = sample_traces(model, problems, style, Sampling(1, 0.0, max_new_tokens=24),
                         tmp_path / "t.jsonl")
    assert done.shares_prefix
    for trace in done.traces:
        ids = model.tokenizer(trace.prompt, return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            out = model.model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=24, do_sample=False,
                stop_strings=["\n"], tokenizer=model.tokenizer)
        text = model.tokenizer.decode(out[0, ids.shape[1]:], skip_special_tokens=True)
        assert trace.completion == text.split("\n")[0]
