"""Walks by a model that was never trained on them: examples in the prompt, answers in English."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from validator.errors import ContextLengthError, ParameterError
from validator.models.loading import LoadedModel
from validator.training.decoding import Sampler, Sampling
from validator.types import Progress, Trace
from validator.windtunnels.contract import Problem
from validator.windtunnels.settings import PathTunnel

__all__ = ["SHOTS_SEED", "few_shot_prompt", "text_answers"]

SHOTS_SEED = 2_000_000
"""Of the problems that are shown solved."""
END = "\n\n"
"""What parts a solved problem from the next, and ends an answer."""


def few_shot_prompt(tunnel: PathTunnel, problem: Problem, examples: Sequence[Problem]) -> str:
    """The solved examples, then the problem, in the style ``text``."""
    solved = [tunnel.render(example, "text") for example in examples]
    shown = [f"{trace.prompt}{trace.completion}{END}" for trace in solved]
    return "".join([*shown, tunnel.render(problem, "text").prompt])


def text_answers(
    loaded: LoadedModel, tunnel: PathTunnel, problems: Sequence[Problem], *, shots: int = 3,
    seed: int = SHOTS_SEED, batch_size: int = 8, progress: Progress | None = None,
) -> list[Trace]:
    """Greedy answers in the style ``text``, judged exactly, like those of the symbol styles.

    An answer ends at its first blank line. What had not ended when it was half as long again as
    the longest right answer is ``truncated`` and wrong.

    Args:
        loaded: any causal LM.
        tunnel: whose problems these are.
        problems: to be answered, at least one.
        shots: solved problems before each, the same for all; none of them is among ``problems``.
        seed: of the solved problems.
        batch_size: most answers decoded together.
        progress: called with (answers done, all).

    Raises:
        ParameterError: no problems, or a negative number of shots.
        ContextLengthError: a prompt leaves no room for an answer.
    """
    if not problems or shots < 0:
        raise ParameterError(f"expected problems and 0 or more shots, got {len(problems)} and "
                             f"{shots}")
    examples = _examples(tunnel, {p.id for p in problems}, shots, seed)
    right = [tunnel.render(problem, "text").completion for problem in problems]
    longest = max(len(loaded.tokenizer(text, add_special_tokens=False)["input_ids"])
                  for text in right)
    how = Sampling(n=1, temperature=0, max_new_tokens=longest + longest // 2 + 2,
                   batch_size=batch_size)
    prompts = [few_shot_prompt(tunnel, problem, examples) for problem in problems]
    try:
        sampler = Sampler(loaded.model, loaded.tokenizer, prompts, how, (END,))
    except ContextLengthError as error:
        raise ContextLengthError(
            f"{shots} solved problems and one to solve, up to {how.max_new_tokens} tokens long, do "
            f"not fit the positions of {loaded.name}; take fewer shots, or smaller problems"
        ) from error
    found: dict[int, Trace] = {}
    for chunk in sampler.chunks:
        for i, (drawn,) in zip(chunk, sampler.draw(chunk), strict=True):
            found[i] = _judged(tunnel, problems[i], drawn.text, drawn.finished, loaded.name)
        if progress is not None:
            progress(len(found), len(problems))
    return [found[i] for i in range(len(problems))]


def _examples(tunnel: PathTunnel, taken: set[str], shots: int, seed: int) -> list[Problem]:
    rng, found = np.random.default_rng(seed), list[Problem]()
    while len(found) < shots:
        drawn = tunnel.sample(rng)
        if drawn.id not in taken:
            found.append(drawn)
    return found


def _judged(tunnel: PathTunnel, problem: Problem, text: str, finished: bool, source: str) -> Trace:
    trace = tunnel.judge(problem, "text", text.strip("\n"), trace_id=f"{problem.id}#{source}",
                         source=source)
    if finished:
        return trace
    return Trace(trace.id, trace.problem_id, trace.prompt, trace.completion, 0, trace.steps,
                 trace.step_labels, trace.source, status="truncated", meta=trace.meta)
