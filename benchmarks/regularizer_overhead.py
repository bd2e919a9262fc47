"""What a spectral term costs: CPU seconds of a training step with and without it.

    python -m benchmarks.regularizer_overhead --tokens 64 128

The default model, one sequence a step, forward and backward pass without the optimizer. Steps with
and without the term take turns; medians over the turns, of all threads together.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from benchmarks.windtunnel_results import add_result
from validator.models.loading import load_model
from validator.training.regularizer import DESCRIPTORS, SpectralRegularizer

MODEL = "smollm2-135m-instruct"
SETS = {"eigenvalues": DESCRIPTORS[:2], "roughness": ("roughness",), "all four": DESCRIPTORS}


def main() -> None:
    """Measure in turn, print, add to the results."""
    args = _arguments()
    torch.set_num_threads(1)
    model = load_model(MODEL).model.train()
    result = {f"{count} tokens": _measured(model, count, args.turns) for count in args.tokens}
    print(json.dumps(result, indent=1))
    add_result(args.output, f"overhead, {MODEL}", result)


def _measured(model: Any, count: int, turns: int) -> dict[str, Any]:
    rng = torch.Generator().manual_seed(count)
    ids = torch.randint(100, 40_000, (1, count), generator=rng)
    ways: dict[str, SpectralRegularizer | None] = {"without": None} | {
        name: SpectralRegularizer(dict.fromkeys(chosen, "minimize"), span="sequence")
        for name, chosen in SETS.items()}
    found: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(turns + 1):
        for name, regularizer in ways.items():
            taken = _step(model, ids, regularizer)
            if turn:  # the first warms up
                found[name].append(taken)
    seconds = {name: median(values) for name, values in found.items()}
    return {"cpu_seconds": seconds,
            "ratio": {name: seconds[name] / seconds["without"] for name in SETS}}


def _step(model: Any, ids: Tensor, regularizer: SpectralRegularizer | None) -> float:
    began = time.process_time()
    if regularizer is None:
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
    else:
        with regularizer.watch(model) as term:
            loss = model(input_ids=ids, labels=ids, use_cache=False).loss + term()
    loss.backward()
    model.zero_grad()
    return time.process_time() - began


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--tokens", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/regularizer.json"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
