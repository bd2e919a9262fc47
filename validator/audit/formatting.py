"""Formatting as numbers: what a text looks like, whatever it says."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["FORMATTING", "formatting_features"]


def _ends(pattern: str) -> Callable[[str], float]:
    found = re.compile(pattern)
    return lambda text: float(found.search(text) is not None)


def _rate(pattern: str) -> Callable[[str], float]:
    """Matches per 100 characters between the white space at both ends, which is judged apart.

    A rate, because a count is mostly a length.
    """
    found = re.compile(pattern, re.MULTILINE)

    def rate(text: str) -> float:
        inside = text.strip()
        return 100.0 * len(found.findall(inside)) / max(len(inside), 1)

    return rate


FORMATTING: Mapping[str, Callable[[str], float]] = {
    "trailing newline": _ends(r"\n[ \t]*\Z"),
    "trailing spaces": _ends(r"[ \t]\Z"),
    "leading newline": _ends(r"\A[ \t]*\n"),
    "leading blank line": _ends(r"\A[ \t]*\n[ \t]*\n"),
    "final full stop": _ends(r"\.\s*\Z"),
    "#### mark": _ends(r"####"),
    "line breaks": _rate(r"\n"),
    "blank lines": _rate(r"\n[ \t]*(?=\n)"),
    "spaces at line ends": _rate(r"[ \t]$"),
    "double spaces": _rate(r"(?<=\S)  +(?=\S)"),
    "tabs": _rate(r"\t"),
    "digits": _rate(r"\d"),
    "capital letters": _rate(r"[A-Z]"),
    "punctuation": _rate(r"[.,;:!?]"),
    "operators": _rate(r"[-+*/=]"),
    "brackets": _rate(r"[()\[\]{}]"),
    "angle brackets": _rate(r"[<>]"),
    "dollar signs": _rate(r"\$"),
    "LaTeX commands": _rate(r"\\\w+|\\[\[\](){}]"),
    "bold markdown": _rate(r"\*\*"),
    "list items": _rate(r"^[ \t]*(?:[-*]|\d+[.)])[ \t]"),
    "headings": _rate(r"^#{1,6}[ \t]"),
    "not ASCII": _rate(r"[^\x00-\x7f]"),
}
"""Name -> number of one completion: 0 / 1 for what stands at its ends, else a rate per 100
characters."""


def formatting_features(texts: Sequence[str]) -> NDArray[np.float64]:
    """(N, K) numbers of each text, one column for each name of :data:`FORMATTING`."""
    return np.array([[measure(t) for measure in FORMATTING.values()] for t in texts],
                    dtype=np.float64).reshape(len(texts), len(FORMATTING))
