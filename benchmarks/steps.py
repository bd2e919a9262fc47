"""P(step valid) and first-error localisation on public step labels, beside every baseline.

    validator extract bigbench_mistake.jsonl --format bigbench-mistake --steps -o bigbench.parquet
    validator extract prmbench.jsonl --format prmbench --steps -o prmbench.parquet
    python -m benchmarks.steps --bigbench bigbench.parquet --prmbench prmbench.parquet \
        --output benchmarks/results/steps.json

Each classifier is judged under problem-grouped folds with intervals over problems. The logistic
classifier reads ``--components`` principal axes: exact fits on all columns would cost N^3 each.
A corrupted PRMBench solution is longer than its original in 70% of pairs: read the measures at
equal length. ``--random ROWS`` times the same on random columns in place of a file.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
import xgboost

from validator.classifier import ValidityClassifier
from validator.columns import BASELINES, Column
from validator.features.table import read_features
from validator.training.step_comparison import (
    RANKING_METRICS,
    MetricRow,
    StepComparison,
    compare_steps,
)
from validator.training.step_location import LOCATION_METRICS
from validator.training.steps import cross_validate_steps
from validator.types import FeatureMatrix, Provenance, Trace


def main() -> None:
    """Judge every file with every classifier, print tables, save them."""
    args = _arguments()
    matrices = {name: read_features(path) for name in ("bigbench", "prmbench")
                if (path := getattr(args, name)) is not None}
    if args.random:
        matrices["random"] = _random(args.random, args.columns)
    runs = [_run(name, features, kind, args)
            for name, features in matrices.items() for kind in args.kinds]
    if args.output is not None:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(json.dumps({
            "files": {n: str(getattr(args, n).name) for n in matrices if n != "random"},
            "folds": args.folds, "seed": args.seed, "resamples": args.resamples,
            "versions": {"python": platform.python_version(), "numpy": np.__version__,
                         "scikit-learn": sklearn.__version__, "xgboost": xgboost.__version__},
            "runs": runs,
        }, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _run(name: str, features: FeatureMatrix, kind: str, args: argparse.Namespace) -> dict[str, Any]:
    components = args.components if kind == "logistic" else None
    wall, cpu = time.perf_counter(), time.process_time()
    oof = cross_validate_steps(
        features, ValidityClassifier(kind, n_jobs=args.jobs, random_state=args.seed),
        n_splits=args.folds, seed=args.seed, components=components,
        progress=lambda done, total: print(f"{name}, {kind}: fold {done} of {total}", flush=True))
    comparison = compare_steps(oof, n_resamples=args.resamples, seed=args.seed)
    spent = {"seconds": round(time.perf_counter() - wall, 1),
             "cpu_seconds": round(time.process_time() - cpu, 1)}
    _print(f"{name}, {kind}, {len(features)} rows, {spent}", comparison)
    return {"data": name, "kind": kind, "rows": len(features), "columns": len(features.names),
            **spent, **comparison.to_json()}


def _random(rows: int, columns: int) -> FeatureMatrix:
    """Columns of 60 common factors and noise; traces of 13 steps, every other one goes wrong."""
    rng = np.random.default_rng(0)
    names = tuple(str(Column(b)) for b in BASELINES) + tuple(
        str(Column("fiedler_value", i // 64, i % 64, "completion",
                   "surprisal" if i % 2 else "")) for i in range(columns - len(BASELINES)))
    factors = rng.normal(size=(rows, 60)) @ rng.normal(size=(60, len(names))) / 8
    values = (factors + rng.normal(size=factors.shape)).astype(np.float32)
    words = ["sum", "add", "take", "half", "then", "so", "total", "x", "y", "3", "5", "12"]
    traces = []
    for i in range(rows):
        t, k = divmod(i, 13)
        text = " " + " ".join(rng.choice(words, 15))
        label = int(not (t % 2 and k == t % 11))
        traces.append(Trace(f"t{t}#step{k}", f"p{t // 4}", f"Question: {t // 4}?" + text * k, text,
                            label, meta={"trace": f"t{t}", "step": k}))
    lengths = rng.integers(5, 40, size=(rows, 2))
    return FeatureMatrix(values, names, tuple(traces), lengths,
                         Provenance("random", "0", "random", 1))


def _print(title: str, comparison: StepComparison) -> None:
    print(f"\n{title}")
    for rows, metrics in ((comparison.ranking, RANKING_METRICS),
                          (comparison.location, LOCATION_METRICS)):
        print(f"{'':34}", *(m.rjust(20) for m in metrics))
        for row in rows:
            print(_line(row, metrics))
    print(*comparison.notes, comparison.verdict, sep="\n")


def _line(row: MetricRow, metrics: Mapping[str, str]) -> str:
    cells = [row.values[m] for m in metrics]
    return f"{row.name:34} " + " ".join(
        "n/a".rjust(20) if c is None else f"{c.estimate:.3f} [{c.low:.2f}, {c.high:.2f}]".rjust(20)
        for c in cells)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--bigbench", type=Path, help="step features of BIG-Bench Mistake")
    parser.add_argument("--prmbench", type=Path, help="step features of PRMBench")
    parser.add_argument("--random", type=int, metavar="ROWS", help="time random columns instead")
    parser.add_argument("--columns", type=int, default=8165, help="of --random (default: 8165)")
    parser.add_argument("--kinds", nargs="+", default=["logistic", "xgboost"])
    parser.add_argument("--components", type=int, default=512,
                        help="principal axes of the logistic classifier, a power of 2")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=-1, help="threads of xgboost")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/steps.json"))
    args = parser.parse_args()
    if args.bigbench is None and args.prmbench is None and not args.random:
        parser.error("give --bigbench, --prmbench or --random")
    return args


if __name__ == "__main__":
    main()
