"""What the study reads: the extractor's own numbers, many traces at once; counts; subjects."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from validator.columns import Column
from validator.features.extractor import SpectralFeatureExtractor
from validator.models.loading import LoadedModel, load_model
from validator.types import Trace
from validator.windtunnels.filter_sort import FilterSortTunnel
from validator.windtunnels.study_reading import WINDOW, read_columns, step_windows
from validator.windtunnels.study_signals import (
    FEATURES,
    SIGNALS,
    TEXT,
    read_signals,
    symbol_counts,
    symbol_text,
)
from validator.windtunnels.study_subjects import (
    OWN,
    SUBJECTS,
    Subject,
    own_answers,
    train_pair,
    twins,
)
from validator.windtunnels.symbols import symbol_tokenizer
from validator.windtunnels.tree import TreePathTunnel
from validator.windtunnels.tree_training import path_model

TINY = TreePathTunnel(nodes=(5, 6), depth=(2, 3), dummies=(0, 1), labels=8)


def subject_model(tunnel: Any, style: str) -> LoadedModel:
    model = path_model(tunnel, style, seed=0)
    return load_model((model, symbol_tokenizer(tunnel.symbols(style))))


def right_traces(tunnel: Any, style: str, count: int) -> list[Trace]:
    problems = tunnel.problems(tunnel.sample_arrays(np.random.default_rng(0), count))
    return [replace(tunnel.render(p, style), id=f"t{i}") for i, p in enumerate(problems)]


def test_many_traces_at_once_have_the_extractors_numbers() -> None:
    model, traces = subject_model(TINY, "flat"), right_traces(TINY, "flat", 8)
    found = read_columns(model, traces, FEATURES, batch_size=3)
    # The extractor's step is a window where all of the completion is one.
    whole = [replace(t, steps=((0, len(t.completion)),), step_labels=None) for t in traces]
    wanted = SpectralFeatureExtractor(model, feature_set=FEATURES).fit_transform(whole)
    assert tuple(map(str, found.columns)) == wanted.names
    same = [i for i, c in enumerate(found.columns) if not c.span.startswith("step")]
    np.testing.assert_allclose(found.values[:, same], wanted.values[:, same], atol=2e-5, rtol=2e-5)
    assert np.isfinite(found.values[:, same]).all()


def test_a_step_is_each_four_tokens_in_a_row() -> None:
    model, trace = subject_model(TINY, "flat"), right_traces(TINY, "flat", 1)[0]
    found = read_columns(model, [trace], FEATURES)
    words = trace.completion.split()
    assert len(words) > WINDOW
    starts = np.cumsum([0, *(len(w) + 1 for w in words)])
    parts = [replace(trace, id=f"w{i}", step_labels=None,
                     steps=((int(starts[i]), int(starts[i + WINDOW]) - 1),))
             for i in range(len(words) - WINDOW + 1)]
    single = SpectralFeatureExtractor(model, feature_set=FEATURES).fit_transform(parts)
    over = {"step_mean": np.mean, "step_min": np.min, "step_max": np.max}
    for i, name in enumerate(single.names):
        if (span := Column.parse(name).span) in over:
            assert found.values[0, i] == pytest.approx(
                over[span](single.values[:, i]), abs=2e-5, rel=2e-5), name


def test_windows_slide_by_one_and_short_ones_are_whole() -> None:
    assert step_windows(3, 9) == [(3, 7), (4, 8), (5, 9)]
    assert step_windows(3, 6) == [(3, 6)]


def test_signals_are_all_there_and_kept_together() -> None:
    model, traces = subject_model(TINY, "edges"), right_traces(TINY, "edges", 6)
    seen: list[tuple[int, int]] = []
    found = read_signals(model, traces, progress=lambda *at: seen.append(at))
    assert seen[-1] == (6, 6)
    assert {*found.values, TEXT} == set(SIGNALS)
    parts = [n for n in SIGNALS if n.startswith("attention, ")]
    assert found.values["attention"].shape[1] == sum(found.values[n].shape[1] for n in parts)
    assert found.values["length"][:, 0].tolist() == [len(t.completion.split()) for t in traces]
    some = found.take(np.array([4, 1]))
    assert some.texts == (found.texts[4], found.texts[1])
    assert len(some) == 2
    np.testing.assert_array_equal(some.values["counts"], found.values["counts"][[4, 1]])


def test_counts_and_pairs_of_symbols() -> None:
    trace = Trace("a", "p", "1 2 3 : ", "3 3 4 1 3")
    assert symbol_counts(trace) == (3, 1, 4, 2)
    assert symbol_text(trace) == "3 3 4 1 3 3_3 3_4 4_1 1_3"


@pytest.mark.parametrize("name", SUBJECTS)
def test_twins_are_as_long_and_wrong(name: str) -> None:
    subject = SUBJECTS[name]
    rng = np.random.default_rng(1)
    problems = subject.tunnel.problems(subject.tunnel.sample_arrays(rng, 20))
    for kind in subject.tunnel.corruptions:
        right, wrong = twins(subject, problems, kind, 0)
        assert twins(subject, problems, kind, 0)[1] == wrong
        for a, b in zip(right, wrong, strict=True):
            assert (a.label, b.label, a.prompt) == (1, 0, b.prompt)
            assert len(a.completion.split()) == len(b.completion.split())
    assert OWN not in subject.tunnel.corruptions


@pytest.mark.parametrize("tunnel", [TINY, FilterSortTunnel(numbers=(5, 6), kept=(2, 3), values=13)])
def test_a_pair_of_models_and_their_answers(tunnel: Any) -> None:
    subject = Subject(tunnel, "flat", 7, 6, 2)
    pair = train_pair(subject, 3, 12)
    assert len({p.id for p in pair.problems}) == 12
    weights = [next(iter(m.model.parameters())) for m in (pair.early, pair.reader)]
    assert not np.array_equal(*(w.detach().numpy() for w in weights))
    answers = own_answers(subject, pair.early, pair.problems, 2, 0)
    assert len({t.id for t in answers}) == 24
    again = own_answers(subject, pair.early, pair.problems, 2, 0)
    assert [t.completion for t in answers] == [t.completion for t in again]
    other = own_answers(subject, pair.early, pair.problems, 2, 1)
    assert [t.completion for t in answers] != [t.completion for t in other]
