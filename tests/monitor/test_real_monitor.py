"""On the default model: its columns, the artifact that ships, and the guide's example of a fit."""

from __future__ import annotations

import re
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
import pytest

from validator.classifier import load_artifact
from validator.classifier.estimator import DEFAULTS
from validator.features.extractor import SpectralFeatureExtractor
from validator.models.loading import LoadedModel, load_model
from validator.plugins.monitor import (
    TokenSeen,
    ValidityMonitor,
    sample_with_early_stopping,
    shipped_prefix_artifact,
)
from validator.plugins.monitor.writing import write_watched
from validator.training.datasets import load_traces, write_traces
from validator.training.decoding import Sampling
from validator.training.problems import problem_set, prompt_format
from validator.types import Trace

GUIDE = Path(__file__).parents[2] / "docs" / "monitor.md"
MODEL = "smollm2-135m-instruct"
pytestmark = [pytest.mark.slow, pytest.mark.model]


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return load_model(MODEL)


def prompt() -> str:
    return prompt_format("one-step").prompt(problem_set("one-step", 1, seed=77)[0].question)


def test_an_answer_is_scored_as_the_shipped_artifact_scores_it_offline(
    loaded: LoadedModel
) -> None:
    """Both the columns and P(valid), at each token."""
    seen: list[TokenSeen] = []
    monitor = ValidityMonitor(loaded, on_token=seen.append)
    found = write_watched(monitor, prompt(), max_new_tokens=16, seed=1, stop=("\n",))
    assert found.tokens > 5
    extractor = SpectralFeatureExtractor(loaded, feature_set="monitor").fit()
    trace = Trace("a", "a", prompt(), found.text)
    rows = extractor.transform_prefixes([trace], list(range(1, 17)))
    folder = shipped_prefix_artifact(MODEL)
    assert folder is not None
    artifact = load_artifact(folder)
    expected = artifact.classifier.predict_proba(rows.select(artifact.feature_names))[:, 1]
    count = min(len(rows), len(seen))
    assert count > 5
    for k in range(3, count):
        # Trees are step functions of the columns: rounding may move a row over one step.
        assert seen[k].score == pytest.approx(expected[k], abs=0.02)
        assert seen[k].surprisal == pytest.approx(
            -np.diff([0, *(rows.values[:, 2] * rows.lengths[:, 1])])[k], abs=2e-3)


def test_bad_samples_are_stopped_live(loaded: LoadedModel) -> None:
    monitor = ValidityMonitor(loaded)
    sampling = Sampling(4, 0.8, max_new_tokens=14, seed=3)
    found = sample_with_early_stopping(
        monitor, prompt(), sampling, ("\n",), below=0.99, checks=(6,), spare=2)
    assert sum(not s.stopped for s in found.samples) == 2
    for sample in found.samples:
        assert sample.tokens == 7 if sample.stopped else sample.tokens > 7
        assert sample.score is not None
    left = [s.score or 0.0 for s in found.samples if s.stopped]
    assert max(left) < 0.99


def test_the_example_of_a_fit_runs_as_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    codes = re.findall(r"```py\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(codes) == 1
    with as_file(files("validator.data").joinpath("demo_traces.jsonl")) as path:
        traces = load_traces(path)
    labels = {t.problem_id: set[int | None]() for t in traces}
    for trace in traces:
        labels[trace.problem_id].add(trace.label)
    mixed = [p for p, own in labels.items() if len(own) == 2][:6]
    write_traces(tmp_path / "traces.jsonl", [t for t in traces if t.problem_id in mixed][::2])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(DEFAULTS["xgboost"], "n_estimators", 10)  # type: ignore[arg-type]
    exec(compile(codes[0], str(GUIDE), "exec"), {})
    assert load_artifact(tmp_path / "runs" / "prefix").manifest["metadata"]["rows"] == "prefixes"
