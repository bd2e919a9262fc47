"""Which of N sampled answers to keep: rules, streaming, generation and scoring in one place.

Names that need PyTorch are imported when first used, so that ``validator --help`` stays quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from validator.plugins.rerank.candidates import prompt_candidates, read_candidates
from validator.plugins.rerank.choose import RULES, Choice, Rule, choose, rank

if TYPE_CHECKING:
    from validator.plugins.rerank.generate import Generation, generate_best_of_n, sample_and_read
    from validator.plugins.rerank.stream import (
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
    "Generation",
    "Reranked",
    "Reranker",
    "Rule",
    "choose",
    "generate_best_of_n",
    "make_validator",
    "prompt_candidates",
    "rank",
    "read_candidates",
    "rerank",
    "sample_and_read",
]

_HOMES = dict.fromkeys(
    ("VALIDITY", "Candidate", "Reranked", "Reranker", "make_validator", "rerank"), "stream",
) | dict.fromkeys(("Generation", "generate_best_of_n", "sample_and_read"), "generate")


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
