"""Answer checking against cases whose truth was written by hand."""

from __future__ import annotations

import itertools
import logging
from concurrent.futures import ThreadPoolExecutor

import pytest

from validator.errors import LabelError, ParameterError
from validator.training.answers import (
    STYLES,
    answer_key,
    answers_equal,
    check,
    equivalence_classes,
    parse_answer,
)


@pytest.mark.parametrize(("text", "expected"), [
    ("The answer is 12 apples.", "12"),
    ("The answer is $1,200.50.", "1200.5"),
    ("Some work = 7\nA: -3", "-3"),
    ("so 5\n#### 1,080", "1080"),
    ("#### -$40", "-40"),
    ("#### $-40", "-40"),
    ("The answer is −7", "-7"),
    ("The answer is 8.0", "8"),
    ("The answer is 8.", "8"),
    ("The answer is .5", "0.5"),
    ("the final answer is: **42**", "42"),
    ("Answer: 9", "9"),
    ("The answer is\n\n13", "13"),
    ("The answer is 1. No: the answer is 2.", "2"),
    ("The answer is 3/4 of a cup", "0.75"),
    ("The answer is 1/3.", "1/3"),
    ("The answer is 50%.", "50"),
    ("The answer is \\$5", "5"),
    ("The answer is $12$.", "12"),
    ("The answer is 1e3", "1000"),
    ("The answer is 007", "7"),
    ("The answer is 10-15", "10"),
    ("16 - 3 = 13 ducks", None),
    ("no answer", None),
    ("", None),
    ("The answer is", None),
    ("The answer is unknown. Step 3 was wrong.", None),
    ("The answer is 5. Wait, the answer is unclear", None),
    ("A: none", None),
    ("Plan A: 5 boxes", None),
    ("The answer is 1/0", None),
    ("The answer is 0." + "3" * 5000, None),
])
def test_integer_style(text: str, expected: str | None) -> None:
    assert parse_answer(text, "integer") == expected


@pytest.mark.parametrize(("text", "expected"), [
    ("16 - 3 = 13 ducks", "13"),
    ("costs $1,200.50", "1200.5"),
    ("x = -3", "-3"),
    ("5-3", "3"),
    ("5 - 3", "3"),
    ("from 3 to 4.", "4"),
    ("CO2 and v1.2 beat 7", "7"),
    ("7 for CO2", "7"),
    ("it is...5", "5"),
    ("no answer", None),
])
def test_last_number_style(text: str, expected: str | None) -> None:
    assert parse_answer(text, "last-number") == expected


@pytest.mark.parametrize(("text", "expected"), [
    ("so \\boxed{\\frac{1}{2}}.", "\\frac{1}{2}"),
    ("first \\boxed{3}, then \\boxed{4}", "4"),
    ("\\boxed{x^{2}+\\frac{a}{b}} done", "x^{2}+\\frac{a}{b}"),
    ("\\boxed {1,200.50}", "1200.5"),
    ("\\boxed{7} and an open \\boxed{8", "7"),
    ("The answer is $\\frac{3}{4}$.", "\\frac{3}{4}"),
    ("The answer is x^2+1.", "x^2+1"),
    ("The answer is (3, 4).", "(3, 4)"),
    ("The answer is 12 apples.", "12"),
    ("The answer is Monday.", "Monday"),
    ("The answer is \\$5.", "5"),
    ("The answer is hard to find, and so we go on looking for it", None),
    ("it follows that $x=3$", None),
    ("\\boxed{", None),
    ("\\boxed{}", None),
    ("no answer", None),
])
def test_math_style(text: str, expected: str | None) -> None:
    assert parse_answer(text, "math") == expected


EQUAL = [
    ("\\frac{1}{2}", "0.5"), ("\\frac{1}{2}", "1/2"), ("\\frac12", ".50"), ("\\dfrac{1}{2}", "0.5"),
    ("1,200.50", "1200.5"), ("$5", "5"), ("\\$5", "5"), ("50\\%", "50"), ("8.0", "8"),
    ("x+1", "1+x"), ("(x+1)^2", "x^2+2x+1"), ("\\sqrt{2}/2", "\\frac{1}{\\sqrt{2}}"),
    ("x=3", "3"), ("\\text{Monday}", "monday"), ("(A)", "A"), ("12\\text{ cm}", "12"),
    ("2^{10}", "1024"), ("\\pi", "\\pi"), ("1,2", "2,1"), ("-0", "0"),
    ("1<x<2", "(1,2)"),
    ("\\begin{pmatrix}1\\\\2\\end{pmatrix}", "\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}"),
]
UNEQUAL = [
    ("1/3", "0.333333"), ("\\frac{1}{3}", "0.333333"), ("50\\%", "0.5"), ("3", "-3"),
    ("x+1", "x-1"),
    ("(3,4)", "(4,3)"), ("Monday", "dynamo"), ("Monday", "12"), ("", "0"), ("\\pi", "3"),
    ("\\pi", "3.14"), ("12", "120"), ("\\frac{1}{2}", "\\frac{2}{1}"), ("1200", "1,20"),
]


@pytest.mark.parametrize(("a", "b"), EQUAL)
def test_equal_answers(a: str, b: str) -> None:
    assert answers_equal(a, b)
    assert answers_equal(b, a)


@pytest.mark.parametrize(("a", "b"), UNEQUAL)
def test_unequal_answers(a: str, b: str) -> None:
    assert not answers_equal(a, b)
    assert not answers_equal(b, a)


def test_equal_keys_exactly_where_numbers_are_equal() -> None:
    numbers = ["0.5", "1/2", "\\frac{1}{2}", "8", "8.0", "-3", "1,200", "1200.00", "1e3", "1000"]
    truth = [0.5, 0.5, 0.5, 8, 8, -3, 1200, 1200, 1000, 1000]
    for (a, x), (b, y) in itertools.combinations(zip(numbers, truth, strict=True), 2):
        assert (answer_key(a) == answer_key(b)) == (x == y)


@pytest.mark.parametrize(("answer", "key"), [
    ("1,200.50", "1200.5"), ("\\frac{1}{2}", "0.5"), ("1/3", "1/3"), ("1000000", "1000000"),
    ("Monday", "monday"), ("\\text{New York}", "new york"), ("1+x", "x + 1"), ("100", "100"),
])
def test_answer_key(answer: str, key: str) -> None:
    assert answer_key(answer) == key


@pytest.mark.timeout(60)
@pytest.mark.parametrize("huge", [
    "9^{9^{9^{9}}}", "10^{10^{10}}", "((9^{999})^{999})^{999}", "999999!", "(3!)!^{99999}",
    "\\int_0^1 e^{x^2} dx", "\\sum_{k=1}^{10^9} k", "(x+y+z)^{900}", "1" * 5000, "{" * 500,
])
def test_expressions_too_large_to_evaluate_are_compared_as_text(huge: str) -> None:
    assert answers_equal(huge, huge)
    assert not answers_equal(huge, "3")
    assert not answers_equal(huge, "x+1")


def test_check_reads_targets_as_written() -> None:
    assert check("1080", "1,080", "integer")
    assert check("0.5", "1/2", "last-number")
    assert not check("1081", "1,080", "integer")
    assert not check(None, "1", "integer")
    assert not check(None, "x", "math")
    assert not check("unclear", "12", "integer")
    assert check("\\frac{1}{2}", "0.5", "math")


def test_a_target_that_is_no_number_is_an_error_in_numeric_styles() -> None:
    with pytest.raises(LabelError, match="'x\\+1' is not a number"):
        check("3", "x+1", "integer")


def test_an_unknown_style_is_an_error() -> None:
    with pytest.raises(ParameterError, match="known: integer, last-number, math"):
        parse_answer("3", "float")  # type: ignore[arg-type]
    assert STYLES == ("integer", "last-number", "math")


def test_math_answers_are_checked_in_threads_without_a_word(
    caplog: pytest.LogCaptureFixture,
) -> None:
    pairs = [(f"\\frac{{{n}}}{{7}}", f"\\frac{{{3 * n}}}{{21}}") for n in range(1, 9)]
    pairs += [("\\boxed", "\\sqrt{2}"), ("\\sqrt{8}", "2\\sqrt{2}")]
    with caplog.at_level(logging.DEBUG), ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda pair: answers_equal(*pair), pairs))
    assert results == [True] * 8 + [False, True]
    assert "Timeout" not in caplog.text


def test_equal_answers_share_a_class() -> None:
    answers = ["18", None, "18.0", "$18", "x + 1", "1+x", "Anna", "anna", "19", r"\frac{1}{2}",
               "0.5"]
    assert equivalence_classes(answers) == [0, None, 0, 0, 4, 4, 6, 6, 8, 9, 9]
    assert equivalence_classes([]) == []


def test_classes_agree_with_pairwise_equality() -> None:
    answers = ["3", "x=3", "2x", "x+x", "1/3", "0.3333", "[invalid]", "(1, 2)", "(1,2)"]
    classes = equivalence_classes(answers)
    for i, a in enumerate(answers):
        for j, b in enumerate(answers):
            if classes[i] == classes[j]:
                assert i == j or any(answers_equal(a, c) for k, c in enumerate(answers)
                                     if k != i and classes[k] == classes[i]), (a, b)
            else:
                assert not answers_equal(a, b), (a, b)
