"""A benchmark of twelve sums, and a model that answers by heart."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what lm-eval and its dependencies say of each other
    from lm_eval.api.model import LM

N = 12


class Parrot(LM):
    """Gives the k-th response of a list to the k-th request of a prompt."""

    def __init__(self, answer: Callable[[str, int], str]) -> None:
        super().__init__()
        self.answer, self.asked = answer, 0

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        seen: dict[str, int] = {}
        found = []
        for request in requests:
            prompt = request.args[0]
            found.append(self.answer(prompt, seen.get(prompt, 0)))
            seen[prompt] = seen.get(prompt, 0) + 1
        self.asked += len(requests)
        return found

    def loglikelihood(self, requests: Any, disable_tqdm: bool = False) -> Any:
        raise NotImplementedError

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> Any:
        raise NotImplementedError


def questions() -> list[dict[str, str]]:
    """Sums; the answer of document i is 2 i + 1."""
    return [{"question": f"What is {i} + {i + 1}?", "answer": f"{i} + {i + 1} = {2 * i + 1}"
             f"\n#### {2 * i + 1}"} for i in range(N)]


def right_or_wrong(prompt: str, k: int) -> str:
    """Every third document wrong, and of several responses every second one off by k."""
    question = prompt.rsplit("Question: ", 1)[1]
    i = int(question.split()[2])
    value = 2 * i + 1 + (100 if i % 3 == 0 else 0) + (k if k % 2 else 0)
    return f" {i} and one more make {value}." + " Yes." * (i % 4) + f"\n#### {value}"
