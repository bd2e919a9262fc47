"""``validator sample``: a model's own answers to problems, checked, as traces."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from validator.cli.backend import backend_options, ray_cluster
from validator.cli.console import (
    add_command,
    command_line,
    console,
    error_console,
    print_json,
    progress,
    table,
)
from validator.errors import ParameterError

if TYPE_CHECKING:
    from validator.plugins.endpoint import Endpoint
    from validator.training.decoding import Sampling
    from validator.training.problems import Problem, PromptFormat
    from validator.training.sampling import SamplingRun

__all__ = ["register"]

MODEL = "smollm2-135m-instruct"


def register(subparsers: Any) -> None:
    """Add the command."""
    parser = add_command(
        subparsers, "sample",
        "Sample N answers of a model to each problem and label them by checking the final answer. "
        "A run that is interrupted goes on where it stopped.",
        "validator sample --problems one-step --count 100 -n 8 -o traces.jsonl\n  "
        "validator sample --endpoint http://127.0.0.1:8000/v1 --endpoint-model NAME "
        "--problems one-step -n 16 -o traces.jsonl", run)
    parser.add_argument("--model",
                        help=f"known name, hub id or folder (default: {MODEL}); with "
                             "--endpoint-api chat: the reader whose chat template the traces show")
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
    backend_options(parser)
    _endpoint_options(parser)


def _endpoint_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "answers of a server", "an OpenAI-compatible one; its key, if it asks for one, is read "
        "from OPENAI_API_KEY. --batch-size and --device have no part in it.")
    group.add_argument("--endpoint", metavar="URL", help="e.g. http://127.0.0.1:8000/v1")
    group.add_argument("--endpoint-model", metavar="NAME", help="as the server calls it")
    group.add_argument("--endpoint-api", choices=["completions", "chat"],
                       help="completions continues the prompt; chat answers it as a user's message "
                            "(default: completions)")
    group.add_argument("--endpoint-extra", metavar="JSON",
                       help="further fields of each request, as a JSON object")
    group.add_argument("--endpoint-timeout", type=float, metavar="SECONDS",
                       help="for one request (default: 600)")
    group.add_argument("--concurrency", type=int,
                       help="problems asked about at the same time (default: 8)")


def run(args: argparse.Namespace) -> int:
    """Sample, check, write, summarise."""
    import torch

    from validator.training.decoding import Sampling

    if args.threads:
        torch.set_num_threads(args.threads)
    endpoint = _endpoint(args)
    if endpoint is not None and args.backend:
        raise ParameterError("--backend has no part in --endpoint: the server draws")
    problems, prompt = _problems(args)
    sampling = Sampling(args.n, args.temperature, args.top_p, prompt.max_new_tokens, args.seed,
                        args.batch_size)
    started = time.perf_counter()
    if endpoint is None:
        done, tokenizer, started = _from_model(args, problems, prompt, sampling)
    else:
        done, tokenizer = _from_endpoint(endpoint, args, problems, prompt, sampling)
    _show(done, tokenizer, time.perf_counter() - started, args)
    return 0


def _from_model(
    args: argparse.Namespace, problems: Sequence[Problem], prompt: PromptFormat, sampling: Sampling
) -> tuple[SamplingRun, Any, float]:
    """The run, the model's tokenizer, and when it began: loading the model is not sampling."""
    from validator.models.loading import load_model, load_tokenizer
    from validator.training.sampling import sample_traces

    if (cluster := ray_cluster(args)) is not None:
        from validator.plugins.distributed_sampling import sample_with_ray

        started = time.perf_counter()
        with progress(f"sampling {len(problems)} problems x {args.n}") as advance:
            done = sample_with_ray(
                cluster, args.model or MODEL, problems, prompt, sampling, args.output,
                device=args.device, command=command_line(), progress=advance)
        return done, load_tokenizer(args.model or MODEL), started
    loaded = load_model(args.model or MODEL, device=args.device)
    started = time.perf_counter()
    with progress(f"sampling {len(problems)} problems x {args.n}") as advance:
        done = sample_traces(loaded, problems, prompt, sampling, args.output,
                             command=command_line(), progress=advance)
    return done, loaded.tokenizer, started


def _from_endpoint(
    endpoint: Endpoint, args: argparse.Namespace, problems: Sequence[Problem],
    prompt: PromptFormat, sampling: Sampling,
) -> tuple[SamplingRun, Any]:
    """The run, and the reader's tokenizer or None."""
    from validator.models.loading import load_model
    from validator.plugins.endpoint import chat_prompts, sample_from_endpoint

    reader, shown = None, None
    if args.model:
        reader = load_model(args.model)
        texts = [prompt.prompt(p.question) for p in problems]
        shown = (f"chat template of {reader.name}", chat_prompts(reader.tokenizer, texts))
    elif endpoint.api == "chat":
        shown = ("plain prompt", [prompt.prompt(p.question) for p in problems])
    with progress(f"asking about {len(problems)} problems x {args.n}") as advance:
        done = sample_from_endpoint(endpoint, problems, prompt, sampling, args.output,
                                    shown=shown, command=command_line(), progress=advance)
    return done, None if reader is None else reader.tokenizer


def _endpoint(args: argparse.Namespace) -> Endpoint | None:
    """The server that was asked for, if one was; options that would do nothing are refused."""
    given: dict[str, Any] = {name: value for name, value in (
        ("model", args.endpoint_model), ("api", args.endpoint_api),
        ("extra", _extra(args.endpoint_extra)), ("timeout", args.endpoint_timeout),
        ("concurrency", args.concurrency)) if value is not None}
    if args.endpoint is None:
        if given:
            raise ParameterError(f"the endpoint's {', '.join(given)} given without --endpoint URL")
        return None
    if "model" not in given:
        raise ParameterError("--endpoint needs --endpoint-model NAME, as the server calls it")
    if args.model and args.endpoint_api != "chat":
        raise ParameterError("--model has no part in the completions API: --endpoint-model "
                             "answers, and the traces show the prompt as sent")
    from validator.plugins.endpoint import Endpoint

    return Endpoint(args.endpoint, **given)


def _extra(text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    try:
        found = json.loads(text)
    except ValueError as error:
        raise ParameterError(f"--endpoint-extra is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise ParameterError(f"--endpoint-extra must be a JSON object, got {text}")
    return found


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


def _show(done: SamplingRun, tokenizer: Any, seconds: float, args: argparse.Namespace) -> None:
    traces, local = done.traces, args.endpoint is None
    unit, lengths = _lengths([t.completion for t in traces], tokenizer)
    facts: dict[str, Any] = {
        "traces": len(traces),
        "problems": len({t.problem_id for t in traces}),
        "right": round(sum(t.label or 0 for t in traces) / len(traces), 4),
        f"{unit}length_auroc": _length_auroc([t.label or 0 for t in traces], lengths),
        "unparsed": sum(t.status == "unparsed" for t in traces),
        "truncated": sum(t.status == "truncated" for t in traces),
        "empty": done.empty,
        "found_finished": done.resumed,
        "seconds": round(seconds, 1),
        # a server need not tell its tokens
        "tokens_per_second": round(done.tokens / seconds, 1) if local or done.tokens else None,
        **({"shares_prefix": done.shares_prefix} if local else {}),
        "output": str(args.output),
    }
    if args.json:
        print_json(facts)
        return
    rows = [[name.replace("_", " "), str(value)] for name, value in facts.items()]
    console().print(table("Sampled", ["", ""], rows))
    if local and not done.shares_prefix:
        error_console().print("this architecture's cache cannot be repeated: prompts were read "
                              "whole for every sample")


def _lengths(texts: Sequence[str], tokenizer: Any) -> tuple[str, list[int]]:
    """In tokens, or in characters (and a word for it) where there is no tokenizer."""
    if tokenizer is None:
        return "character_", [len(t) for t in texts]
    return "", [len(tokenizer.encode(t, add_special_tokens=False)) for t in texts]


def _length_auroc(labels: list[int], lengths: list[int]) -> float | None:
    """Of the completions; far from 0.5, length alone tells right from wrong."""
    from validator.metrics import auroc

    if len(set(labels)) < 2:
        return None
    return round(float(auroc(labels, lengths)), 4)
