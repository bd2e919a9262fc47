"""Pages that repeat numbers and commands of others say the same; what is shown is documented."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from test_readme import README, ROOT, blocks, commands

DOCS = ROOT / "docs"
RESULTS = ROOT / "benchmarks" / "results"
JAPANESE = {"quickstart.md": ["quickstart.md"],
            "reading-scores.md": ["scores.md", "score-traces.md", "label-free.md"]}
CARD = ROOT / "validator" / "data" / "artifacts" / "smollm2-135m-instruct.md"


def read(*names: str) -> str:
    return "\n".join((DOCS / name).read_text(encoding="utf-8") for name in names)


def numbers(text: str) -> set[str]:
    """Decimals such as 0.936, .93 and +0.076, without sign and leading zero."""
    found = re.findall(r"(?<![\w.])0?\.\d+|(?<![\w.])\d+\.\d{2,}", re.sub(r"```.*?```", "", text,
                                                                         flags=re.DOTALL))
    return {n.removeprefix("0") for n in found}


def test_the_quick_start_has_commands_of_the_readme_alone() -> None:
    """They are run as printed, and in this order, with the README's."""
    own = [line for block in blocks(read("quickstart.md"), "console")
           for line in block.splitlines()]
    assert len(own) == 10
    assert set(own) <= set(commands())
    made = {part for line in own for part in line.split() if part.endswith(".jsonl")}
    assert made == {"fresh.jsonl", "scores.jsonl", "chosen.jsonl", "traces.jsonl"}


@pytest.mark.parametrize("language", ["console", "bash", "python"])
def test_the_japanese_quick_start_has_the_same_blocks(language: str) -> None:
    assert blocks(read("ja/quickstart.md"), language) == blocks(read("quickstart.md"), language)
    assert blocks(read("ja/quickstart.md"), language)


@pytest.mark.parametrize("page", JAPANESE)
def test_japanese_pages_have_no_number_of_their_own(page: str) -> None:
    source = read(*JAPANESE[page], "measured.md") + CARD.read_text(encoding="utf-8")
    own = numbers(read(f"ja/{page}"))
    assert own
    assert own <= numbers(source) | {".8"}  # "does 0.8 mean 80%?"


def test_the_reading_guide_shows_commands_that_run() -> None:
    known = {line for block in blocks(README + read("score-traces.md"), "console")
             for line in block.splitlines()}
    shown = {line for block in blocks(read("ja/reading-scores.md"), "console")
             for line in block.splitlines()}
    assert shown
    assert shown <= known


def test_every_number_of_the_honest_page_was_measured() -> None:
    """It stands on the page it was measured for, or in the results it is made from."""
    pages = ["audit.md", "measured.md", "null.md", "label-free.md", "windtunnel-study.md",
             "reward.md", "rerank.md", "checkpoints.md", "steps.md", "scores.md", "monitor.md",
             "clean.md", "anomaly.md"]
    length = json.loads((RESULTS / "null_length.json").read_text())
    drawn = {f"{abs(v):.3f}".removeprefix("0") for row in length["rows"]
             for v in row["means"].values()}
    drawn |= {f"{abs(row['spearman']):.2f}".removeprefix("0") for row in length["rows"]}
    own = numbers(read("honest.md"))
    assert len(own) > 100
    known = numbers(read(*pages)) | numbers(CARD.read_text(encoding="utf-8")) | drawn
    assert own - known == set()


def test_the_table_of_nulls_is_that_of_the_results() -> None:
    page = read("honest.md")
    for row in json.loads((RESULTS / "null_length.json").read_text())["rows"]:
        shown = " | ".join(f"{row['means'][n]:.3f}" for n in ("16", "64", "256", "512"))
        line = f"| `{row['descriptor']}` | {row['null']} | {shown} | {row['spearman']:+.2f} |"
        assert line in page


def test_the_table_of_corrupted_examples_is_that_of_the_results() -> None:
    page, found = read("clean.md"), json.loads((RESULTS / "clean.json").read_text())
    assert found["complete"]
    assert (found["read"], found["copies"]) == (2000, 400)
    shown = 0
    for cells in zip(*found["rows"].values(), strict=True):
        text = " | ".join(f"{a['estimate']:.2f} [{a['low']:.2f}, {a['high']:.2f}]"
                          for a in (c["auroc"] for c in cells))
        shown += f"| {text} |" in page
    rows = re.findall(r"^\| .*\](?: \| .*\]){4} \|$", page, re.MULTILINE)
    assert shown == len(rows) == 15


def test_each_command_of_the_honest_page_exists() -> None:
    page = " ".join(read("honest.md").split())
    for module in set(re.findall(r"python -m (benchmarks\.\w+)", page)):
        assert (ROOT / f"{module.replace('.', '/')}.py").is_file()
    assert len(set(re.findall(r"python -m benchmarks\.\w+", page))) >= 6


def test_what_examples_import_is_in_the_reference() -> None:
    """Every module that a code block of README or guide, or the tour, imports from is described."""
    pages = [*DOCS.rglob("*.md"), ROOT / "README.md"]
    texts = [p.read_text(encoding="utf-8") for p in pages]
    code = [block for text in texts for language in ("python", "py")
            for block in blocks(text, language)]
    code.append((ROOT / "examples" / "tour.ipynb").read_text(encoding="utf-8"))
    used = {name for text in code for name in re.findall(r"from (validator\.[\w.]+) import", text)}
    described = {name for text in texts
                 for name in re.findall(r"^::: (validator[\w.]*)", text, re.MULTILINE)}
    missing = {name for name in used if not any(  # a package by its modules
        d == name or d.startswith(f"{name}.") for d in described)}
    assert missing == set()
    assert len(used) > 20


def test_the_page_of_pages_is_whole() -> None:
    """Every page is in the navigation."""
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for page in DOCS.rglob("*.md"):
        assert f": {Path(page).relative_to(DOCS).as_posix()}\n" in navigation, page.name
