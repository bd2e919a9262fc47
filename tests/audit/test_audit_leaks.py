"""Planted leaks are flagged, clean clustered data are not."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from planted import planted

from validator.audit.judge import Judge
from validator.audit.leaks import Leak, centred, find_leaks, severity, standardised
from validator.audit.permutation import shuffled_labels
from validator.audit.sample import Sample
from validator.errors import ParameterError
from validator.types import Trace


def leaks_of(traces: list[Trace], n: int = 199) -> dict[str, Leak]:
    sample = Sample.of_traces(traces)
    return {leak.key: leak for leak in find_leaks(sample, Judge(sample, 100), n_permutations=n)}


def reshuffled(seed: int) -> list[Trace]:
    """Labels of leaky traces, shuffled problem by problem: real-looking, and clean."""
    traces = planted(seed, ("newline", "length", "source", "")[seed % 4], problems=24)
    y, problems = np.array([t.label for t in traces]), [t.problem_id for t in traces]
    drawn = shuffled_labels(y, problems, 1, seed=seed)[0]
    return [dataclasses.replace(t, label=int(v)) for t, v in zip(traces, drawn, strict=True)]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("leak", "key", "name"), [
    ("newline", "formatting", "formatting (trailing newline)"),
    ("length", "length", "completion length in"),
    ("source", "source", "source"),
])
def test_a_planted_leak_is_flagged(leak: str, key: str, name: str, seed: int) -> None:
    found = leaks_of(planted(seed, leak))[key]
    assert found.flagged
    assert found.name.startswith(name)
    assert found.severity in ("notable", "severe")
    assert "alone separates the classes: AUROC" in found.sentence
    if leak == "newline":
        assert found.auroc is not None
        assert found.auroc.estimate == 1.0
        assert found.severity == "severe"


def flagged(seeds: range) -> int:
    return sum(any(leak.flagged for leak in leaks_of(reshuffled(s)).values()) for s in seeds)


def test_clean_shuffles_are_rarely_flagged() -> None:
    assert flagged(range(8)) <= 2


@pytest.mark.slow
def test_forty_clean_shuffles_raise_at_most_five_flags() -> None:
    assert flagged(range(100, 140)) <= 5


@pytest.mark.slow
def test_clean_clustered_traces_raise_at_most_five_flags_in_forty() -> None:
    """Never shuffled: each problem has its difficulty, its size and its words."""
    assert sum(any(leak.flagged for leak in leaks_of(planted(seed)).values())
               for seed in range(40)) <= 5


def test_clean_leaks_say_so() -> None:
    found = leaks_of(planted(3))
    assert set(found) == {"length", "question", "formatting", "source", "surface"}
    assert "not shown to separate the classes" in found["length"].sentence
    assert found["length"].severity == ""
    assert all(leak.adjusted >= leak.p_value for leak in found.values())


def test_one_source_cannot_leak() -> None:
    traces = [dataclasses.replace(t, source="one") for t in planted(0, problems=12)]
    assert "source" not in leaks_of(traces, 99)


def test_too_few_shuffles_are_refused() -> None:
    with pytest.raises(ParameterError, match="at least 99"):
        leaks_of(planted(0, problems=12), 20)


def test_severity_is_by_separation() -> None:
    assert [severity(a) for a in (0.53, 0.44, 0.69, 0.3, 1.0)] == [
        "slight", "notable", "notable", "severe", "severe"]
    assert severity(0.5, 0.9) == "severe"


def test_standardised_distances() -> None:
    rng = np.random.default_rng(0)
    values = np.c_[rng.normal(size=(50, 2)), np.full(50, 0.7)]
    z = standardised(values)
    np.testing.assert_allclose(z[:, :2], np.abs((values - values.mean(0)) / values.std(0))[:, :2])
    assert (z[:, 2] == 0).all()
    assert (standardised(values, two_sided=False)[:, :2] < 0).any()


def test_centred_takes_the_problem_mean_away() -> None:
    values = np.array([[1.0], [3.0], [10.0]])
    np.testing.assert_allclose(centred(values, np.array(["a", "a", "b"])), [[-1], [1], [0]])
