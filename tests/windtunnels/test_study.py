"""The study from end to end, with barely trained models."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from validator.cli.windtunnel_study import add_study, run
from validator.errors import ParameterError
from validator.windtunnels.study import StudySettings, run_study
from validator.windtunnels.study_judging import Contest, judge
from validator.windtunnels.study_plots import study_plot
from validator.windtunnels.study_regression import EVIDENCE
from validator.windtunnels.study_reranking import rerank
from validator.windtunnels.study_results import Study, pooled_contest
from validator.windtunnels.study_signals import Signals
from validator.windtunnels.study_subjects import OWN, Subject
from validator.windtunnels.study_tables import blind_spots, markdown, reranking_rows
from validator.windtunnels.tree import TreePathTunnel

TINY = TreePathTunnel(nodes=(5, 6), depth=(2, 3), dummies=(0, 1), labels=8)


@pytest.mark.parametrize(("wrong", "message"), [
    ({"problems": 3}, "problems must be 50 or more, got 3"),
    ({"samples": 1}, "samples must be 2 or more"),
    ({"seeds": ()}, "seeds must be distinct"),
    ({"seeds": (1, 1)}, "seeds must be distinct")])
def test_sizes_out_of_range_are_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        StudySettings(**wrong)  # type: ignore[arg-type]


def made_study() -> Study:
    """One contest of two models whose numbers are made up."""
    judged = []
    for seed in range(2):
        rng = np.random.default_rng(seed)
        labels = np.tile([1, 0], 15)
        values = {name: rng.normal(size=(30, 2)) + 2 * labels[:, None] for name in (
            "attention", "identity-aware", "log-prob", "counts", "hidden states")}
        values["length"] = np.full((30, 1), 4.0)
        contest = Contest(Signals(values, ("a b",) * 30), labels,
                          np.repeat([f"p{i}" for i in range(15)], 2), np.full(30, "4"))
        judged.append(judge(contest, seed=0, n_resamples=10))
    return Study((pooled_contest("tree", "swapped", judged),), (), {}, {}, {"seeds": [0, 1]})


def test_tables_and_plot_say_what_was_found() -> None:
    study = made_study()
    found = study.contest("tree", "swapped")
    row = blind_spots(study)[0]
    assert row[:3] == ["tree", "swapped", f"{found.auroc['attention'].mean.estimate:.3f}"]
    assert row[-1] == "sees"
    text = markdown(study)
    assert "| length | 0.500, constant |" in text
    assert "log-prob + attention over log-prob" in text
    assert "30 right and 30 wrong traces of 30 problems" in text
    assert len(study_plot(study).axes) == 1
    assert found.auroc["attention"].mean.estimate == pytest.approx(
        np.mean([i.estimate for i in found.auroc["attention"].each]))
    with pytest.raises(KeyError, match="no contest"):
        study.contest("tree", "other")
    with pytest.raises(ParameterError, match="no contest"):
        study_plot(Study((), (), {}, {}, {}))


def test_nothing_to_choose_among_is_no_report() -> None:
    signals = Signals({n: np.zeros((4, 1)) for n in (
        "attention", "identity-aware", "log-prob", "counts", "length")}, ("a",) * 4)
    traces = [TINY.render(p, "flat") for p in TINY.problems(
        TINY.sample_arrays(np.random.default_rng(0), 4))]
    assert rerank(traces, signals, seed=0, n_resamples=5) is None


@pytest.mark.slow
def test_a_small_study_from_end_to_end() -> None:
    heard: list[str] = []
    settings = StudySettings((0, 1), problems=250, twins=60, samples=3, prefixes=60, positions=(3,),
                             resamples=30)
    study = run_study(settings, {"tiny": Subject(TINY, "edges", 200, 200, 120)},
                      {"hmm": replace(EVIDENCE["hmm-banded"], steps=5)},
                      lambda what, done, total: heard.append(what))
    assert {c.comparison for c in study.contests} >= set(TINY.corruptions)
    for found in study.contests:
        assert "length" in found.constant
        assert all(len(over.each) == 2 for over in found.auroc.values())
    assert study.contest("tiny", "early_stop").auroc["attention"].mean.estimate > 0.8
    assert OWN in {c.comparison for c in study.contests}
    assert [r.position for r in study.regressions] == [3]
    assert reranking_rows(study)
    assert "tiny, seed 1: training" in heard
    plain = json.loads(json.dumps(study.to_json(), allow_nan=False))
    assert plain["settings"]["seeds"] == [0, 1]
    assert plain["models"]["tiny"][1]["seed"] == 1
    assert markdown(study).count("### tiny") == len(study.contests)


def test_an_unknown_subject_is_bad_input(tmp_path: Path) -> None:
    import argparse

    parser = argparse.ArgumentParser()
    add_study(parser.add_subparsers())
    args = parser.parse_args(["study", "trees", "--json-output", str(tmp_path / "a.json")])
    assert args.run is run
    with pytest.raises(ParameterError, match="no subject 'trees'"):
        run(args)
    assert not (tmp_path / "a.json").exists()
