"""A model's own answers to the questions of a probe, as traces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from validator.errors import ParameterError
from validator.features.untouched import evaluating
from validator.training.answers import AnswerStyle, check, parse_answer
from validator.training.decoding import Continuation, Sampler, Sampling
from validator.training.problems import Problem, PromptFormat
from validator.types import Progress, Status, Trace

__all__ = ["Asking", "Question", "accuracy", "own_answers", "questions_of"]

EMPTY = " "
"""In place of an answer that ended at once: a trace needs a completion."""


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, and the right answer where it is known."""

    id: str
    prompt: str
    target: str | None = None


@dataclass(frozen=True, slots=True)
class Asking:
    """How a model is asked. The defaults are those of one-step word problems, greedily."""

    sampling: Sampling = Sampling(n=1, temperature=0, max_new_tokens=64)  # noqa: RUF009
    stop: tuple[str, ...] = ("\n",)
    answer_style: AnswerStyle = "integer"

    @classmethod
    def greedily(cls, prompt: PromptFormat) -> Asking:
        """As a problem set asks, one answer each, the likeliest token every time."""
        return cls(Sampling(n=1, temperature=0, max_new_tokens=prompt.max_new_tokens),
                   prompt.stop, prompt.answer_style)


def questions_of(source: Sequence[Trace] | Sequence[Problem], prompt: PromptFormat | None = None
                 ) -> list[Question]:
    """The different prompts of traces, or those a format makes of problems, in their order.

    A trace's target is the ``target`` of its ``meta``. Raises ParameterError for problems without
    a format.
    """
    found: dict[str, Question] = {}
    for item in source:
        if isinstance(item, Trace):
            target = item.meta.get("target")
            own = Question(item.problem_id, item.prompt, None if target is None else str(target))
        elif prompt is None:
            raise ParameterError("problems are asked in some format; pass one")
        else:
            own = Question(item.id, prompt.prompt(item.question), item.target)
        found.setdefault(own.prompt, own)
    return list(found.values())


def own_answers(
    model: Any, tokenizer: Any, questions: Sequence[Question], asking: Asking, *,
    progress: Progress | None = None,
) -> list[Trace]:
    """What the model answers, by question and then by sample.

    The model is left as it was found, and so is the state of torch's random numbers. An answer is
    valid if it equals its question's target; without a target it has no label.
    Raises ContextLengthError for a prompt that leaves no room for an answer.
    """
    with evaluating(model):
        sampler = Sampler(model, tokenizer, [q.prompt for q in questions], asking.sampling,
                          asking.stop)
        drawn: dict[int, list[Continuation]] = {}
        for chunk in sampler.chunks:
            drawn |= dict(zip(chunk, sampler.draw(chunk), strict=True))
            if progress is not None:
                progress(len(drawn), len(questions))
    return [_trace(q, k, c, asking.answer_style) for i, q in enumerate(questions)
            for k, c in enumerate(drawn[i])]


def accuracy(answers: Sequence[Trace]) -> float | None:
    """Share of the answers that are right, in [0, 1]; None where a target is not known."""
    labels = [t.label for t in answers]
    known = [label for label in labels if label is not None]
    return sum(known) / len(known) if known and len(known) == len(labels) else None


def _trace(question: Question, k: int, drawn: Continuation, style: AnswerStyle) -> Trace:
    answer = parse_answer(drawn.text, style)
    label = None
    if question.target is not None:
        label = int(answer is not None and check(answer, question.target, style))
    status: Status = "ok" if answer is not None else "unparsed"
    return Trace(
        f"{question.id}#own{k}", question.id, question.prompt, drawn.text or EMPTY, label,
        answer=answer, status=status if drawn.finished else "truncated")
