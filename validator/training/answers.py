r"""Final answers: read them from a completion, compare them, group equal ones.

Three styles. ``"integer"`` is the number after the last "answer is", "Answer:", "####" or "A:" at
the start of a line. ``"last-number"`` is the last number of the text. ``"math"`` is what stands in
the last ``\boxed{}``, else the expression after the last such marker. Numbers are compared exactly,
as fractions.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal, localcontext
from fractions import Fraction
from functools import lru_cache
from typing import Literal, get_args

from validator.errors import LabelError, ParameterError
from validator.training import math_answers

__all__ = [
    "STYLES", "AnswerStyle", "answer_key", "answers_equal", "check", "equivalence_classes",
    "parse_answer",
]

AnswerStyle = Literal["integer", "last-number", "math"]
STYLES: tuple[AnswerStyle, ...] = get_args(AnswerStyle)

_MARKER = re.compile(r"(?i:answer\s+is\b|\banswer\s*:)|####|^[ \t]*A:", re.MULTILINE)
_SENTENCE = re.compile(r"[.!?](?=\s|$)")
_NUMBER = re.compile(
    r"""(?<!\w)(?<!\d\.)            # not inside a word, a number or a version
        [-−+]?\\?[$€£]?[-−]?
        (?P<value>(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|(?<!\.)\.\d+)
        (?P<exponent>[eE][-+]?\d{1,3}(?!\w))?
        (?:/(?P<denominator>\d+))?""",
    re.VERBOSE,
)
_UNITS = re.compile(r"(?:\s*[^\W\d_]{2,},?)*")
_SIGNS = re.compile(r"(?:\s*\\?[%$€£])?\.?$")
_MAX_WORDS = 5
"""A longer sentence after a marker is prose, not an answer."""
_MAX_DIGITS = 100
"""More digits than this are a model repeating itself, not an answer."""
_WORD = re.compile(r"[^\W\d_]{3,}(?:[ '-][^\W\d_]+)*")
_TEXT = re.compile(r"\\(?:text|mathrm|textbf|mbox)\{([^{}]*)\}")


def parse_answer(text: str, style: AnswerStyle) -> str | None:
    """The final answer of a completion, or None if it has none.

    Numbers come back canonical: no thousands separators, currency signs, units or trailing zeros
    ("$1,200.50" is "1200.5", "8.0" is "8"). In the style "integer", a last marker that no number
    follows in its sentence gives None, even if an earlier marker had one; so does a number of more
    than 100 digits.
    """
    _require_style(style)
    if style == "math":
        return _parse_math(text)
    if style == "last-number":
        return _canonical_match(_last(_NUMBER, text))
    tail = _after_marker(text)
    return None if tail is None else _canonical_match(_NUMBER.search(_first_sentence(tail)))


def answers_equal(a: str, b: str) -> bool:
    r"""Whether two parsed answers are the same number, expression or words; symmetric.

    Rational numbers are compared exactly: 1/3 is not 0.3333. A percent sign is a unit: 50% is 50,
    not 0.5. Other expressions are compared by math-verify, to six decimals where they have a
    value; ``x=3`` and 3 are equal there.
    """
    keys = answer_key(a), answer_key(b)
    if keys[0] == keys[1]:
        return True
    if all(_number(key) is not None for key in keys):
        return False
    if _words(a) or _words(b):
        return False
    left, right = math_answers.expression(a), math_answers.expression(b)
    return left is not None and right is not None and math_answers.same(left, right)


def check(answer: str | None, target: str, style: AnswerStyle) -> bool:
    """Whether a parsed answer is the target; no answer is never right.

    Raises LabelError if the style is a numeric one and the target is not a number.
    """
    _require_style(style)
    if style == "math":
        return answer is not None and answers_equal(answer, target)
    expected = _number(target)
    if expected is None:
        raise LabelError(f"target {target!r} is not a number; style {style!r} needs one, "
                         "style 'math' compares expressions")
    return answer is not None and _number(answer) == expected


@lru_cache(maxsize=65536)
def answer_key(answer: str) -> str:
    r"""A string that equal answers share, to group them in a majority vote.

    ``\frac{1}{2}``, "1/2" and "0.50" give "0.5". Equal keys mean equal answers; the converse holds
    for numbers, not for every pair of expressions :func:`answers_equal` can prove equal.
    """
    number = _number(answer)
    if number is not None:
        return _canonical(number)
    words = _words(answer)
    parsed = None if words else math_answers.expression(answer)
    if parsed is None:
        return words or " ".join(answer.split())
    value = math_answers.evaluate(parsed)
    return _canonical(value) if isinstance(value, Fraction) else value


def equivalence_classes(answers: Sequence[str | None]) -> list[int | None]:
    """Which answers are the same answer, as :func:`answers_equal` sees it, so that they can vote.

    Returns the index of the first equal answer for each, None for None. Equality is made
    transitive: an answer joins the first class with an answer that it equals.
    """
    classes: dict[str, int] = {}  # key of an answer seen -> its class
    spelt: dict[str, str] = {}
    found: list[int | None] = []
    for i, answer in enumerate(answers):
        if answer is None:
            found.append(None)
            continue
        key = answer_key(answer)
        if key not in classes:
            equal = (c for other, c in classes.items() if answers_equal(answer, spelt[other]))
            classes[key], spelt[key] = next(equal, i), answer
        found.append(classes[key])
    return found


def _require_style(style: str) -> None:
    if style not in STYLES:
        raise ParameterError(f"unknown answer style {style!r}; known: {', '.join(STYLES)}")


def _parse_math(text: str) -> str | None:
    found = math_answers.last_boxed(text)
    tail = _after_marker(text)
    if found is None and tail is not None:
        found = _marked(tail.split("\n", 1)[0].replace("\\$", ""))
    number = None if found is None else _number(found)
    return found if number is None else _canonical(number)


def _marked(line: str) -> str | None:
    if "$" in line or "\\" in line:
        return math_answers.marked_expression(line)
    sentence = _first_sentence(line).strip(" \t*")
    number = _NUMBER.match(sentence)
    if number and _UNITS.fullmatch(sentence, number.end()):
        return _canonical_match(number)
    return sentence if 0 < len(sentence.split()) <= _MAX_WORDS else None


def _after_marker(text: str) -> str | None:
    marker = _last(_MARKER, text)
    return None if marker is None else text[marker.end():].lstrip(" \t\r\n:*=")


def _first_sentence(text: str) -> str:
    return _SENTENCE.split(text.split("\n", 1)[0], maxsplit=1)[0]


def _last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    return max(pattern.finditer(text), key=re.Match.start, default=None)


def _canonical_match(match: re.Match[str] | None) -> str | None:
    value = None if match is None else _value(match)
    return None if value is None else _canonical(value)


def _number(text: str) -> Fraction | None:
    """The number a short text is; a currency or percent sign and a full stop may stand by it."""
    stripped = _SIGNS.sub("", text.strip())
    match = _NUMBER.fullmatch(stripped)
    return None if match is None else _value(match)


def _value(match: re.Match[str]) -> Fraction | None:
    digits = match["value"].replace(",", "")
    denominator = match["denominator"] or "1"
    if max(len(digits), len(denominator)) > _MAX_DIGITS or not int(denominator):
        return None
    value = Fraction(digits + (match["exponent"] or "")) / int(denominator)
    negative = "-" in match[0].replace("−", "-")[: match.start("value") - match.start()]
    return -value if negative else value


def _canonical(value: Fraction) -> str:
    with localcontext(prec=4 * _MAX_DIGITS):
        decimal = Decimal(value.numerator) / Decimal(value.denominator)
        exact = Fraction(decimal) == value
        return format(decimal.normalize(), "f") if exact else str(value)


def _words(text: str) -> str:
    """The answer in lower case if it is a word or several, such as a name; else empty."""
    plain = " ".join(_TEXT.sub(r"\1", text).split()).removesuffix(".")
    return plain.casefold() if _WORD.fullmatch(plain) else ""
