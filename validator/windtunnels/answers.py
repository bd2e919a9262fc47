"""What a model of symbols answers, greedily, and how often the whole answer is right."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from validator.errors import ParameterError
from validator.types import Progress, Trace
from validator.windtunnels.contract import Problem

__all__ = ["accuracy_by", "exact_accuracy", "greedy_answers", "greedy_ids", "likeliest"]

Choice = Callable[[Tensor], Tensor]
"""(B, V) logits -> (B,) token ids."""


def likeliest(logits: Tensor) -> Tensor:
    """The token of the largest logit: a greedy choice."""
    return logits.argmax(-1)


def greedy_answers(
    model: Any, tokenizer: Any, tunnel: Any, problems: Sequence[Problem], style: str, *,
    slack: int = 4, batch_size: int = 2048, source: str = "greedy", choose: Choice = likeliest,
    progress: Progress | None = None,
) -> list[Trace]:
    """Each problem's answer, judged; several hundred are decoded together.

    Args:
        model: a causal LM in evaluation mode.
        tokenizer: of its symbols, with an end token.
        tunnel: a tunnel with ``judge``; it says which steps are right.
        problems: to be answered.
        style: a token style.
        slack: tokens an answer may have beyond the longest right one and its end; what has not
            ended by then is ``truncated``.
        batch_size: most answers decoded together; only prompts of equal length are.
        source: of the traces; their ids end in it.
        choose: the next token of each answer; by default the greedy choice.
        progress: called with (answers done, all).

    Returns:
        (N,) traces in the order of the problems; label 1 only where the answer is right throughout
        and ended.
    """
    right = [tunnel.render(problem, style) for problem in problems]
    prompts = [tokenizer(t.prompt, add_special_tokens=False)["input_ids"] for t in right]
    longest = max((len(t.completion.split()) for t in right), default=0) + 1 + slack
    found: dict[int, Trace] = {}
    for rows in _equal_lengths(prompts, batch_size):
        written = greedy_ids(model, torch.tensor([prompts[i] for i in rows]), longest,
                             tokenizer.eos_token_id, choose)
        for i, ids in zip(rows, written, strict=True):
            found[i] = _judged(tunnel, problems[i], style, ids, tokenizer, source)
        if progress is not None:
            progress(len(found), len(problems))
    return [found[i] for i in range(len(problems))]


def _judged(
    tunnel: Any, problem: Problem, style: str, ids: list[int], tokenizer: Any, source: str
) -> Trace:
    ended = bool(ids) and ids[-1] == tokenizer.eos_token_id
    text = " ".join(tokenizer.convert_ids_to_tokens(ids[:-1] if ended else ids))
    trace: Trace = tunnel.judge(
        problem, style, text, trace_id=f"{problem.id}#{source}", source=source)
    if ended:
        return trace
    return Trace(trace.id, trace.problem_id, trace.prompt, trace.completion, 0, trace.steps,
                 trace.step_labels, trace.source, status="truncated", meta=trace.meta)


def _equal_lengths(prompts: Sequence[Sequence[int]], most: int) -> Iterator[list[int]]:
    groups: dict[int, list[int]] = defaultdict(list)
    for i, prompt in enumerate(prompts):
        groups[len(prompt)].append(i)
    for _, rows in sorted(groups.items()):
        yield from (rows[first:first + most] for first in range(0, len(rows), most))


@torch.inference_mode()
def greedy_ids(
    model: Any, prompts: Tensor, most: int, end: int, choose: Choice = likeliest
) -> list[list[int]]:
    """The likeliest token again and again, with the keys and values of what came before kept.

    Args:
        model: a causal LM in evaluation mode.
        prompts: (B, T) token ids without padding.
        most: tokens written at most.
        end: id after which an answer is over.
        choose: another choice of the next token.

    Returns:
        (B,) ids of each answer, its end included where it came.
    """
    ids, cache = prompts, None
    columns: list[Tensor] = []
    done = torch.zeros(len(prompts), dtype=torch.bool)
    while len(columns) < most and not done.all():
        seen = torch.ones(len(prompts), prompts.shape[1] + len(columns), dtype=torch.long)
        output = model(input_ids=ids, attention_mask=seen, past_key_values=cache, use_cache=True,
                       logits_to_keep=1)
        chosen, cache = choose(output.logits[:, -1]), output.past_key_values
        columns.append(chosen)
        done |= chosen == end
        ids = chosen[:, None]
    rows = torch.stack(columns, 1).tolist() if columns else [[] for _ in prompts]
    return [row[: row.index(end) + 1] if end in row else row for row in rows]


def exact_accuracy(answers: Sequence[Trace]) -> float:
    """Share of answers that are right throughout, in [0, 1]. Raises ParameterError for none."""
    if not answers:
        raise ParameterError("no answers: an accuracy needs at least one")
    return sum(trace.label == 1 for trace in answers) / len(answers)


def accuracy_by(
    answers: Sequence[Trace], of: Callable[[Trace], Any] = lambda trace: trace.meta["depth"]
) -> Mapping[Any, tuple[float, int]]:
    """Group -> (exact accuracy, answers); the groups ascending, by default depths of the goal."""
    groups: dict[Any, list[Trace]] = defaultdict(list)
    for trace in answers:
        groups[of(trace)].append(trace)
    return {key: (exact_accuracy(group), len(group)) for key, group in sorted(groups.items())}
