"""A whole audit: numbers agree with their parts, verdict and page with the numbers."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from html_balance import Balance
from planted import features, planted
from sklearn.metrics import roc_auc_score

from validator.audit.outcome import Audit
from validator.audit.sample import Sample, composition
from validator.classifier import ValidityClassifier
from validator.errors import LabelError, ParameterError
from validator.report.audit_page import write_audit_page
from validator.training.audit_run import audit, merged
from validator.training.evaluate import cross_validate

QUICK: dict[str, Any] = {"n_splits": 3, "n_permutations": 39, "n_resamples": 200,
                         "n_leak_permutations": 99}
CHROMIUM = shutil.which("chromium", path="/usr/bin")


@pytest.fixture(scope="module")
def learned() -> Audit:
    """Features whose first graph column carries the label."""
    return audit(features(planted(0), 1.5), ValidityClassifier(C=0.1), **QUICK)


@pytest.fixture(scope="module")
def text() -> Audit:
    """Text alone, valid traces end in a newline."""
    return audit(planted(1, "newline"), **QUICK)


def test_planted_signal_is_information_beyond_the_baselines(learned: Audit) -> None:
    base = {i.base: i for i in learned.increments}
    assert set(base) == {"length + log-prob", "length + log-prob + surface"}
    for found in base.values():
        assert found.auroc is not None
        assert found.auroc.interval.low > 0
        assert found.auroc.p_value < 0.05
    assert learned.verdict[0].startswith(
        "Does the learned score carry information beyond length + log-prob? Yes: AUROC +0.")
    by_test = {(t.scheme, t.statistic): t for t in learned.permutations}
    assert by_test["problems", "pooled"].p_value == pytest.approx(1 / 40)
    assert by_test["within", "within"].p_value == pytest.approx(1 / 40)
    assert by_test["problems", "pooled"].null_mean == pytest.approx(0.5, abs=0.05)
    assert not any(leak.flagged for leak in learned.leaks)
    assert any("No leak" in s for s in learned.verdict)


def test_noise_is_no_information() -> None:
    found = audit(features(planted(2), 0.0), ValidityClassifier(C=0.1), **QUICK)
    assert "No, " in found.verdict[0]
    assert {t.p_value > 0.05 for t in found.permutations if t.statistic == "within"} == {True}


def test_scores_are_those_of_cross_validation(learned: Audit) -> None:
    matrix = features(planted(0), 1.5)
    oof = cross_validate(matrix, ValidityClassifier(C=0.1), n_splits=3)
    rows = {r.key: r for r in learned.scores}
    assert set(rows) == set(oof.scores)
    for key, scores in oof.scores.items():
        found = rows[key].auroc
        assert found is not None
        assert found.estimate == pytest.approx(roc_auc_score(matrix.labels, scores))
    assert rows["learned"].transfer is not None
    assert rows["surface"].transfer is not None
    assert rows["length"].transfer is None
    assert rows["learned"].transfer.estimate > 0.6


def test_columns_that_are_length_are_named(learned: Audit) -> None:
    (worst, rho), *others = learned.offenders.items()
    assert worst == "fiedler_value__layer1__head_mean__completion"
    assert rho == pytest.approx(1.0)
    assert abs(others[0][1]) < 0.3
    variants = {(r.family, r.transform) for r in learned.correlations}
    assert {("hfer of hidden", "raw"), ("hfer of hidden", "z_uniform")} <= variants


def test_text_alone_has_no_learned_score_but_its_leak(text: Audit) -> None:
    assert {r.key for r in text.scores} == {"length", "surface"}
    assert text.increments == ()
    assert text.correlations == ()
    assert text.formatting[0].name == "trailing newline"
    assert text.formatting[0].auroc is not None
    assert text.formatting[0].auroc.estimate == 1.0
    assert text.formatting[0].p_value == pytest.approx(1 / 1000)
    assert "Only text was given" in text.verdict[0]
    assert any("formatting (trailing newline) alone separates the classes: AUROC 1.00" in s
               for s in text.verdict)


def test_alone_rows_are_the_numbers_they_name(text: Audit) -> None:
    traces = planted(1, "newline")
    y = [t.label for t in traces]
    rows = {r.name: r.auroc for r in text.alone}
    for name, values in (
        ("completion length (characters)", [len(t.completion.strip()) for t in traces]),
        ("completion length (words)", [len(t.completion.split()) for t in traces]),
        ("steps", [len(t.completion.strip().split("\n")) for t in traces]),
    ):
        found = rows[name]
        assert found is not None
        assert found.estimate == pytest.approx(roc_auc_score(y, values))
    assert {"question length (characters)", "formatting, all together", "text: words",
            "text: character 1-5-grams", "source"} <= set(rows)


def test_composition_counts() -> None:
    traces = planted(0, problems=3, n=2)
    traces[0] = dataclasses.replace(traces[0], label=None)
    for i, label in enumerate((1, 1, 0, 0, 0), start=1):
        traces[i] = dataclasses.replace(traces[i], label=label)
    found = composition(Sample.of_traces(traces))
    assert (found.traces, found.valid, found.unlabelled, found.problems) == (5, 2, 1, 3)
    assert (found.smallest, found.median, found.largest, found.mixed) == (1, 2, 2, 1)
    assert {(s.source, s.traces, s.valid) for s in found.sources} == {("b", 3, 1), ("a", 2, 1)}


def test_near_duplicates_are_reported_and_merged() -> None:
    traces = planted(4)
    copy = [dataclasses.replace(t, id=f"copy-{t.id}", problem_id=f"copy-{t.problem_id}",
                                prompt=t.prompt.replace("Q: ", "Q: Now ")) for t in traces[:6]]
    found = audit([*traces, *copy], **QUICK)
    assert [(d.first, d.second) for d in found.duplicates] == [("p0", "copy-p0")]
    assert any("1 pair of nearly equal questions" in s for s in found.verdict)
    assert merged([*traces, *copy])[-1].problem_id == "p0"


def test_bad_input_is_a_typed_error() -> None:
    traces = planted(0, problems=6)
    with pytest.raises(LabelError, match="valid and invalid"):
        audit([dataclasses.replace(t, label=1) for t in traces])
    with pytest.raises(LabelError, match="valid and invalid"):
        audit([dataclasses.replace(t, label=None) for t in traces])
    with pytest.raises(LabelError, match="6 problems cannot make 9 folds"):
        audit(traces, n_splits=9)
    with pytest.raises(ParameterError, match="n_permutations"):
        audit(traces, n_permutations=0)


def test_problems_of_one_trace_have_no_within_numbers() -> None:
    traces = [dataclasses.replace(t, problem_id=t.id) for t in planted(5, problems=12)]
    found = audit(traces, **QUICK)
    assert all(r.within is None for r in found.scores)
    assert [t.scheme for t in found.permutations] == ["problems"]
    assert found.facts["movable"] == 1.0


def test_labels_that_cannot_move_are_a_worry() -> None:
    """Every problem is of one class and of a size of its own."""
    base = planted(6, problems=1, n=45)
    traces, i = [], 0
    for size in range(1, 10):
        for t in base[i:i + size]:
            traces.append(dataclasses.replace(t, problem_id=f"p{size}", label=size % 2))
        i += size
    found = audit(traces, **(QUICK | {"n_splits": 2}))
    assert found.facts["movable"] == 0.0
    assert {leak.p_value for leak in found.leaks} == {1.0}
    assert any("labels of only 0%" in s for s in found.verdict)


def test_the_audit_is_json_and_the_same_again(text: Audit) -> None:
    plain = text.to_json()
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert plain["verdict"] == list(text.verdict)
    again = audit(planted(1, "newline"), **QUICK).to_json()
    assert again == plain


@pytest.mark.parametrize("which", ["learned", "text"])
def test_the_page_is_self_contained_and_holds_the_verdict(
    which: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    found: Audit = request.getfixturevalue(which)
    path = tmp_path / "sub" / "audit.html"
    write_audit_page(path, found.to_json(), title="A <title>", command="validator audit x")
    page = path.read_text()
    parser = Balance()
    parser.feed(page)
    assert parser.open == []
    outside = re.sub(r'xmlns(:\w+)?="[^"]*"', "", page)
    assert not re.search(r'(src|href)="(?!#)|url\((?!#)|@import|<script', outside)
    assert "A &lt;title&gt;" in page
    assert found.verdict[0] in page
    assert page.count("<svg") == page.count('role="img"') == (4 if which == "learned" else 3)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
def test_the_page_opens_in_a_browser(text: Audit, tmp_path: Path) -> None:
    path = tmp_path / "audit.html"
    write_audit_page(path, text.to_json(), title="Audit", command="validator audit x")
    done = subprocess.run(
        [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom",
         path.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    assert "Worry" in done.stdout
    assert done.stdout.count("<svg") == 3


@pytest.mark.slow
@pytest.mark.shared
def test_gsm8k_solutions_are_difficulty_and_source(shared_data: Path) -> None:
    """What is known of these traces: length is difficulty, and the systems differ."""
    from validator.training.datasets import load_traces

    traces = load_traces(shared_data / "gsm8k_solutions_dev.jsonl", format="gsm8k-solutions",
                         limit=800)
    found = audit(traces, **(QUICK | {"n_leak_permutations": 199}))
    flags = {leak.key: leak for leak in found.leaks if leak.flagged}
    assert {"length", "question", "source"} <= set(flags)
    rows = {r.name: r for r in found.alone}
    length = rows["completion length (characters)"]
    assert length.auroc is not None
    assert length.within is not None
    assert length.auroc.high < 0.45
    assert length.within.low < 0.54 < length.within.high + 0.05
    assert np.isclose(rows["question length (characters)"].within.estimate, 0.5)  # type: ignore[union-attr]
