"""Cost of feature extraction in units of a plain forward pass, measured side by side in one run.

    python -m benchmarks.extraction --model smollm2-135m-instruct --lengths 128 512 --repeats 5

Each round times every method once, in turn, on the same tokens; the ratio reported is the median
over rounds of the ratio within a round, so that slow drifts of the machine cancel.

- ``sdpa``: ``model(input_ids)``, logits of every token, no cache: the unit.
- ``extract``: all columns of the default feature set (spectra of the whole trace and of the
  completion, per-head descriptors, token signals, baselines).
- ``store-all``: ``output_attentions=True`` with eager attention, nothing computed from it.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers

from validator.features.encoding import EncodedTrace
from validator.features.featureset import load_feature_set
from validator.features.reader import read_batch
from validator.models.loading import load_model
from validator.types import Trace


def main() -> None:
    """Measure, print a table, save it as JSON."""
    args = _arguments()
    torch.set_num_threads(args.threads)
    model = load_model(args.model, dtype="float32").model
    rows = [measure(model, length, args.repeats) for length in args.lengths]
    print(f"{'T':>6} {'sdpa s':>8} {'extract':>9} {'store-all':>10}   (x sdpa, median)")
    for row in rows:
        print(f"{row['tokens']:>6} {row['sdpa_seconds']:>8.3f} {row['extract']:>8.2f}x "
              f"{row['store-all']:>9.2f}x")
    result = {"model": args.model, "threads": args.threads, "dtype": "float32",
              "repeats": args.repeats, "torch": torch.__version__,
              "transformers": transformers.__version__, "processor": platform.processor(),
              "machine": platform.machine(), "rows": rows}
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def measure(model: Any, length: int, repeats: int) -> dict[str, float]:
    """Median ratios for one sequence of ``length`` tokens, the second half its completion."""
    generator = torch.Generator().manual_seed(length)
    ids = torch.randint(5, model.config.vocab_size, (1, length), generator=generator)
    features = load_feature_set("default")
    trace = EncodedTrace(Trace("t", "p", " ", " "), tuple(ids[0].tolist()), length // 2)

    def stored() -> None:
        model.set_attn_implementation("eager")
        try:
            with torch.inference_mode():
                model(ids, output_attentions=True, output_hidden_states=True, use_cache=False)
        finally:
            model.set_attn_implementation("sdpa")

    def plain() -> None:
        with torch.inference_mode():
            model(ids, use_cache=False)

    methods: dict[str, Callable[[], object]] = {
        "sdpa": plain, "extract": lambda: read_batch(model, [trace], None, features),
        "store-all": stored,
    }
    for method in methods.values():
        method()
    rounds = [{name: _seconds(method) for name, method in methods.items()} for _ in range(repeats)]
    ratios = {
        name: statistics.median(r[name] / r["sdpa"] for r in rounds)
        for name in ("extract", "store-all")
    }
    return {"tokens": length, "sdpa_seconds": statistics.median(r["sdpa"] for r in rounds),
            **ratios}


def _seconds(method: Callable[[], object]) -> float:
    started = time.perf_counter()
    method()
    return time.perf_counter() - started


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--lengths", type=int, nargs="+", default=[128, 256, 512, 1024])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/extraction.json"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
