"""What stopping bad samples early saves, and what it costs in accuracy.

    python -m benchmarks.monitor_stopping \\
        --artifact validator/data/prefix_artifacts/smollm2-135m-instruct \\
        --output benchmarks/results/monitor_stopping.json

The labelled answers that ship with the package (8 to each of 150 one-step problems, sampled from
the default model) are read at every other token. A classifier of prefixes is cross-fitted: each
answer is scored by models that never saw its problem. Problems are then halved; on one half a
threshold is chosen for each score, on the other it is judged, by replaying the rule of
``sample_with_early_stopping``. Beside P(valid): the running mean log-probability, and the number of
tokens alone. The answer kept is always the one with the highest P(valid) at its end.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from validator.classifier import ValidityClassifier
from validator.features.extractor import SpectralFeatureExtractor
from validator.metrics import brier, ece
from validator.models.cache import cache_root
from validator.plugins.monitor import (
    choose_threshold,
    fit_prefix_classifier,
    judge_stopping,
    prefix_curves,
    running_baselines,
)
from validator.training.datasets import load_traces
from validator.types import FeatureMatrix, Trace

MODEL = "smollm2-135m-instruct"
TOKENS = (4, 6, 8, 10, 12, 14, 16, 20, 24, 28)
CHECKS = {"often": TOKENS, "once": (8,), "twice": (6, 10)}
LOSSES = (0.0, 0.01, 0.02, 0.05)


def main() -> None:
    """Read, cross-fit, choose, judge, print, save."""
    args = _arguments()
    torch.set_num_threads(args.threads)
    traces = _traces(args.problems)
    extractor = SpectralFeatureExtractor(
        MODEL, feature_set="monitor", store=args.store or cache_root() / "features").fit()
    features = extractor.transform_prefixes(traces, TOKENS, progress=_show)
    fitted = fit_prefix_classifier(
        features, args.artifact, classifier=_classifier(args.kind), seed=args.seed,
        metadata={"command": f"python -m benchmarks.monitor_stopping --artifact {args.artifact} "
                  f"--kind {args.kind}", "traces": "validator/data/demo_traces.jsonl"},
        progress=_show)
    result: dict[str, Any] = {
        "model": MODEL, "traces": len(traces),
        "problems": len({t.problem_id for t in traces}),
        "valid": float(np.mean([t.label or 0 for t in traces])),
        "tokens_per_answer": float(np.mean([len(extractor.tokenizer_(
            t.completion, add_special_tokens=False)["input_ids"]) for t in traces])),
        "classifier": args.kind,
        "auroc": {k: {n: dataclasses.asdict(i) for n, i in row.items()}
                  for k, row in fitted.auroc.items()},
        "calibration": {
            "ece": ece(features.labels, _probability(fitted.margins)),
            "brier": brier(features.labels, _probability(fitted.margins))},
        "stopping": _stopping(features, fitted.margins, args.seed)}
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    _print(result)


def _traces(problems: int | None) -> list[Trace]:
    with as_file(files("validator.data").joinpath("demo_traces.jsonl")) as path:
        traces = list(load_traces(path))
    kept = list(dict.fromkeys(t.problem_id for t in traces))[:problems]
    return [t for t in traces if t.problem_id in set(kept)]


def _probability(margins: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.exp(-np.logaddexp(0, -margins)), dtype=np.float64)


def _classifier(kind: str) -> ValidityClassifier:
    return ValidityClassifier(kind)


def _stopping(features: FeatureMatrix, margins: Any, seed: int) -> dict[str, Any]:
    """Score -> allowed loss -> what the threshold chosen on one half does on the other."""
    problems = np.unique(features.problem_ids)
    order = np.random.default_rng(seed).permutation(problems)
    chosen_on = set(order[: len(order) // 2].tolist())
    probability = _probability(margins)
    found: dict[str, Any] = {}
    for when, checks in CHECKS.items():
        for name, scores in {"learned": probability, **running_baselines(features)}.items():
            curves = prefix_curves(features, scores, probability)
            develop = [c for c in curves if c.problem_id in chosen_on]
            test = [c for c in curves if c.problem_id not in chosen_on]
            for lost in LOSSES:
                below = choose_threshold(develop, most_lost=lost, checks=checks)
                report = judge_stopping(test, below, checks=checks, seed=seed)
                row = dataclasses.asdict(report)
                row["below"] = below if math.isfinite(below) else None
                found.setdefault(when, {}).setdefault(name, {})[str(lost)] = row
    return found


def _show(done: int, total: int) -> None:
    print(f"{done}/{total}", end="\r", flush=True)


def _print(result: dict[str, Any]) -> None:
    for k, row in result["auroc"].items():
        print(k, {n: f"{i['estimate']:.3f} [{i['low']:.2f}, {i['high']:.2f}]"
                  for n, i in row.items()})
    for when, scores in result["stopping"].items():
        for name, rows in scores.items():
            for lost, r in rows.items():
                print(f"{when:8} {name:13} allowed {lost:5} saved {_text(r['saved'])} "
                      f"accuracy {_text(r['accuracy'])} of {r['accuracy_full']['estimate']:.3f} "
                      f"loss {_text(r['loss'])} stopped {r['stopped']:.2f} "
                      f"of valid {r['stopped_valid']:.2f}")


def _text(interval: dict[str, float]) -> str:
    return f"{interval['estimate']:.3f} [{interval['low']:.3f}, {interval['high']:.3f}]"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--artifact", type=Path, required=True, help="folder to write")
    parser.add_argument("--kind", default="xgboost", choices=["xgboost", "logistic"])
    parser.add_argument("--problems", type=int, help="the first so many problems (default: all)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--store", type=Path, help="feature store (default: the cache folder's)")
    parser.add_argument("--output", type=Path,
                        default=Path("benchmarks/results/monitor_stopping.json"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
