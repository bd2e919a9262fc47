"""Anomaly references: p-values that hold, files that come back, warnings that are deserved."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr

from validator.errors import ArtifactError, FeatureMismatchError, ParameterError
from validator.metrics import auroc
from validator.training.anomaly_report import judge_anomalies
from validator.types import FeatureMatrix, Provenance, Trace
from validator.unsupervised import ReferenceDistance, fit_anomaly, load_anomaly, save_anomaly
from validator.unsupervised.reference import METHODS

GRAPH = tuple(f"fiedler_value__layer{i}__head_mean__completion" for i in range(6))
BASE = tuple(f"{n}__baseline" for n in ("mean_logprob", "min_logprob"))


def matrix(
    n: int, seed: int, *, shift: float = 0.0, prefix: str = "t", labels: Any = None,
    lengths: Any = None, per_problem: int = 1, revision: str = "0", meter: float = 0.0,
) -> FeatureMatrix:
    rng = np.random.default_rng(seed)
    size = rng.integers(20, 60, n) if lengths is None else np.asarray(lengths)
    values = rng.normal(size=(n, len(GRAPH))) + shift
    values[:, 0] += meter * size
    base = -np.abs(rng.normal(size=(n, 2)))
    traces = tuple(Trace(f"{prefix}{i}", f"{prefix}p{i // per_problem}", f"Q{i}", "A",
                         None if labels is None else int(labels[i])) for i in range(n))
    return FeatureMatrix(np.hstack([values, base]).astype(np.float32), GRAPH + BASE, traces,
                         np.column_stack([np.full(n, 5), size]).astype(np.int64),
                         Provenance("none", revision, "none", 1))


def test_good_traces_are_flagged_as_often_as_the_level_says() -> None:
    shares = []
    for seed in range(16):
        reference = fit_anomaly(matrix(300, seed), calibration_share=0.7, seed=seed)
        new = matrix(400, 100 + seed, prefix="n")
        p_values = reference.p_values(reference.score(new))
        shares.append([np.mean(p <= 0.1) for p in p_values.values()])
    # floor(0.1 x 211) / 211 expected; sd of a share 0.026, of the mean of sixteen 0.0064
    assert np.mean(shares, axis=0) == pytest.approx(21 / 211, abs=0.026)


@pytest.mark.parametrize("method", METHODS)
def test_far_traces_get_the_smallest_p_value(method: str) -> None:
    reference = fit_anomaly(matrix(100, 0), method=method)
    far = reference.p_values(reference.score(matrix(20, 7, prefix="f", shift=8.0)))
    assert (far["distance"] == reference.smallest_p).mean() > 0.9
    assert (far["mean_logprob"] == reference.smallest_p).mean() < 0.5


def test_p_values_are_counted() -> None:
    reference = fit_anomaly(matrix(100, 0))
    scores = reference.score(matrix(20, 1, prefix="n"))
    for name, values in reference.p_values(scores).items():
        known = reference.calibration[name]
        expected = [(1 + sum(k <= v for k in known)) / (len(known) + 1) for v in scores[name]]
        np.testing.assert_allclose(values, expected)
    assert reference.calibrated == 30
    assert reference.smallest_p == 1 / 31


def test_scores_are_those_of_the_distance_and_of_length() -> None:
    good, new = matrix(100, 0), matrix(20, 1, prefix="n")
    reference = fit_anomaly(good, seed=3)
    held = np.random.default_rng(3).permutation(100) < 30
    order = np.argsort(good.problem_ids)  # problems are numbered in sorted order
    inside = np.sort(order[~held])
    own = ReferenceDistance("knn", k=10).fit(good.take(inside))
    scores = reference.score(new)
    np.testing.assert_allclose(scores["distance"], own.score(new))
    median = np.median(good.lengths[inside, 1])
    np.testing.assert_allclose(
        scores["typical_length"], -np.abs(np.log(new.lengths[:, 1]) - np.log(median)))


def test_a_problem_is_fitted_or_calibrated_never_both() -> None:
    good = matrix(120, 0, per_problem=4)
    reference = fit_anomaly(good, calibration_share=0.5)
    assert reference.fitted == reference.calibrated == 60
    fitted = {i.lstrip("t") for i in reference.distance._ids}
    problems = {int(i) // 4 for i in fitted}
    assert len(problems) == 15
    assert all(str(4 * p + k) in fitted for p in problems for k in range(4))


@pytest.mark.parametrize("method", METHODS)
def test_files_come_back_and_hold_nothing_that_can_run(method: str, tmp_path: Path) -> None:
    reference = fit_anomaly(matrix(80, 0), method=method)
    folder = save_anomaly(tmp_path / "reference", reference)
    assert {p.name for p in folder.iterdir()} == {"manifest.json", "reference.npz"}
    with np.load(folder / "reference.npz", allow_pickle=False) as file:
        assert all(file[name].dtype.kind in "fi" for name in file.files)
    back = load_anomaly(folder)
    new = matrix(20, 1, prefix="n")
    before, after = reference.score(new), back.score(new)
    assert set(before) == set(after)
    for name in before:
        np.testing.assert_allclose(after[name], before[name], rtol=1e-12)
    assert back.lengths == reference.lengths
    first = (folder / "reference.npz").read_bytes()
    save_anomaly(folder, reference)
    assert (folder / "reference.npz").read_bytes() == first
    with pytest.raises(ParameterError, match="part of the reference"):
        back.score(matrix(80, 0))
    with pytest.raises(FeatureMismatchError, match="revision"):
        back.score(matrix(5, 1, prefix="n", revision="1"))


def test_damaged_and_foreign_files_are_refused(tmp_path: Path) -> None:
    folder = save_anomaly(tmp_path / "r", fit_anomaly(matrix(40, 0)))
    whole = (folder / "reference.npz").read_bytes()
    for at in (10, len(whole) // 2, len(whole) - 1):
        (folder / "reference.npz").write_bytes(
            whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1:])
        with pytest.raises(ArtifactError, match="damaged"):
            load_anomaly(folder)
    (folder / "reference.npz").write_bytes(whole)
    text = (folder / "manifest.json").read_text()
    for old, new, message in (
        ('"format_version": 1', '"format_version": 9', "format version 9"),
        ("anomaly reference", "something else", "is no"), ("{", "{{", "damaged"),
        ('"k": 10', '"k": 3', "fits another model"),
        ('"median_length"', '"median"', "not what format version 1 holds"),
    ):
        assert old in text
        (folder / "manifest.json").write_text(text.replace(old, new, 1))
        with pytest.raises(ArtifactError, match=message):
            load_anomaly(folder)
    with pytest.raises(ArtifactError, match="cannot read"):
        load_anomaly(tmp_path / "none")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "note.txt").write_text("mine")
    with pytest.raises(ArtifactError, match="will not be overwritten"):
        save_anomaly(tmp_path / "other", fit_anomaly(matrix(40, 0)))


def test_too_few_traces_and_wrong_settings_are_refused() -> None:
    with pytest.raises(ParameterError, match="give more good traces"):
        fit_anomaly(matrix(12, 0))
    with pytest.raises(ParameterError, match="calibration_share"):
        fit_anomaly(matrix(80, 0), calibration_share=1.0)
    with pytest.raises(ParameterError, match="method"):
        fit_anomaly(matrix(80, 0), method="typo")
    with pytest.raises(ParameterError, match="level"):
        judge_anomalies(fit_anomaly(matrix(80, 0)), matrix(9, 1, prefix="n"), level=0.0)


def test_the_report_judges_by_labels_and_compares() -> None:
    reference = fit_anomaly(matrix(200, 0))
    labels = np.arange(80) % 2
    new = matrix(80, 1, prefix="n", labels=labels)
    moved = new.values.copy()
    moved[labels == 0, :6] += 3
    new = FeatureMatrix(moved, new.names, new.traces, new.lengths, new.provenance)
    report = judge_anomalies(reference, new, n_resamples=200)
    scores = reference.score(new)
    for row in report.rows:
        assert row.verdict is not None
        assert row.verdict.auroc.estimate == pytest.approx(auroc(labels, scores[row.name]))
        assert row.length == pytest.approx(
            spearmanr(scores[row.name], new.lengths[:, 1]).statistic)
    assert report.rows[0].verdict is not None
    assert report.rows[0].verdict.auroc.low > 0.9
    assert report.over["mean_logprob"].low > 0
    flagged = [t.anomalous for t in report.traces]
    assert flagged == [t.p_values["distance"] <= 0.05 for t in report.traces]
    told = report.to_json()
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    assert not any("length meter" in w for w in report.warnings)


def test_warnings_are_deserved() -> None:
    meter = fit_anomaly(matrix(200, 0, meter=1.0, lengths=np.full(200, 40)))
    lengths = np.linspace(41, 200, 60).astype(int)
    told = " ".join(judge_anomalies(
        meter, matrix(60, 1, prefix="n", meter=1.0, lengths=lengths)).warnings)
    assert "follows length (Spearman -" in told
    assert "as no good trace has" in told
    assert "typical_length alone flags" in told
    assert "0 of 60 traces have a label" in told
    few = fit_anomaly(matrix(40, 0))
    told = " ".join(judge_anomalies(few, matrix(30, 1, prefix="n")).warnings)
    assert "12 calibration traces give no p-value below 0.077" in told
    labels = np.arange(60) % 2
    told = " ".join(judge_anomalies(
        fit_anomaly(matrix(200, 0)), matrix(60, 1, prefix="n", labels=labels)).warnings)
    assert "cannot be shown to beat mean_logprob" in told
