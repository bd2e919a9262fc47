"""Best of N with vLLM: generate candidates on the machine with the GPU, choose among them here.

    python vllm_best_of_n.py --model Qwen/Qwen2.5-1.5B-Instruct --problems one-step -n 16 \
        -o candidates.jsonl
    validator rerank candidates.jsonl -o chosen.jsonl

Needs vllm and spectral-validator. Each line of the file is one problem: its prompt, N texts, and
what is known of them, so that the choice can be judged as well.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from validator.training.answers import check, parse_answer
from validator.training.problems import (
    Problem,
    PromptFormat,
    problem_set,
    problem_set_names,
    prompt_format,
    read_problems,
)

__all__ = ["candidate_lines", "main"]


def candidate_lines(
    outputs: Sequence[Any], problems: Sequence[Problem], style: PromptFormat
) -> list[dict[str, Any]]:
    """What ``validator rerank`` reads, one dictionary a problem.

    Args:
        outputs: vLLM's ``RequestOutput`` of each problem, in the problems' order.
        problems: with their right answers.
        style: how they were asked.

    Raises:
        ValueError: an output is missing, or stands at another problem's place.
    """
    lines = []
    for output, problem in zip(outputs, problems, strict=True):
        prompt = style.prompt(problem.question)
        if output.prompt != prompt:
            raise ValueError(f"the output at problem {problem.id!r} continues another prompt")
        texts = [_cut(c.text, style) for c in sorted(output.outputs, key=lambda c: c.index)]
        answers = [parse_answer(text, style.answer_style) for text in texts]
        lines.append({
            "id": problem.id, "prompt": prompt, "candidates": texts, "answers": answers,
            "labels": [int(a is not None and check(a, problem.target, style.answer_style))
                       for a in answers],
        })
    return lines


def _cut(text: str, style: PromptFormat) -> str:
    """Up to the first stop string, which vLLM leaves out unless told otherwise."""
    return text[: min((text.find(s) for s in style.stop if s in text), default=len(text))]


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True, help="what vLLM loads")
    parser.add_argument("--problems", required=True,
                        help=f"{', '.join(problem_set_names())}, or a JSONL file with question and "
                             "answer on each line")
    parser.add_argument("--count", type=int, default=100, help="how many problems (default: 100)")
    parser.add_argument("-n", type=int, default=16, help="answers to each (default: 16)")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--temperature", type=float, default=0.6)
    parser.add_argument("--max-new-tokens", type=int, help="default: the problem set's")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Generate and write; 1 where vllm is not installed."""
    args = _arguments(argv)
    try:
        from vllm import LLM, SamplingParams
    except ImportError:
        sys.stderr.write("this example generates with vLLM: `pip install vllm`, on a machine with "
                         "a GPU that it supports\n")
        return 1
    style = prompt_format(args.problems)
    if args.max_new_tokens is not None:
        style = replace(style, max_new_tokens=args.max_new_tokens)
    problems = (problem_set(args.problems, args.count, args.seed)
                if args.problems in problem_set_names()
                else read_problems(Path(args.problems))[: args.count])
    llm = LLM(model=args.model, seed=args.seed, enable_prefix_caching=True)
    outputs = llm.generate(
        [style.prompt(p.question) for p in problems],
        SamplingParams(n=args.n, temperature=args.temperature, max_tokens=style.max_new_tokens,
                       stop=list(style.stop), seed=args.seed))
    lines = candidate_lines(outputs, problems, style)
    args.output.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
