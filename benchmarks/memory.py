"""Peak memory beside the model's weights, each method in a process of its own.

    python -m benchmarks.memory
    python -m benchmarks.memory --cells fast:16384 default-lanczos:16384

The figure is the growth of the process's largest resident set from just before the call, with the
model loaded and warmed up on a few tokens, to its end.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch

from benchmarks.stored import store_all, store_all_default
from benchmarks.subjects import add_subject_arguments, random_trace, subject
from validator.features.feature_set_files import load_feature_set
from validator.features.plan import ReadPlan
from validator.features.reader import read_batch
from validator.features.solvers import make_solver

CELLS = ("sdpa:2048", "fast:2048", "default:2048", "default-lanczos:2048", "store-all:2048",
         "fast:16384", "default-lanczos:16384")
GIBIBYTE = 2**30


def main() -> None:
    """One process per cell; print a table, save it as JSON."""
    args = _arguments()
    if args.one:
        print(json.dumps(_measure(args)))
        return
    rows = []
    for cell in args.cells:
        command = [sys.executable, "-m", "benchmarks.memory", "--one", cell, "--model", args.model,
                   "--dtype", args.dtype, "--threads", str(args.threads)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        row = rows[-1]
        print(f"{row['method']:>18} {row['tokens']:>6} {row['gibibytes']:8.3f} GiB "
              f"{row['seconds']:8.1f} s", flush=True)
    args.output.write_text(json.dumps(
        {"model": args.model, "threads": args.threads, "rows": rows}, indent=2) + "\n",
        encoding="utf-8")


def _measure(args: argparse.Namespace) -> dict[str, object]:
    method, tokens = args.one.split(":")
    model = subject(args)
    _run(model, method, 64)
    before, started = _peak(), time.perf_counter()
    _run(model, method, int(tokens))
    return {"method": method, "tokens": int(tokens), "gibibytes": _peak() - before,
            "seconds": time.perf_counter() - started}


def _run(model: object, method: str, length: int) -> None:
    trace = random_trace(model, length)
    ids = torch.tensor([trace.ids])
    if method == "sdpa":
        with torch.inference_mode():
            model(ids, use_cache=False)  # type: ignore[operator]
    elif method == "store-all":
        store_all(model, ids)
    elif method == "store-all-default":
        store_all_default(model, trace)
    else:
        name, _, solver = method.partition("-")
        plan = ReadPlan(load_feature_set(name), make_solver(solver or "exact"))
        read_batch(model, [trace], None, plan)


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIBIBYTE


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    add_subject_arguments(parser)
    parser.add_argument("--cells", nargs="+", default=list(CELLS), help="method:tokens")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/memory.json"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
