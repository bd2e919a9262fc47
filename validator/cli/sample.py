"""``validator sample``: a model's own answers to problems, checked, as traces."""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from validator.cli.console import add_command, console, error_console, print_json, progress, table

if TYPE_CHECKING:
    from validator.training.problems import Problem, PromptFormat
    from validator.training.sampling import SamplingRun

__all__ = ["register"]


def register(subparsers: Any) -> None:
    """Add the command."""
    parser = add_command(
        subparsers, "sample",
        "Sample N answers of a model to each problem and label them by checking the final answer. "
        "A run that is interrupted goes on where it stopped.",
        "validator sample --problems one-step --count 100 -n 8 -o traces.jsonl", run)
    parser.add_argument("--model", default="smollm2-135m-instruct",
                        help="known name, hub id or folder (default: smollm2-135m-instruct)")
    parser.add_argument("--problems", required=True, metavar="NAME|FILE",
                        help="one-step, two-step, arithmetic, gsm_symbolic, or a JSONL file with "
                             "question and answer on each line")
    parser.add_argument("--count", type=int,
                        help="how many problems (default: 100 of a named set, all of a file)")
    parser.add_argument("-n", type=int, default=8, help="answers to each problem (default: 8)")
    parser.add_argument("-o", "--output", type=Path, required=True, help="JSONL file to write")
    parser.add_argument("--temperature", type=float, default=0.6, help="default: 0.6; 0 is greedy")
    parser.add_argument("--top-p", type=float, default=1.0, help="nucleus sampling (default: 1)")
    parser.add_argument("--max-new-tokens", type=int, help="default: the problem set's")
    parser.add_argument("--batch-size", type=int, default=64,
                        help="answers decoded together; part of the seed (default: 64)")
    parser.add_argument("--seed", type=int, default=0,
                        help="of the problems and of the sampling (default: 0)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, mps (default: cpu)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's)")


def run(args: argparse.Namespace) -> int:
    """Sample, check, write, summarise."""
    import torch

    from validator.cli.scoreboard import command_line
    from validator.models.loading import load_model
    from validator.training.decoding import Sampling
    from validator.training.sampling import sample_traces

    if args.threads:
        torch.set_num_threads(args.threads)
    problems, prompt = _problems(args)
    sampling = Sampling(args.n, args.temperature, args.top_p, prompt.max_new_tokens, args.seed,
                        args.batch_size)
    loaded = load_model(args.model, device=args.device)
    started = time.perf_counter()
    with progress(f"sampling {len(problems)} problems x {args.n}") as advance:
        done = sample_traces(loaded, problems, prompt, sampling, args.output,
                             command=command_line(), progress=advance)
    seconds = time.perf_counter() - started
    lengths = [len(loaded.tokenizer.encode(t.completion, add_special_tokens=False))
               for t in done.traces]
    _show(done, lengths, seconds, args)
    return 0


def _problems(args: argparse.Namespace) -> tuple[list[Problem], PromptFormat]:
    from validator.errors import ParameterError
    from validator.training.problems import (
        problem_set,
        problem_set_names,
        prompt_format,
        read_problems,
    )

    if args.problems in problem_set_names() or not Path(args.problems).exists():
        problems = problem_set(args.problems, 100 if args.count is None else args.count, args.seed)
    else:
        if args.count is not None and args.count < 1:
            raise ParameterError(f"--count must be at least 1, got {args.count}")
        problems = read_problems(Path(args.problems))[: args.count]
    prompt = prompt_format(args.problems)
    if args.max_new_tokens is not None:
        prompt = replace(prompt, max_new_tokens=args.max_new_tokens)
    return problems, prompt


def _show(
    done: SamplingRun, lengths: list[int], seconds: float, args: argparse.Namespace
) -> None:
    traces = done.traces
    facts = {
        "traces": len(traces),
        "problems": len({t.problem_id for t in traces}),
        "right": round(sum(t.label or 0 for t in traces) / len(traces), 4),
        "length_auroc": _length_auroc([t.label or 0 for t in traces], lengths),
        "unparsed": sum(t.status == "unparsed" for t in traces),
        "truncated": sum(t.status == "truncated" for t in traces),
        "empty": done.empty,
        "found_finished": done.resumed,
        "seconds": round(seconds, 1),
        "tokens_per_second": round(done.tokens / seconds, 1),
        "shares_prefix": done.shares_prefix,
        "output": str(args.output),
    }
    if args.json:
        print_json(facts)
        return
    rows = [[name.replace("_", " "), str(value)] for name, value in facts.items()]
    console().print(table("Sampled", ["", ""], rows))
    if not done.shares_prefix:
        error_console().print("this architecture's cache cannot be repeated: prompts were read "
                              "whole for every sample")


def _length_auroc(labels: list[int], lengths: list[int]) -> float | None:
    """Of the completion's tokens; far from 0.5, length alone tells right from wrong."""
    from validator.metrics import auroc

    if len(set(labels)) < 2:
        return None
    return round(float(auroc(labels, lengths)), 4)
