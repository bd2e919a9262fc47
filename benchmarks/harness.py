"""What scoring adds to a run of lm-eval: time beside generation, memory beside plain ``hf``.

    python -m benchmarks.harness --output benchmarks/results/harness.json

Time: eight samples of each document after a few-shot prompt of about 512 tokens
(``gsm8k_cot_spectral_n8`` with five examples), generation and scoring timed in one run. Memory: the
largest resident set of the whole lm-eval process, upstream's task with ``hf`` against the spectral
task with ``hf-spectral`` on the same documents, each in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from validator.models.fetch import fetch

MODEL = "smollm2-135m-instruct"
EXAMPLES = 5


def main() -> None:
    """Run both parts, print, save."""
    args = _arguments()
    if args.child:
        _child(args)
        return
    torch.set_num_threads(args.threads)
    result = {"threads": args.threads, "model": MODEL, "documents": args.documents,
              "overhead": _overhead(args), "memory": _memory(args)}
    print(json.dumps(result, indent=1))
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def _overhead(args: argparse.Namespace) -> dict[str, Any]:
    """Seconds of generating and of scoring, on the same responses."""
    from lm_eval.models.huggingface import HFLM

    from validator.plugins.harness.responses import ResponseScorer

    spent: dict[str, float] = {"generation": 0.0, "scoring": 0.0}
    _timed(HFLM, "generate_until", spent, "generation")
    _timed(ResponseScorer, "score", spent, "scoring")
    found = _evaluate("gsm8k_cot_spectral_n8", args, "hf-spectral")
    samples = found["samples"]["gsm8k_cot_spectral_n8"]
    first = [s for s in samples if s["filter"] == samples[0]["filter"]]
    tokens = [n for s in first for n in s["spectral"]["tokens"]]
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(fetch(MODEL), trust_remote_code=False)
    prompts = [len(tokenizer(s["arguments"][0][0])["input_ids"]) for s in first]
    return {**spent, "ratio": spent["scoring"] / spent["generation"], "responses": len(tokens),
            "mean_prompt_tokens": sum(prompts) / len(prompts),
            "mean_completion_tokens": sum(tokens) / len(tokens)}


def _timed(owner: Any, name: str, spent: dict[str, float], key: str) -> None:
    original: Callable[..., Any] = getattr(owner, name)

    def run(*args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter()
        try:
            return original(*args, **kwargs)
        finally:
            spent[key] += time.perf_counter() - started

    setattr(owner, name, run)


def _evaluate(task: str, args: argparse.Namespace, model: str) -> dict[str, Any]:
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.tasks import TaskManager

    from validator.plugins.harness.command import TASKS, register_model

    register_model()
    told = {"data_files": {"gsm8k_cot": str(args.data), "gsm8k_cot_plain": str(args.data)}}
    manager = TaskManager(include_path=[str(TASKS), *([str(args.plain)] if args.plain else [])],
                          include_defaults=False, metadata=told)
    found: dict[str, Any] = simple_evaluate(
        model, model_args={"pretrained": str(fetch(MODEL))}, tasks=[task], task_manager=manager,
        metadata=told, limit=args.documents, num_fewshot=EXAMPLES, batch_size=8, device="cpu",
        gen_kwargs={"max_gen_toks": args.max_new_tokens}, log_samples=True)
    return found


def _memory(args: argparse.Namespace) -> dict[str, Any]:
    """MiB at the peak of each process, and their ratio."""
    import tempfile

    from validator.plugins.harness.upstream import tasks_root

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "plain.yaml").write_text(
            f"include: {tasks_root() / 'gsm8k' / 'gsm8k-cot.yaml'}\ntask: gsm8k_cot_plain\n"
            "tag: null\ndataset_path: json\ndataset_name: null\ndataset_kwargs:\n  data_files:\n"
            f"    test: {args.data}\nrepeats: 8\ngeneration_kwargs:\n"
            '  until: ["Q:", "</s>", "<|im_end|>"]\n  do_sample: true\n  temperature: 0.6\n',
            encoding="utf-8")
        peaks = {}
        for model, task in (("hf", "gsm8k_cot_plain"), ("hf-spectral", "gsm8k_cot_spectral_n8")):
            done = subprocess.run(
                [sys.executable, "-m", "benchmarks.harness", "--child", f"{model},{task}",
                 "--plain", folder, "--data", str(args.data), "--documents", str(args.documents),
                 "--max-new-tokens", str(args.max_new_tokens), "--threads", str(args.threads)],
                check=True, capture_output=True, text=True)
            peaks[model] = float(done.stdout.strip().splitlines()[-1])
    return {**peaks, "ratio": peaks["hf-spectral"] / peaks["hf"]}


def _child(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    model, task = args.child.split(",")
    _evaluate(task, args, model)
    print(_peak_mib())


def _peak_mib() -> float:
    """The largest resident set of this process (Linux); ``ru_maxrss`` would count its parent's."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data/gsm8k_test.jsonl"),
                        help="documents with GSM8K's columns")
    parser.add_argument("--documents", type=int, default=6)
    parser.add_argument("--max-new-tokens", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--plain", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/harness.json"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
