"""Choosing among a model's own answers by what its spectra say of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from validator.errors import LabelError
from validator.training.reranking import RerankingReport, judge_reranking
from validator.types import Trace
from validator.windtunnels.study_judging import Contest, cross_fitted
from validator.windtunnels.study_signals import Signals

__all__ = ["SCORES", "rerank"]

SCORES = ("log-prob", "attention", "log-prob + attention", "baselines", "baselines + both")
"""What answers are ranked by; the last is compared with all others."""


def rerank(
    answers: Sequence[Trace], signals: Signals, *, seed: int, n_resamples: int
) -> RerankingReport | None:
    """Every way of choosing, over all answers whatever their length; scores are out of fold.

    Args:
        answers: several to each problem, labelled; equal completions vote together.
        signals: of the answers.
        seed: of folds and resamples.
        n_resamples: of problems.

    Returns:
        None where there is nothing to choose among: too few right or wrong answers.
    """
    labels = np.array([t.label for t in answers], dtype=np.int64)
    problems = np.array([t.problem_id for t in answers])
    contest = Contest(signals, labels, problems, np.zeros(len(answers), dtype=np.str_))
    try:
        scores = cross_fitted(contest, seed=seed, only=SCORES)
        return judge_reranking(
            labels, problems, _ballots(answers),
            {name: scores[name] for name in SCORES}, learned=SCORES[-1], seed=seed,
            n_resamples=n_resamples, chances=1 / (1 + np.exp(-scores[SCORES[-1]])))
    except LabelError:
        return None


def _ballots(answers: Sequence[Trace]) -> list[str]:
    """A number for each distinct completion: numbers are compared at once, symbols as algebra."""
    numbers = {text: i for i, text in enumerate(dict.fromkeys(t.completion for t in answers))}
    return [str(numbers[t.completion]) for t in answers]
