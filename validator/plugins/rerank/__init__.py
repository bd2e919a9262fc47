"""Which of N sampled answers to keep: rules, streaming, generation and scoring in one place."""

from __future__ import annotations

from validator.plugins.rerank.candidates import prompt_candidates, read_candidates
from validator.plugins.rerank.choose import RULES, Choice, Rule, choose, rank
from validator.plugins.rerank.rerank import (
    VALIDITY,
    Candidate,
    Reranked,
    Reranker,
    make_validator,
    rerank,
)

__all__ = [
    "RULES",
    "VALIDITY",
    "Candidate",
    "Choice",
    "Reranked",
    "Reranker",
    "Rule",
    "choose",
    "make_validator",
    "prompt_candidates",
    "rank",
    "read_candidates",
    "rerank",
]
