"""Rules of choosing, against plain counting."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from validator.errors import ParameterError, ScoreError
from validator.plugins.rerank import RULES, choose, rank

SCORES = [0.2, 0.9, 0.5, 0.4, 0.6]
ANSWERS = ["7", "8", "7.0", None, "7"]


def test_best_keeps_the_highest_score() -> None:
    found = choose(SCORES, ANSWERS)
    assert found.index == 1
    assert found.ranking == (1, 4, 2, 3, 0)
    assert found.votes == {}
    assert found.reason == "highest score of 5: 0.900, next 0.600"


def test_majority_counts_equal_numbers_together_and_keeps_the_best_of_them() -> None:
    found = choose(SCORES, ANSWERS, "majority")
    assert found.index == 4
    assert found.votes == {"7": 3.0, "8": 1.0}
    assert found.reason == "answer 7 has 3 of 4 votes, next 8 with 1"


def test_weighted_sums_scores() -> None:
    found = choose([0.2, 0.9, 0.1, 0.4, 0.3], ANSWERS, "weighted")
    assert found.index == 1
    assert found.votes == pytest.approx({"8": 0.9, "7": 0.6})
    assert "0.90 of 1.50 summed P(valid)" in found.reason


def test_filtered_drops_the_least_valid_share() -> None:
    answers = ["1", "1", "1", "2", "2", "3"]
    scores = [0.1, 0.2, 0.3, 0.8, 0.7, 0.9]
    found = choose(scores, answers, "filtered", keep=0.5)
    assert found.index == 3
    assert found.votes == {"2": 2.0, "3": 1.0}
    assert "among the 3 highest-scored of 6" in found.reason
    assert choose(scores, answers, "filtered", keep=1).votes == choose(
        scores, answers, "majority").votes


def test_top_k_of_one_is_best() -> None:
    assert choose(SCORES, ANSWERS, "top-k", k=1).index == choose(SCORES, ANSWERS).index
    assert choose(SCORES, ANSWERS, "top-k", k=3).votes == {"7": 2.0, "8": 1.0}


def test_a_tie_goes_to_the_answer_of_the_higher_ranked_candidate() -> None:
    found = choose([0.1, 0.2, 0.3, 0.4], ["a1", "b2", "a1", "b2"], "majority")
    assert found.index == 3
    assert "as many as a1" in found.reason
    assert choose([0.5, 0.5], ["1", "2"], "best").index == 0
    assert choose([0.5, 0.5], ["1", "2"], "best", ties=[0.1, 0.2]).index == 1


def test_candidates_without_a_score_rank_last_and_still_vote() -> None:
    found = choose([None, 0.1, None], ["4", "5", "4"], "majority")
    assert found.ranking == (1, 0, 2)
    assert (found.index, found.votes) == (0, {"4": 2.0, "5": 1.0})
    assert choose([None, 0.1, None], ["4", "5", "4"], "weighted").index == 1
    assert choose([None, None], ["4", "5"]).reason == (
        "no candidate has a score; the first is kept")


def test_without_answers_the_best_is_kept_and_the_reason_says_so() -> None:
    found = choose([0.1, 0.7], [None, None], "majority")
    assert found.index == 1
    assert found.reason.startswith("no candidate that votes has an answer")


@pytest.mark.parametrize(("change", "error", "match"), [
    ({"rule": "bogus"}, ParameterError, "known: best, majority"),
    ({"rule": "filtered", "keep": 0.0}, ParameterError, "keep"),
    ({"rule": "top-k", "k": 0}, ParameterError, "k must be"),
    ({"scores": [], "answers": []}, ParameterError, "at least one"),
    ({"scores": [0.1], "answers": ["1", "2"]}, ParameterError, "one answer"),
    ({"scores": [math.nan], "answers": ["1"]}, ScoreError, "NaN"),
    ({"scores": [-3.0], "answers": ["1"], "rule": "weighted"}, ScoreError, "filtered"),
])
def test_refused(change: dict[str, object], error: type[Exception], match: str) -> None:
    settings = {"scores": SCORES, "answers": ANSWERS} | change
    with pytest.raises(error, match=match):
        choose(**settings)  # type: ignore[arg-type]


@given(st.lists(st.tuples(st.floats(0, 1), st.sampled_from(["1", "2", "3", None])),
                min_size=1, max_size=12), st.sampled_from(list(RULES)))
def test_the_winner_is_what_counting_says(rows: list[tuple[float, str | None]], rule: str) -> None:
    scores, answers = [s for s, _ in rows], [a for _, a in rows]
    found = choose(scores, answers, rule)  # type: ignore[arg-type]
    assert sorted(found.ranking) == list(range(len(rows)))
    assert [scores[i] for i in found.ranking] == sorted(scores, reverse=True)
    voters = {"filtered": -(-len(rows) // 2), "top-k": 4}.get(rule, len(rows))
    tally: Counter[str] = Counter()
    for i in found.ranking[:voters]:
        if answers[i] is not None and rule != "best":
            tally[str(answers[i])] += scores[i] if rule == "weighted" else 1
    if not tally:
        assert found.index == rank(scores)[0]
    else:
        assert tally[str(answers[found.index])] == pytest.approx(max(tally.values()))
