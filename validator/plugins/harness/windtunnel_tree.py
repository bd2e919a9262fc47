"""The task ``treepath_spectral``: walks in random trees, judged step by step and exactly.

A :class:`.task.SpectralTask` like the others, but that its documents are drawn, and that the
tunnel's verifier says what is right instead of a comparison with one answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from validator.plugins.harness.task import SpectralTask
from validator.plugins.harness.windtunnel_data import tree_of
from validator.plugins.harness.windtunnel_tokens import require_readable
from validator.windtunnels.tree_text import Move, node_name, read_move, step_spans

__all__ = ["TreePathTask", "judge_walk"]

SLACK = 5
"""Tokens beyond the longest solution that an answer may have: its end and a step too many."""

_LETTERS = str.maketrans("0123456789", "abcdefghij")


class TreePathTask(SpectralTask):
    """The spectral task of tree paths.

    A token style has no demonstrations, which models of symbols were not trained on, and no stop
    but the end token. An answer may be as long as the longest solution of the run: at most one
    token for each character of it in the style ``text``, and for each symbol in the others.
    ``--gen_kwargs max_gen_toks=N`` sets another limit.
    """

    def __init__(self, config: Mapping[str, Any], **kwargs: Any) -> None:
        self._style = str((config.get("metadata") or {}).get("style", "text"))
        if self._style != "text":
            generation = {**config["generation_kwargs"], "until": []}
            config = {**config, "num_fewshot": 0, "generation_kwargs": generation}
        super().__init__(config, **kwargs)
        solutions: Sequence[str] = self.dataset["test"]["solution"]
        longest = max(len(s if self._style == "text" else s.split()) for s in solutions)
        self.config.generation_kwargs.setdefault("max_gen_toks", longest + SLACK)

    def build_all_requests(self, **kwargs: Any) -> None:
        """As lm-eval's, once a tokenizer is known that can write the problems."""
        require_readable(self.dataset["test"][0]["prompt"], self.config.metadata or {})
        super().build_all_requests(**kwargs)

    def _answer(self, filtered: Any) -> str | None:
        """The walk as votes compare it; None if no step of it can be read.

        Digits are written as letters (``walk up-cf-bd``): answers that are mathematics are compared
        as such, and 25<13 is no inequality.
        """
        text = str(filtered)
        moves = [read_move(text[start:end], self._style)
                 for start, end in step_spans(text, self._style)]
        return " ".join(["walk", *map(_spelt, moves)]) if any(moves) else None


def judge_walk(document: Mapping[str, Any], results: Sequence[Any]) -> dict[str, float]:
    """What the verifier says of one response; ``process_results`` of the task.

    Args:
        document: a row of :func:`.windtunnel_data.treepath`.
        results: the response, as the filter left it.

    Returns:
        ``exact_match``: 1 if every step is right and the walk ends where it must, else 0.
        ``right_steps``: right steps as a share of those written or those of the solution, whichever
        are more, in [0, 1]; a step is right if it follows from those before it.
    """
    tunnel, problem = tree_of(document)
    found = tunnel.judge(problem, document["style"], str(results[0]), trace_id="answer")
    verdicts = [label == 1 for label in found.step_labels or ()]
    wanted = tunnel.render(problem, document["style"]).steps or ()
    return {"exact_match": float(found.label or 0),
            "right_steps": sum(verdicts) / max(len(verdicts), len(wanted))}


def _spelt(move: Move | None) -> str:
    if move is None:
        return "unread"
    nodes = [node_name(node) for node in (move.first, move.second) if node >= 0]
    return "-".join([move.kind, *(node.translate(_LETTERS) for node in nodes)])
