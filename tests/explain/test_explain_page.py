"""The page: self-contained, well-formed, safe against what a trace says, right in numbers."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from html_balance import Balance

from validator.errors import ParameterError
from validator.explain.clusters import layer_graph
from validator.explain.data import (
    BaselineView,
    Contribution,
    Contributions,
    Deviations,
    Explanation,
    LayerGraph,
    Neighbour,
    NullBand,
    StepView,
    TokenView,
    Verdict,
)
from validator.report.explain_page import chosen_layer, write_explain_page
from validator.types import Provenance, Trace

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>{{ 7*7 }} \u2028 &amp;"
TOKENS = [" 3", " + 4", "\n", "", EVIL, " ="]


def graph(layer: int) -> LayerGraph:
    rng = np.random.default_rng(layer)
    weights = rng.random((len(TOKENS), len(TOKENS)))
    weights = weights + weights.T
    root = 1 / np.sqrt(weights.sum(1))
    values, modes = np.linalg.eigh(np.eye(len(TOKENS)) - root[:, None] * weights * root)
    return layer_graph(layer, weights, values, modes)


@pytest.fixture
def explanation() -> Explanation:
    trace = Trace(EVIL, "p", "Q:" + EVIL, "".join(TOKENS), 0)
    z = np.array([[0.5, -7.0, np.nan], [1.0, 2.0, 3.5]])
    value = np.ones((2, 3), dtype=np.float32)
    near = tuple(Neighbour(Trace(f"n{i}", "p", "Q", EVIL, 1), 0.5 + i, i == 0) for i in range(2))
    layers = (0, 2, 5)
    return Explanation(
        trace, "completion", tuple(TokenView(t, None if i == 0 else i / 2)
                                   for i, t in enumerate(TOKENS)), 0, (4, 6),
        tuple(graph(k) for k in layers), NullBand("recency", np.sort(
            np.random.default_rng(0).random((20, len(TOKENS))), axis=1)),
        Deviations(("fiedler <b>", "hfer"), layers, value, value - 0.5, value, z, 0.4, 0.01, 0.02),
        {0.5: (np.array([0.1, np.nan, 0.3]), np.array([0.2, np.nan, 0.9]))},
        (BaselineView("completion_length", 6, 61.0, 5, None, None),
         BaselineView("mean_logprob", -0.5, 12.0, -0.1, -0.4, 0.7)),
        {1: near, 0: ()}, (0.4, 0.9),
        (StepView(EVIL, 3, -0.5, 0.25, 1), StepView("b", 0, None, 0.75, None)),
        Verdict("mine", 0.37, (0.3, 0.41), Contributions(
            (Contribution("hfer_c0.5__layer2__head_mean__completion__hidden", 0.25, -1.25),
             Contribution("log_self_attention__layer5__head3__whole", None, 0.5)),
            0.125, 7, -0.375, -1.0, "the trace"), step_chances=(0.25, 0.75)),
        "the reference", (40, 0), Provenance("m", "r", "s", 1), ("Mind the <length>.",))


def written(path: Path, explanation: Explanation, **options: Any) -> str:
    write_explain_page(path, explanation, title="Why <this>?", command="validator explain",
                       **options)
    return path.read_text(encoding="utf-8")


def data_of(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    data: dict[str, Any] = json.loads(found[1])
    return data


def test_it_is_well_formed_and_asks_for_nothing(explanation: Explanation, tmp_path: Path) -> None:
    page = written(tmp_path / "sub" / "p.html", explanation)
    Balance().feed(page)
    assert not re.search(r'(src|href)="(?!#)|url\((?!#)|@import', page)
    assert "default-src 'none'" in page
    script = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    assert len(script) == 1
    digest = base64.b64encode(hashlib.sha256(script[0].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page
    assert "fetch(" not in page
    assert "innerHTML" not in page


def test_what_a_trace_says_is_text(explanation: Explanation, tmp_path: Path) -> None:
    page = written(tmp_path / "p.html", explanation)
    assert page.count("<script") == 2  # the data, and the page's own
    assert "<img" not in page
    assert "onerror=alert(2)&gt;" in page
    assert "{{ 7*7 }}" in page
    assert "fiedler &lt;b&gt;" in page
    assert "Mind the &lt;length&gt;." in page
    assert data_of(page)["tokens"][4] == EVIL


def test_its_numbers_are_those_of_the_explanation(
    explanation: Explanation, tmp_path: Path
) -> None:
    page = written(tmp_path / "p.html", explanation)
    data = data_of(page)
    assert data["tokens"][2:4] == ["↵\n", "∅"]
    for g, layer in zip(explanation.graphs, data["layers"], strict=True):
        assert sum(layer["histogram"]) == len(TOKENS)
        expected, _ = np.histogram(np.abs(g.eigenvalues), data["bins"], (0, data["top"]))
        assert layer["histogram"] == expected.tolist()
        np.testing.assert_allclose(np.array(layer["fiedler"]) / 100,
                                   g.fiedler / np.abs(g.fiedler).max(), atol=0.0051)
        assert layer["clusters"] == g.clusters.tolist()
        assert layer["quantiles"] == [pytest.approx(np.median(g.eigenvalues), abs=1e-4)]
    assert [layer["valid"] for layer in data["layers"]] == [[[0.1, 0.2]], [None], [[0.3, 0.9]]]
    medians = np.median(explanation.null.eigenvalues, axis=1)
    assert data["null"]["quantiles"][0] == pytest.approx([medians.min(), medians.max()], abs=1e-4)
    for text in ("P(valid) 0.37", "between 0.300 and 0.410", "40.0% of the graph", "-1.250",
                 "-1.000", "7 other features together", "-0.375", "-7.0", "undefined",
                 "same problem", "<td>12</td>", "P(step valid)", "None in the reference"):
        assert text in page, text


def test_the_layer_shown_first(explanation: Explanation, tmp_path: Path) -> None:
    assert chosen_layer(explanation, None) == 1  # the mean |z| of the defined is largest there
    assert data_of(written(tmp_path / "p.html", explanation, layer=5))["chosen"] == 2
    with pytest.raises(ParameterError, match="layer 1 was not read; those that were: 0, 2, 5"):
        written(tmp_path / "q.html", explanation, layer=1)


def test_without_a_classifier_steps_or_quantiles(explanation: Explanation, tmp_path: Path) -> None:
    bare = replace(explanation, verdict=Verdict("none", no_contributions="no classifier"), steps=(),
                   quantiles={}, notes=())
    page = written(tmp_path / "p.html", bare)
    Balance().feed(page)
    assert "No P(valid): no classifier" in page
    assert 'id="quantiles"' not in page
    assert "Step by step" not in page


PROBE = """<script>addEventListener("load", () => {
  const key = (k) => document.activeElement.dispatchEvent(
    new KeyboardEvent("keydown", { key: k, bubbles: true }));
  const tokens = document.getElementById("tokens").children;
  tokens[0].focus(); key("ArrowRight"); key("End"); key("ArrowLeft"); key("ArrowUp");
  document.querySelector("input[value=clusters]").click();
  const shape = (id) => document.getElementById(id).childElementCount;
  const told = { width: document.documentElement.scrollWidth, inner: innerWidth,
    picked: [...tokens].findIndex((t) => t === document.activeElement),
    selected: document.querySelectorAll("[aria-selected=true]").length,
    layer: document.getElementById("layer-name").textContent,
    detail: document.getElementById("detail").textContent,
    legend: document.getElementById("legend").textContent,
    drawn: ["graph", "histogram", "quantiles"].map(shape) };
  parent.postMessage(told, "*");
});</script></body>"""
FRAMES = """<!doctype html><title></title><script>const told = [];
addEventListener("message", (e) => { told.push(e.data); document.title = JSON.stringify(told); });
</script><iframe src="p.html" width="360" height="900" style="border:0"></iframe>
<iframe src="p.html" width="1440" height="900" style="border:0"></iframe>"""
"""A window of a browser without a screen is no narrower than 500 px; a frame may be."""


@pytest.mark.slow
def test_in_a_browser_by_keyboard_at_two_widths(explanation: Explanation, tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("needs Chromium")
    page = re.sub(r"<meta http-equiv=[^>]*>", "", written(tmp_path / "p.html", explanation))
    (tmp_path / "p.html").write_text(page.replace("</body>", PROBE), encoding="utf-8")
    (tmp_path / "frames.html").write_text(FRAMES, encoding="utf-8")
    done = subprocess.run(
        [browser, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=5000",
         f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom",
         (tmp_path / "frames.html").as_uri()],
        capture_output=True, text=True, check=True, timeout=120)
    title = re.search(r"<title>(\[.*?\])</title>", done.stdout, re.DOTALL)
    assert title is not None, done.stdout[:500]
    seen = {told["inner"]: told for told in json.loads(html.unescape(title[1]))}
    assert set(seen) == {360, 1440}
    for width, told in seen.items():
        assert told["width"] <= width
        assert (told["picked"], told["selected"], told["layer"]) == (len(TOKENS) - 2, 1, "5")
        assert told["detail"].startswith(f"Token {len(TOKENS) - 1} of {len(TOKENS)}, ")
        assert told["legend"].startswith("cluster 1: ")
        assert all(told["drawn"])
