"""What many traces cost: arithmetic of the forward pass, measured overhead and bytes, and faults.

    python -m benchmarks.scale model              # GPU-hours and storage of 10 million traces
    python -m benchmarks.scale simulate           # completion time over ideal, with faults
    python -m benchmarks.scale storage --traces t.jsonl     # bytes of real shards, by feature set

``model`` and ``simulate`` measure nothing and take seconds; ``storage`` reads traces with the
default model. Each writes its part of ``benchmarks/results/scale.json``.
"""

from __future__ import annotations

import argparse
import heapq
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

__all__ = ["Cluster", "Gpu", "Reader", "completion_over_ideal", "flops_per_token", "main"]

RESULTS = Path("benchmarks/results")


@dataclass(frozen=True, slots=True)
class Reader:
    """A decoder-only transformer, by what its forward pass costs."""

    name: str
    parameters: float
    """Of all matrices a token passes through, the output layer included."""
    layers: int
    width: int
    """Heads times head size."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """A class of accelerators."""

    name: str
    tflops: float
    """Dense bfloat16 peak of the data sheet."""


READERS = (Reader("135M (SmolLM2)", 135e6, 30, 576), Reader("1.5B", 1.5e9, 28, 1536),
           Reader("8B", 8e9, 32, 4096))
GPUS = (Gpu("L4", 121), Gpu("A100", 312), Gpu("H100", 989))
USED = 0.3
"""Share of the peak that a forward pass reaches. An assumption; put in what yours reaches."""


def flops_per_token(reader: Reader, tokens: int) -> float:
    """Of a causal forward pass, on average over a sequence.

    ``2 P`` for the matrices and ``4 L T d`` for attention, scores and weighted values being
    ``2 T d`` each in every layer: Kaplan et al. (2020), section 2.1, without its halving for the
    mask, because who keeps the weights computes the whole matrix.

    Args:
        reader: the model.
        tokens: of the sequence.
    """
    return 2 * reader.parameters + 4 * reader.layers * tokens * reader.width


def tokens_per_second(reader: Reader, gpu: Gpu, tokens: int, overhead: float) -> float:
    """Of one GPU that reads sequences of a length, features included."""
    return USED * gpu.tflops * 1e12 / flops_per_token(reader, tokens) / overhead


@dataclass(frozen=True, slots=True)
class Cluster:
    """Workers that take one shard after the other, and what befalls them."""

    workers: int = 64
    shards: int = 15_625
    """1 million traces in shards of 64."""
    seconds: float = 60.0
    """Mean time of a shard."""
    spread: float = 0.3
    """Standard deviation of its logarithm: traces differ in length."""
    slow_share: float = 0.0
    """Share of the workers that are slow all along."""
    slowness: float = 3.0
    lost_per_day: float = 0.0
    """How often a worker is lost in a day; the shard it had is computed again by another."""
    back_after: float = 300.0
    """Seconds until a lost worker is replaced, its model loaded."""


def completion_over_ideal(cluster: Cluster, seed: int = 0) -> float:
    """Time until the last shard is done, over the work divided by undisturbed workers.

    Shards are handed out one by one to whoever is free. A shard's worker may be lost while it has
    it: times between losses of a worker are exponential.

    Args:
        cluster: workers, shards and faults.
        seed: of all draws.
    """
    rng = np.random.default_rng(seed)
    work = cluster.seconds * rng.lognormal(-cluster.spread**2 / 2, cluster.spread, cluster.shards)
    slow = round(cluster.slow_share * cluster.workers)
    pace = [cluster.slowness if w < slow else 1.0 for w in range(cluster.workers)]
    rate = cluster.lost_per_day / 86_400
    waiting: list[float] = list(work)
    returned: list[tuple[float, float]] = []
    free = [(0.0, w) for w in range(cluster.workers)]
    heapq.heapify(free)
    end = 0.0
    while waiting or returned:
        now, worker = heapq.heappop(free)
        if not waiting and returned[0][0] > now:
            heapq.heappush(free, (returned[0][0], worker))
            continue
        own = waiting.pop() if waiting else heapq.heappop(returned)[1]
        takes = own * pace[worker]
        lost = rng.exponential(1 / rate) if rate else np.inf
        if lost < takes:
            heapq.heappush(returned, (now + lost, own))
            heapq.heappush(free, (now + lost + cluster.back_after, worker))
        else:
            end = max(end, now + takes)
            heapq.heappush(free, (now + takes, worker))
    return float(end / (work.sum() / cluster.workers))


CASES: dict[str, dict[str, Any]] = {
    "no faults": {}, "5% of workers 3x slower": {"slow_share": 0.05},
    "each worker lost once a day": {"lost_per_day": 1.0},
    "each worker lost once an hour": {"lost_per_day": 24.0},
    "slow workers, and lost once an hour": {"slow_share": 0.05, "lost_per_day": 24.0},
    "lost once an hour, shards of 1,024": {"lost_per_day": 24.0, "shards": 977,
                                           "seconds": 960.0},
}


def simulated(seeds: int) -> list[dict[str, Any]]:
    """Each case, over seeds."""
    rows = []
    for name, changes in CASES.items():
        found = [completion_over_ideal(Cluster(**changes), s) for s in range(seeds)]
        rows.append({"case": name, "mean": round(mean(found), 3), "max": round(max(found), 3)})
    return rows


def modelled(traces: float, tokens: int, overhead: Mapping[str, float]) -> list[dict[str, Any]]:
    """GPU-hours for each reader, GPU class and feature set."""
    rows = []
    for reader in READERS:
        for gpu in GPUS:
            for name, ratio in overhead.items():
                speed = tokens_per_second(reader, gpu, tokens, ratio)
                rows.append({"reader": reader.name, "gpu": gpu.name, "features": name,
                             "overhead": round(ratio, 3), "tokens_per_second": round(speed),
                             "gpu_hours": round(traces * tokens / speed / 3600, 1)})
    return rows


def measured_overhead(tokens: int) -> dict[str, float]:
    """Extraction over a plain forward pass, from ``extraction_two_cores.json``: on CPU."""
    found = json.loads((RESULTS / "extraction_two_cores.json").read_text(encoding="utf-8"))
    [row] = [row for row in found["rows"] if row["tokens"] == tokens]
    return {name: row[name] for name in ("fast", "default", "default-lanczos")}


def stored(traces: Path, sets: Sequence[str], limit: int, model: str) -> list[dict[str, Any]]:
    """Bytes of a row and of a shard's head, from the encoded shards of real rows."""
    from validator.features.extractor import SpectralFeatureExtractor
    from validator.features.store_shards import StoredRow, encode_shard
    from validator.training.datasets import load_traces

    read = load_traces(traces, limit=limit)
    rows = []
    for name in sets:
        features = SpectralFeatureExtractor(model, feature_set=name).fit_transform(read)
        own = [(bytes([i]) * 32, StoredRow(values, "x" if np.isnan(values).any() else None, (1, 1)))
               for i, values in enumerate(features.values)]
        half, whole = (len(encode_shard(dict(part), features.names, "0" * 64))
                       for part in (own[: len(own) // 2], own))
        a_row = (whole - half) / (len(own) - len(own) // 2)
        rows.append({
            "features": name, "columns": len(features.names), "traces": len(own),
            "bytes_per_row": round(a_row), "bytes_per_shard_head": round(whole - a_row * len(own)),
            "gb_per_million_in_shards_of_64": round(
                (a_row * 1e6 + (whole - a_row * len(own)) * 1e6 / 64) / 1e9, 2),
            "gb_per_million_merged": round(
                (a_row * 1e6 + (whole - a_row * len(own)) * 1e6 / 1024) / 1e9, 2)})
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    """Compute one part and put it into the result file."""
    args = _arguments()
    if args.what == "simulate":
        found: Any = {"cluster": asdict(Cluster()), "seeds": args.seeds,
                      "completion_over_ideal": simulated(args.seeds)}
    elif args.what == "model":
        found = {"traces": args.count, "tokens": args.tokens, "share_of_peak": USED,
                 "overhead_measured_on": "cpu, extraction_two_cores.json",
                 "rows": modelled(args.count, args.tokens, measured_overhead(args.tokens))}
    else:
        found = {"model": args.model, "rows": stored(args.traces, args.sets, args.limit,
                                                     args.model)}
    print(json.dumps(found, indent=2))
    before = json.loads(args.output.read_text()) if args.output.exists() else {}
    args.output.write_text(json.dumps(before | {args.what: found}, indent=2) + "\n",
                           encoding="utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("what", choices=["model", "simulate", "storage"])
    parser.add_argument("--count", type=float, default=1e7, help="traces of the model")
    parser.add_argument("--tokens", type=int, default=512, choices=[512, 1024],
                        help="of a trace, of those that the overhead was measured at")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--traces", type=Path, help="trace file, for storage")
    parser.add_argument("--limit", type=int, default=32)
    parser.add_argument("--sets", nargs="+", default=["fast", "lapeigvals", "default", "full"])
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--output", type=Path, default=RESULTS / "scale.json")
    args = parser.parse_args()
    if args.what == "storage" and args.traces is None:
        parser.error("storage needs --traces FILE")
    return args


if __name__ == "__main__":
    main()
