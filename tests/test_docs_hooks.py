"""What the site's build does to pages beyond Markdown."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

SOURCE = Path(__file__).parents[1] / "docs" / "hooks.py"


@pytest.fixture(scope="module")
def hooks() -> Any:
    spec = importlib.util.spec_from_file_location("docs_hooks", SOURCE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def page(name: str) -> Any:
    return SimpleNamespace(file=SimpleNamespace(src_uri=name))


def test_roles_become_links_that_may_be_missing(hooks: Any) -> None:
    found = hooks.on_page_content("<p>see :class:<code>~a.b.Thing</code></p>", page("x.md"))
    assert found == ('<p>see <autoref optional identifier="a.b.Thing"><code>Thing</code>'
                     "</autoref></p>")
    assert hooks.on_page_content("<code>a:b</code>", page("x.md")) == "<code>a:b</code>"


def test_a_japanese_line_end_is_no_space_and_the_page_says_its_language(hooks: Any) -> None:
    text = "\u7aef\n\u672b and\nmore"
    assert hooks.on_page_content(text, page("ja/x.md")) == "\u7aef\u672b and\nmore"
    assert hooks.on_page_content(text, page("x.md")) == text
    html = '<html lang="en" class="no-js">'
    assert hooks.on_post_page(html, page("ja/x.md")) == '<html lang="ja" class="no-js">'
    assert hooks.on_post_page(html, page("x.md")) == html
