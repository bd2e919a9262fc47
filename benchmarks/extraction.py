"""Cost of feature extraction in units of a plain forward pass, measured side by side in one run.

    python -m benchmarks.extraction
    python -m benchmarks.extraction --lengths 512 1024 --peer-python PEER/bin/python
    python -m benchmarks.extraction --device cuda --shape 1b --dtype bfloat16 --lengths 1024 4096

Each round times every method once, in turn, on the same tokens; the ratio reported is the median
over rounds of the ratio within a round, so that slow drifts of the machine cancel.

- ``sdpa``: ``model(input_ids)``, logits of every token, no cache: the unit.
- ``fast``, ``default``: all columns of the feature set, exact solver; half of the tokens are the
  completion.
- ``default-lanczos``: the same with the Lanczos solver.
- ``whole``, ``whole-lanczos``: the columns of the feature set ``paper``, two Laplacians of graphs
  that have every token.
- ``store-all``: ``output_attentions=True`` with eager attention, nothing computed from it.
- ``store-all-default``: the same, then the default columns from what was stored.
- ``spectral-trust`` (with ``--peer-python``): the peer's whole analysis of the same number of
  tokens, in units of its own plain forward pass, timed in its own environment.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers

from benchmarks.stored import store_all, store_all_default
from benchmarks.subjects import add_subject_arguments, random_trace, subject
from validator.features.feature_set_files import load_feature_set
from validator.features.plan import ReadPlan
from validator.features.reader import read_batch
from validator.features.solvers import make_solver

METHODS = ("fast", "default", "default-lanczos", "whole", "whole-lanczos", "store-all",
           "store-all-default")
PEER_FOLDER = Path(__file__).parent / "peers"


def main() -> None:
    """Measure, print a table, save it as JSON."""
    args = _arguments()
    model = subject(args)
    rows = []
    print("T".rjust(6), "sdpa s".rjust(9), *(m.rjust(18) for m in args.methods))
    for length in args.lengths:
        row = measure(model, length, args)
        rows.append(row)
        cells = [f"{row['sdpa_seconds']:9.3f}"]
        cells += [f"{row[m]:17.2f}x" if m in row else "-".rjust(18) for m in args.methods]
        print(f"{length:6}", *cells, flush=True)
    result = _about(args) | {"rows": rows, "peer": _peer(args)}
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def measure(model: Any, length: int, args: argparse.Namespace) -> dict[str, float]:
    """Median ratios for one sequence of ``length`` tokens, the second half its completion."""
    trace = random_trace(model, length)
    ids = torch.tensor([trace.ids], device=model.device)

    def plain() -> None:
        with torch.inference_mode():
            model(ids, use_cache=False)

    def ours(name: str, solver: str) -> Callable[[], object]:
        return lambda: read_batch(
            model, [trace], None, ReadPlan(load_feature_set(name), make_solver(solver)))

    methods: dict[str, Callable[[], object]] = {
        "sdpa": plain,
        "fast": ours("fast", "exact"),
        "default": ours("default", "exact"),
        "default-lanczos": ours("default", "lanczos"),
        "whole": ours("paper", "exact"),
        "whole-lanczos": ours("paper", "lanczos"),
        "store-all": lambda: store_all(model, ids),
        "store-all-default": lambda: store_all_default(model, trace),
    }
    chosen = {"sdpa": plain} | {
        m: methods[m] for m in args.methods
        if not (m.startswith("store-all") and length > args.store_all_up_to)
        and not (m == "default" and length > args.exact_up_to)
        and not (m == "whole" and length > args.exact_up_to // 2)
    }
    for method in chosen.values():
        method()
    rounds = [{name: _seconds(method, args.device) for name, method in chosen.items()}
              for _ in range(args.repeats)]
    ratios = {name: statistics.median(r[name] / r["sdpa"] for r in rounds)
              for name in chosen if name != "sdpa"}
    return {"tokens": length, "sdpa_seconds": statistics.median(r["sdpa"] for r in rounds),
            **ratios}


def _seconds(method: Callable[[], object], device: str) -> float:
    started = time.perf_counter()
    method()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - started


def _peer(args: argparse.Namespace) -> Any:
    """Timings of the peer, run in its own environment; None without one."""
    if args.peer_python is None:
        print("spectral-trust: not timed; give --peer-python (see benchmarks/peers/README.md)")
        return None
    command = [args.peer_python, PEER_FOLDER / "spectral_trust_timing.py", "--model",
               args.peer_model, "--threads", args.threads, "--lengths", *args.peer_lengths]
    done = subprocess.run(
        [str(c) for c in command], check=True, stdout=subprocess.PIPE, text=True,
        env=os.environ | {"OMP_NUM_THREADS": str(args.threads)})
    found = json.loads(done.stdout)
    print(json.dumps(found, indent=2))
    return found


def _about(args: argparse.Namespace) -> dict[str, Any]:
    cuda = args.device.startswith("cuda")
    return {
        "model": args.shape or args.model, "threads": args.threads, "dtype": args.dtype,
        "device": torch.cuda.get_device_name() if cuda else "cpu", "cores": os.cpu_count(),
        "repeats": args.repeats, "torch": torch.__version__,
        "transformers": transformers.__version__, "machine": platform.machine(),
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    add_subject_arguments(parser)
    parser.add_argument("--lengths", type=int, nargs="+",
                        default=[128, 256, 512, 1024, 2048, 4096])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--store-all-up-to", type=int, default=1024,
                        help="longest sequence whose attentions are stored")
    parser.add_argument("--exact-up-to", type=int, default=2048,
                        help="longest sequence whose second half is decomposed exactly; graphs of "
                             "all tokens are, up to half of it")
    parser.add_argument("--peer-python", help="interpreter of the peer's environment")
    parser.add_argument("--peer-model", help="folder of the same model, for the peer")
    parser.add_argument("--peer-lengths", type=int, nargs="+", default=[512, 1024])
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/extraction.json"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
