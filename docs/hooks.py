"""Two things that Markdown leaves to be done, called by mkdocs while it builds the pages."""

from __future__ import annotations

import re
from typing import Any

ROLE = re.compile(r":(?:attr|class|data|exc|func|meth|mod):\s*<code>~?([\w.\s]+)</code>")
CJK = r"[\u3000-\u30ff\u3400-\u9fff\uff00-\uffef]"
LINE_BREAK = re.compile(rf"(?<={CJK})((?:</(?:a|em|strong)>)*)\n *"
                        rf"(?=(?:<(?:a|em|strong)\b[^>]*>)*{CJK})")


def is_japanese(page: Any) -> bool:
    """Whether a page is written in Japanese."""
    return str(page.file.src_uri).startswith("ja/")


def reference(role: re.Match[str]) -> str:
    """A docstring's role as a link, where the name is documented."""
    name = "".join(role[1].split())
    return (f'<autoref optional identifier="{name}"><code>{name.rsplit(".", 1)[-1]}</code>'
            "</autoref>")


def on_page_content(html: str, page: Any, **_: Any) -> str:
    """Link what docstrings refer to; between Japanese characters a line's end is no space."""
    html = ROLE.sub(reference, html)
    return LINE_BREAK.sub(r"\1", html) if is_japanese(page) else html


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """Say the language of a Japanese page: the reader's browser chooses glyphs by it."""
    return output.replace('<html lang="en"', '<html lang="ja"', 1) if is_japanese(page) else output
