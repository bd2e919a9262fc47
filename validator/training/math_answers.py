"""Free-form mathematical answers, compared as mathematics by math-verify.

math-verify bounds its run time with a signal, which works in the main thread only. Here nothing is
timed: only the short text of one answer is parsed, and an expression too large to evaluate, such as
a tower of powers, is left to be compared as text.
"""

from __future__ import annotations

import importlib
import logging
import math
import re
from fractions import Fraction
from functools import cache, lru_cache
from types import ModuleType
from typing import Any

__all__ = ["evaluate", "expression", "last_boxed", "marked_expression", "same"]

MAX_CHARACTERS = 300
"""Longer answers are compared as text."""

_BOXED = re.compile(r"\\boxed\s*\{")
_MAX_DIGITS = 1000
_MAX_DEGREE = 60


@cache
def _math_verify() -> ModuleType:
    # Half a second to import, and most callers compare plain numbers.
    math_verify = importlib.import_module("math_verify")
    for name in ("math_verify.parser", "math_verify.grader"):
        logging.getLogger(name).addFilter(_not_about_timeouts)
    return math_verify


def _not_about_timeouts(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith("Timeout is disabled")


def last_boxed(text: str) -> str | None:
    r"""What stands in the last complete ``\boxed{...}``, braces matched; None if there is none."""
    for match in reversed(list(_BOXED.finditer(text))):
        depth = 1
        for end in range(match.end(), len(text)):
            depth += {"{": 1, "}": -1}.get(text[end], 0)
            if depth == 0:
                return text[match.end():end].strip() or None
    return None


def marked_expression(tail: str) -> str | None:
    """The expression math-verify finds right after the words "the answer is"; None if none."""
    verify = _math_verify()
    configs = (
        verify.LatexExtractionConfig(try_extract_without_anchor=False),
        verify.ExprExtractionConfig(try_extract_without_anchor=False),
    )
    found = _parse(f"The answer is {tail[:MAX_CHARACTERS]}", configs)
    return str(found[-1]) if found else None


@lru_cache(maxsize=4096)
def expression(text: str) -> Any | None:
    """The SymPy expression an answer stands for; None if it is none, or too large to evaluate."""
    if len(text) > MAX_CHARACTERS:
        return None
    verify = _math_verify()
    found = _parse(rf"\boxed{{{text}}}", (verify.LatexExtractionConfig(),))
    parsed = found[0] if found else None
    return parsed if parsed is not None and _is_small(parsed) else None


def evaluate(parsed: Any) -> Fraction | str:
    """An exact number if the expression is rational, else the expression's canonical text."""
    value = parsed.doit() if getattr(parsed, "is_number", False) else parsed
    if getattr(value, "is_Rational", False):
        return Fraction(int(value.p), int(value.q))
    if getattr(value, "is_Float", False) and value.is_finite:
        return Fraction(str(value))
    return str(value)


def same(a: Any, b: Any) -> bool:
    """Whether math-verify holds two expressions for equal, whichever is the reference."""
    verify = _math_verify().verify
    return bool(verify(a, b, timeout_seconds=None) or verify(b, a, timeout_seconds=None))


def _parse(text: str, configs: tuple[Any, ...]) -> list[Any]:
    found: list[Any] = _math_verify().parse(text, extraction_config=configs, parsing_timeout=None)
    return found


def _is_small(parsed: Any) -> bool:
    sympy = importlib.import_module("sympy")
    if not isinstance(parsed, (sympy.Basic, sympy.MatrixBase)):
        return False
    if parsed.has(sympy.Integral, sympy.Sum, sympy.Product, sympy.Limit, sympy.Derivative):
        return False
    parts = list(parsed) if isinstance(parsed, sympy.MatrixBase) else [parsed]
    limit = _MAX_DEGREE if parsed.free_symbols else _MAX_DIGITS
    return all(_digits(part) <= limit for part in parts)


def _digits(part: Any) -> float:
    """An upper bound on the decimal digits of a number; a variable counts for one digit."""
    sympy = importlib.import_module("sympy")
    if part.is_Rational:
        return math.log10(abs(int(part.p)) + int(part.q))
    inner = [_digits(argument) for argument in part.args]
    if isinstance(part, sympy.Pow):
        return (inner[0] + 1) * 10 ** inner[1] if inner[1] < 6 else math.inf
    if isinstance(part, (sympy.factorial, sympy.binomial)):
        return 10 ** inner[0] * (inner[0] + 1) if inner[0] < 6 else math.inf
    return sum(inner) if inner else 1.0
