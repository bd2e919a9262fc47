"""How much of each descriptor's correlation with length its null-corrected columns remove.

    python -m benchmarks.null_correction --traces gsm8k_solutions_dev.jsonl

Per layer: Spearman's correlation of a column with the number of tokens of its span, raw and as
``__z_uniform``, ``__z_recency``, ``__z_permuted``; the table has the mean of its absolute value
over layers (and heads). Then what the correction does to telling valid from invalid traces: AUROC
of the column's mean over layers, pooled and between traces of about the same length, with the
direction of the whole sample, and 95% intervals that resample problems.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from scipy.stats import spearmanr

from validator.columns import Column
from validator.features.extractor import SpectralFeatureExtractor
from validator.features.featureset import FeatureSet, GraphFeatures, HeadFeatures
from validator.metrics.bootstrap import (
    Resampler,
    auroc_statistic,
    clustered_interval,
    length_matched_statistic,
)
from validator.training.datasets import read_traces
from validator.types import FeatureMatrix, Trace

Array = NDArray[np.float64]

FEATURES = FeatureSet(
    "null_correction", 1,
    HeadFeatures(
        spans=("completion",), quantiles=(0.5,), nulls=("uniform", "recency"), null_draws=8,
        descriptors=("directed_eigenvalue", "attention_entropy", "log_self_attention")),
    (GraphFeatures(
        spans=("whole", "completion"), signals=("hidden", "surprisal"), null_draws=8,
        nulls=("uniform", "recency", "permuted"),
        descriptors=("fiedler_value", "spectral_gap", "eigenvalue_quantile", "eigenvalue_entropy",
                     "hfer", "signal_entropy", "roughness")),))


def main() -> None:
    """Extract, correlate, print two tables, save them."""
    args = _arguments()
    traces = _chosen(args)
    layers = list(range(0, 30, args.every))
    extractor = SpectralFeatureExtractor(
        args.model, feature_set=FEATURES, layers=layers, num_threads=args.threads,
        max_batch_tokens=512)
    features = extractor.fit_transform(traces, progress=_progress)
    rows = [_row(features, key, columns) for key, columns in _groups(features).items()]
    _print(rows)
    data = args.traces.read_bytes()
    args.output.write_text(json.dumps({
        "traces": args.traces.name, "sha256": hashlib.sha256(data).hexdigest(),
        "count": len(traces), "problems": len({t.problem_id for t in traces}),
        "valid": float(np.mean([t.label for t in traces])), "model": features.provenance.model,
        "revision": features.provenance.revision, "layers": layers, "seed": args.seed,
        "null_draws": 8, "torch": torch.__version__, "transformers": transformers.__version__,
        "completion_tokens": np.percentile(features.lengths[:, 1], [0, 25, 50, 75, 100]).tolist(),
        "rows": rows,
    }, indent=2) + "\n", encoding="utf-8")


def _chosen(args: argparse.Namespace) -> list[Trace]:
    """The same number of traces of each problem, drawn at random."""
    read = read_traces(args.traces, format="gsm8k-solutions").traces
    rng = np.random.default_rng(args.seed)
    by_problem: dict[str, list[Trace]] = {}
    for trace in read:
        by_problem.setdefault(trace.problem_id, []).append(trace)
    problems = rng.permutation(sorted(by_problem))[: args.problems]
    return [t for p in problems for t in rng.permutation(
        np.array(by_problem[str(p)], dtype=object))[: args.per_problem]]


def _groups(features: FeatureMatrix) -> Mapping[tuple[str, str, str], dict[str, list[int]]]:
    """(descriptor, span, signal) -> transform -> columns of all layers and heads."""
    groups: dict[tuple[str, str, str], dict[str, list[int]]] = {}
    for i, name in enumerate(features.names):
        column = Column.parse(name)
        if "__baseline" not in name:
            key = (name.split("__")[0], column.span, column.signal)
            groups.setdefault(key, {}).setdefault(column.transform or "raw", []).append(i)
    return groups


def _row(
    features: FeatureMatrix, key: tuple[str, str, str], columns: Mapping[str, Sequence[int]]
) -> dict[str, Any]:
    descriptor, span, signal = key
    lengths = features.lengths.sum(1) if span == "whole" else features.lengths[:, 1]
    labels = np.array([t.label for t in features.traces])
    resampler = Resampler([t.problem_id for t in features.traces], n_resamples=1000, seed=0)
    found: dict[str, Any] = {"descriptor": descriptor, "span": span, "signal": signal}
    for transform, chosen in columns.items():
        values = features.values[:, chosen].astype(np.float64)
        rho = np.array([spearmanr(v, lengths).statistic for v in values.T if _varies(v)])
        score = np.nanmean(np.where(np.isfinite(values), values, np.nan), axis=1)
        pooled = auroc_statistic(labels, score, resampler)
        if clustered_interval(pooled, resampler).estimate < 0.5:
            score = -score
            pooled = auroc_statistic(labels, score, resampler)
        matched = length_matched_statistic(labels, score, lengths, resampler)
        found[transform] = {
            "spearman": float(np.abs(rho).mean()), "spearman_max": float(np.abs(rho).max()),
            "auroc": _listed(clustered_interval(pooled, resampler)),
            "auroc_at_equal_length": _listed(clustered_interval(matched, resampler)),
        }
    return found


def _varies(values: Array) -> bool:
    return bool(np.isfinite(values).all() and np.ptp(values) > 0)


def _listed(interval: Any) -> list[float]:
    return [round(float(x), 4) for x in (interval.estimate, interval.low, interval.high)]


def _print(rows: Sequence[Mapping[str, Any]]) -> None:
    kinds = ("raw", "z_uniform", "z_recency", "z_permuted")
    for title, field in (("|Spearman| with length", "spearman"),
                         ("AUROC at equal length", "auroc_at_equal_length")):
        print(f"\n{title:60}", *(k.rjust(11) for k in kinds))
        for row in rows:
            name = "__".join(p for p in (row["descriptor"], row["span"], row["signal"]) if p)
            cells = [row.get(k, {}).get(field) for k in kinds]
            shown = [c[0] if isinstance(c, list) else c for c in cells]
            print(f"{name:60}", *("-".rjust(11) if c is None else f"{c:11.3f}" for c in shown))


def _progress(done: int, total: int) -> None:
    print(f"\r{done} of {total} traces", end="" if done < total else "\n", flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--traces", type=Path, required=True, help="a gsm8k-solutions file")
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--problems", type=int, default=60)
    parser.add_argument("--per-problem", type=int, default=3)
    parser.add_argument("--every", type=int, default=3, help="read each n-th layer")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path,
                        default=Path("benchmarks/results/null_correction.json"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
