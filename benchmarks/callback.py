"""What ValidityCallback adds to an evaluation: seconds of it with and without, and per probe trace.

    python -m benchmarks.callback --output benchmarks/results/callback.json

The default model, an evaluation set of the shipped traces' texts, and probes of shipped traces.
Evaluations with and without the callback take turns; medians over the turns. CPU seconds, of all
threads together, stand beside: they say more where other programs run on the machine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainingArguments

from validator.models.loading import load_model
from validator.plugins.checkpoints import ValidityCallback
from validator.scoring import shipped_artifact
from validator.training.datasets import load_traces
from validator.types import Trace

MODEL = "smollm2-135m-instruct"

def main() -> None:
    """Measure in turn, print, save."""
    args = _arguments()
    torch.set_num_threads(args.threads)
    with as_file(files("validator.data").joinpath("demo_traces.jsonl")) as path:
        traces = load_traces(path)
    loaded = load_model(MODEL)
    result: dict[str, Any] = {"model": MODEL, "threads": args.threads, "turns": args.turns,
                              "evaluation_texts": args.texts, "probes": []}
    with tempfile.TemporaryDirectory() as folder:
        for count in args.probes:
            probe = traces[:count]
            trainer = _trainer(loaded.model, loaded.tokenizer, traces[: args.texts], Path(folder))
            result["probes"].append(_measured(trainer, probe, args.turns))
    print(json.dumps(result, indent=1))
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def _measured(trainer: Trainer, probe: Sequence[Trace], turns: int) -> dict[str, Any]:
    callback = ValidityCallback(probe, artifact=shipped_artifact(MODEL))
    plain, watched = [], []
    for turn in range(turns + 1):
        without = _timed(trainer)
        callback.attach(trainer)
        attached = _timed(trainer)
        trainer.remove_callback(callback)
        if turn:  # the first warms up
            plain.append(without)
            watched.append(attached)
    result: dict[str, Any] = {"probe_traces": len(probe),
                              "prompts": len({t.prompt for t in probe})}
    for i, unit in enumerate(("seconds", "cpu_seconds")):
        added = statistics.median(b[i] - a[i] for a, b in zip(plain, watched, strict=True))
        result |= {f"{unit}_without": statistics.median(a[i] for a in plain),
                   f"{unit}_with": statistics.median(b[i] for b in watched),
                   f"{unit}_added": added, f"{unit}_per_probe_trace": added / len(probe)}
    return result


def _timed(trainer: Trainer) -> tuple[float, float]:
    started, used = time.perf_counter(), time.process_time()
    trainer.evaluate()
    return time.perf_counter() - started, time.process_time() - used


def _trainer(model: Any, tokenizer: Any, traces: Sequence[Trace], folder: Path) -> Trainer:
    texts = [tokenizer(t.prompt + t.completion)["input_ids"] for t in traces]
    return Trainer(
        model=model, processing_class=tokenizer, data_collator=_alone,
        eval_dataset=[{"input_ids": ids, "labels": ids} for ids in texts],
        args=TrainingArguments(output_dir=str(folder), report_to="none", use_cpu=True,
                               per_device_eval_batch_size=1, disable_tqdm=True,
                               dataloader_pin_memory=False))


def _alone(items: Sequence[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    return {key: torch.tensor([item[key] for item in items]) for key in items[0]}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--probes", type=int, nargs="+", default=[16, 64],
                        help="traces of each probe")
    parser.add_argument("--texts", type=int, default=64, help="texts of the evaluation set")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/callback.json"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
