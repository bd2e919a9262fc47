"""Which of N candidates to keep: the rules, as functions of scores and answers alone.

One tie rule everywhere: candidates rank by score, then by what breaks ties, then the earlier first;
of two answers with equal votes the one that holds the higher-ranked candidate wins.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from validator.errors import ParameterError, ScoreError
from validator.training.answers import equivalence_classes

__all__ = ["RULES", "Choice", "Rule", "choose", "rank"]

Rule = Literal["best", "majority", "weighted", "filtered", "top-k"]
RULES: Mapping[Rule, str] = {
    "best": "the candidate with the highest score (best of N)",
    "majority": "the answer that most candidates give (self-consistency)",
    "weighted": "the answer with the largest sum of P(valid)",
    "filtered": "drop the least valid share, then majority vote",
    "top-k": "majority vote among the k highest-scored candidates",
}
assert set(RULES) == set(get_args(Rule))


@dataclass(frozen=True, slots=True)
class Choice:
    """What a rule kept."""

    index: int
    """Of the chosen candidate: the highest-ranked one with the winning answer."""
    ranking: tuple[int, ...]
    """All candidates, best first; those without a score last, in the order given."""
    votes: Mapping[str, float]
    """Answer -> its votes, or sum of P(valid), largest first; empty where nothing was voted on."""
    reason: str
    """Why, in a sentence."""


def choose(
    scores: Sequence[float | None], answers: Sequence[str | None], rule: Rule = "best", *,
    ties: Sequence[float | None] | None = None, keep: float = 0.5, k: int = 4,
) -> Choice:
    """Choose one of N >= 1 candidates.

    Args:
        scores: (N,) higher is better; None for a candidate without a score, which ranks last.
        answers: (N,) as parsed; None does not vote. Answers that are equal as mathematics vote
            together.
        rule: one of :data:`RULES`. Where no candidate has an answer to vote on, ``best``, and the
            reason says so.
        ties: (N,) what equal scores are ranked by, higher first, e.g. the margins behind P(valid).
        keep: for ``filtered``, the share that is kept, in (0, 1]; rounded up.
        k: for ``top-k``, how many vote.

    Raises:
        ParameterError: no candidates, an unknown rule, ``keep`` or ``k`` out of range.
        ScoreError: NaN; or ``weighted`` with scores that are no probabilities.
    """
    _check(scores, answers, rule, keep, k)
    ranking = rank(scores, ties)
    voters = _voters(ranking, rule, keep, k)
    classes = equivalence_classes(answers) if rule != "best" else [None] * len(answers)
    tally = _tally(voters, classes, scores, rule)
    if not tally:
        fallback = "" if rule == "best" else "no candidate that votes has an answer; "
        return Choice(ranking[0], ranking, {}, fallback + _best_reason(ranking, scores, answers))
    place = {i: p for p, i in enumerate(ranking)}
    members = {c: [i for i in voters if classes[i] == c] for c in tally}
    order = sorted(tally, key=lambda c: (-tally[c], min(place[i] for i in members[c])))
    chosen = min(members[order[0]], key=lambda i: place[i])
    votes = {str(answers[min(members[c], key=lambda i: place[i])]): tally[c] for c in order}
    return Choice(chosen, ranking, votes, _vote_reason(votes, rule, len(voters), len(scores)))


def rank(
    scores: Sequence[float | None], ties: Sequence[float | None] | None = None
) -> tuple[int, ...]:
    """Positions by descending score, then tie-breaker; None last; earlier first if all is equal."""
    second = [None] * len(scores) if ties is None else ties
    return tuple(sorted(range(len(scores)), key=lambda i: (_key(scores[i]), _key(second[i]))))


def _key(score: float | None) -> float:
    return math.inf if score is None else -score


def _check(scores: Sequence[float | None], answers: Sequence[str | None], rule: str, keep: float,
           k: int) -> None:
    if not scores or len(scores) != len(answers):
        raise ParameterError(f"expected one answer (or None) for each of at least one score, got "
                             f"{len(scores)} scores and {len(answers)} answers")
    if rule not in RULES:
        raise ParameterError(f"unknown rule {rule!r}; known: {', '.join(RULES)}")
    if not 0 < keep <= 1:
        raise ParameterError(f"keep must be in (0, 1], got {keep}")
    if k < 1:
        raise ParameterError(f"k must be at least 1, got {k}")
    known = [s for s in scores if s is not None]
    if any(math.isnan(s) for s in known):
        raise ScoreError("a score is NaN; give None for a candidate without a score")
    if rule == "weighted" and known and not 0 <= min(known) <= max(known) <= 1:
        raise ScoreError(
            f"the rule 'weighted' sums P(valid), which lies in [0, 1]; got scores in "
            f"[{min(known):g}, {max(known):g}]. Vote with 'filtered' or 'top-k', which only rank")


def _voters(ranking: Sequence[int], rule: Rule, keep: float, k: int) -> list[int]:
    if rule == "filtered":
        # 0.3 of 10 is 3, although 0.3 * 10 in floating point is more
        return list(ranking[: math.ceil(keep * len(ranking) - 1e-9)])
    return list(ranking[:k]) if rule == "top-k" else list(ranking)


def _tally(voters: Sequence[int], classes: Sequence[int | None],
           scores: Sequence[float | None], rule: Rule) -> dict[int, float]:
    ballots: dict[int, list[float]] = {}
    for i in voters:
        kind = classes[i]
        if kind is not None:
            weight = (scores[i] or 0.0) if rule == "weighted" else 1.0
            ballots.setdefault(kind, []).append(weight)
    return {kind: math.fsum(weights) for kind, weights in ballots.items()}


def _best_reason(ranking: Sequence[int], scores: Sequence[float | None],
                 answers: Sequence[str | None]) -> str:
    best = scores[ranking[0]]
    if best is None:
        return "no candidate has a score; the first is kept"
    tied = sum(s == best for s in scores)
    said = f"highest score of {len(scores)}: {best:.3f}"
    if tied > 1:
        return f"{said}, shared by {tied}; the earliest is kept"
    second = scores[ranking[1]] if len(ranking) > 1 else None
    return said if second is None else f"{said}, next {second:.3f}"


def _vote_reason(votes: Mapping[str, float], rule: Rule, voters: int, total: int) -> str:
    (winner, most), *others = votes.items()
    if rule == "weighted":
        said = f"answer {winner} has {most:.2f} of {math.fsum(votes.values()):.2f} summed P(valid)"
    else:
        who = "" if voters == total else f" among the {voters} highest-scored of {total}"
        said = f"answer {winner} has {most:.0f} of {math.fsum(votes.values()):.0f} votes{who}"
    if not others:
        return f"{said}; no other answer was given"
    second, count = others[0]
    if count == most:
        return f"{said}, as many as {second}; it holds the higher-ranked candidate"
    shown = f"{count:.2f}" if rule == "weighted" else f"{count:.0f}"
    return f"{said}, next {second} with {shown}"
