"""The page: self-contained, holds the numbers, is well-formed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from html_balance import Balance

from validator.classifier.importance import FeatureImportance
from validator.report.heatmap import EffectGrid
from validator.report.page import write_report

GRID = EffectGrid(("fiedler_value whole (head-mean)", "hfer_c0.5 whole hidden (head-mean)"),
                  (0, 1, 5), np.array([[0.5, -0.2, np.nan], [0.1, 0.0, -1.0]]),
                  np.array([[True, False, False], [False, False, True]]))
IMPORTANT = [FeatureImportance("hfer_c0.5__layer3__head_mean__whole__hidden", 0.1234, -0.5)]


def interval(value: float) -> dict[str, float]:
    return {"estimate": value, "low": value - 0.05, "high": value + 0.05}


def result(repeated: bool) -> dict[str, Any]:
    keys = ["length", "surface", "length+logprob", "spectra", "learned"]
    rows = [{"key": k, "name": f"the {k} score", "auroc": interval(0.5 + i / 20),
             "within": interval(0.6) if repeated else None, "length_matched": interval(0.61),
             "best_of_n": interval(0.4) if repeated else None} for i, k in enumerate(keys)]
    parts = {"auroc": interval(0.1), **({"within": interval(0.2)} if repeated else {})}
    choosing = {"first answer": interval(0.3), "oracle": interval(0.7)} if repeated else {}
    return {
        "rows": rows, "increments": {"spectra over <length>": parts}, "choosing": choosing,
        "learned_calibration": {"ece": 0.01, "brier": 0.2}, "verdict": "It adds & it holds.",
        "facts": {"traces": 40, "problems": 10, "valid": 0.5, "mixed_problems": 9, "folds": 5,
                  "seed": 0, "resamples": 100, "provenance": {"model": "m"},
                  "single_columns": {"fiedler_value__layer0__head_mean__whole": 5},
                  "classifier": {"kind": "logistic", "C": None}},
    }


@pytest.mark.parametrize("repeated", [True, False])
def test_page_is_self_contained_and_holds_the_numbers(repeated: bool, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(40) % 2
    given = result(repeated)
    scores = {row["key"]: rng.normal(size=40) for row in given["rows"]}
    path = tmp_path / "sub" / "r.html"
    write_report(path, given, scores, labels, rng.integers(5, 20, 40), title="A <title>",
                 command="validator x", grid=GRID if repeated else None, important=IMPORTANT)
    page = path.read_text()
    Balance().feed(page)
    outside = re.sub(r'xmlns(:\w+)?="[^"]*"', "", page)
    assert not re.search(r'(src|href)="(?!#)|url\((?!#)|@import|<script', outside)
    assert "A &lt;title&gt;" in page
    assert "It adds &amp; it holds." in page
    assert "spectra over &lt;length&gt;" in page
    assert "0.700" in page
    assert "hfer_c0.5__layer3" in page
    assert ("Where the difference lies" in page) is repeated
    assert page.count("<svg") == (7 if repeated else 5)
    assert page.count('role="img"') == page.count("<svg")


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    labels = np.arange(40) % 2
    scores = {row["key"]: np.linspace(-1, 1, 40) for row in result(True)["rows"]}
    pages = []
    for name in ("a", "b"):
        write_report(tmp_path / name, result(True), scores, labels, labels + 5, title="t",
                     command="c")
        pages.append((tmp_path / name).read_bytes())
    assert pages[0] == pages[1]
