"""Cost per sample of N completions of one prompt, with and without computing the prompt once.

    python -m benchmarks.prefix_sharing --prompt 200 --completion 40 --samples 8
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.subjects import add_subject_arguments, subject
from validator.features.encoding import EncodedTrace
from validator.features.feature_set_files import load_feature_set
from validator.features.plan import ReadPlan
from validator.features.reader import extend_prefix, read_batch
from validator.types import Trace


def main() -> None:
    """Measure in turn, print, save."""
    args = _arguments()
    model = subject(args)
    traces = _samples(model, args)
    rounds = []
    for _ in range(args.repeats + 1):
        shared, with_seconds = _timed(lambda: _shared(model, traces))
        alone, without_seconds = _timed(lambda: _alone(model, traces))
        rounds.append((with_seconds, without_seconds))
        errors = np.abs(shared - alone) / np.maximum(1, np.abs(alone))
    rounds = rounds[1:]
    result = {
        "model": args.model, "threads": args.threads, "prompt": args.prompt,
        "completion": args.completion, "samples": args.samples,
        "seconds_per_sample_shared": statistics.median(r[0] for r in rounds) / args.samples,
        "seconds_per_sample_alone": statistics.median(r[1] for r in rounds) / args.samples,
        "times_cheaper": statistics.median(r[1] / r[0] for r in rounds),
        "largest_relative_difference": float(errors.max()),
        "share_of_values_within_1e-5": float((errors <= 1e-5).mean()),
    }
    print(json.dumps(result, indent=2))
    args.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def _samples(model: Any, args: argparse.Namespace) -> list[EncodedTrace]:
    generator = torch.Generator().manual_seed(0)

    def draw(count: int) -> tuple[int, ...]:
        ids = torch.randint(5, model.config.vocab_size, (count,), generator=generator)
        return tuple(ids.tolist())

    prompt = draw(args.prompt)
    return [EncodedTrace(Trace(f"t{i}", "p", " ", " "), prompt + draw(args.completion), args.prompt)
            for i in range(args.samples)]


def _shared(model: Any, traces: list[EncodedTrace]) -> np.ndarray[Any, Any]:
    plan = ReadPlan(load_feature_set("default"))
    ids = traces[0].ids[: traces[0].prompt_length - 1]
    prefix = extend_prefix(model, None, ids, plan)
    return np.stack([r[0].values for r in read_batch(model, traces, prefix, plan)])


def _alone(model: Any, traces: list[EncodedTrace]) -> np.ndarray[Any, Any]:
    """Also in one batch: what is compared is the sharing alone."""
    plan = ReadPlan(load_feature_set("default"))
    return np.stack([r[0].values for r in read_batch(model, traces, None, plan)])


def _timed(call: Any) -> tuple[Any, float]:
    started = time.perf_counter()
    result = call()
    return result, time.perf_counter() - started


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    add_subject_arguments(parser)
    parser.add_argument("--prompt", type=int, default=200)
    parser.add_argument("--completion", type=int, default=40)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path,
                        default=Path("benchmarks/results/prefix_sharing.json"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
