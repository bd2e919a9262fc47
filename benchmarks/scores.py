"""Feature sets x classifiers, out of sample, beside everything they must beat.

    validator extract TRACES --features benchmarks/study.yaml -o study.parquet
    python -m benchmarks.scores study.parquet --output benchmarks/results/scores_NAME.json

One file of the feature set ``study`` holds the columns of the named sets; a set's columns are
those that reading one of the traces with it gives. ``full`` has columns the study lacks and takes
long to read: ``--full`` is a file of it, which may hold some of the traces; every row is then
computed on these. ``--second`` is a file of another reader. Folds never share a problem; intervals
resample problems; differences are paired.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone

from validator.classifier import ValidityClassifier
from validator.columns import Column
from validator.errors import LabelError
from validator.families import column_families, learned_names
from validator.features.extractor import SpectralFeatureExtractor
from validator.features.table import read_features
from validator.metrics import (
    Resampler,
    Statistic,
    auroc_statistic,
    best_of_n,
    clustered_interval,
    length_matched_statistic,
    mean_statistic,
    paired_difference,
    stratified_statistic,
    within_problem_statistic,
)
from validator.splits import problem_folds
from validator.training.evaluate import cross_validate
from validator.types import FeatureMatrix

Scores = NDArray[np.float64]

KINDS: dict[str, ValidityClassifier] = {
    "logistic": ValidityClassifier("logistic"),
    "xgboost": ValidityClassifier("xgboost", n_jobs=-1),
    "mlp": ValidityClassifier("mlp", n_components=64),
}
SETS = ("paper", "lapeigvals", "fast", "default")
NESTED = ("default",)
"""Sets for which the stacks on length, log-prob and surface are computed too."""
WIDE = 20_000
"""Columns above which only the logistic regression is fitted: the others take an hour."""


def main() -> None:
    """Score, compare, print, save."""
    args = _arguments()
    features = read_features(args.features)
    full = None if args.full is None else read_features(args.full)
    if full is not None:
        where = {t: i for i, t in enumerate(features.trace_ids)}
        features = features.take([where[t] for t in full.trace_ids])
    sets = {name: _columns_of(name, features) for name in args.sets}
    if set(learned_names(features.names)) != set(sets.get("default", ())):
        sets["study"] = learned_names(features.names)
    table = Table(features, args.resamples)
    for name, scores in _baselines(features, args, sets).items():
        table.add(name, scores)
    for name, columns in sets.items():
        for kind in args.kinds if len(columns) < WIDE else ("logistic",):
            _timed(table, f"{name} / {kind}", lambda c=columns, k=kind: _out_of_fold(  # type: ignore[misc]
                features.select(c), features, KINDS[k], args))
    if full is not None:
        names = learned_names(full.names)
        for kind in args.kinds:
            _timed(table, f"full / {kind}", lambda k=kind, c=names: _out_of_fold(  # type: ignore[misc]
                full.select(c), features, KINDS[k], args))
    for label, matrix in _others(args, features).items():
        names = learned_names(matrix.names)
        _timed(table, f"{label} / logistic", lambda m=matrix, n=names: _out_of_fold(  # type: ignore[misc]
            m.select(n), features, KINDS["logistic"], args))
    result = table.to_json() | {
        "features": str(args.features.name), "folds": args.folds, "stacked": args.stacked}
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


class Table:
    """Rows of scores, each judged on the same resamples, and paired differences."""

    def __init__(self, features: FeatureMatrix, resamples: int) -> None:
        self.features = features
        self.resampler = Resampler(features.problem_ids, resamples, 0)
        self.scores: dict[str, Scores] = {}
        self.rows: dict[str, dict[str, Any]] = {}

    def statistics(self, scores: Scores) -> dict[str, Statistic]:
        """Pooled, within-source, length-matched and within-problem AUROC, and best of N."""
        f, r = self.features, self.resampler
        makers: dict[str, Callable[[], Statistic]] = {
            "pooled": lambda: auroc_statistic(f.labels, scores, r),
            "within_source": lambda: stratified_statistic(
                f.labels, scores, [t.source for t in f.traces], r),
            "length_matched": lambda: length_matched_statistic(
                f.labels, scores, f.lengths[:, 1], r),
            "within_problem": lambda: within_problem_statistic(f.labels, scores, r),
            "best_of_n": lambda: mean_statistic(best_of_n(f.labels, scores, f.problem_ids), r),
        }
        found = {}
        for name, make in makers.items():
            try:
                found[name] = make()
            except LabelError:
                continue
        return found

    def add(self, name: str, scores: Scores, seconds: float | None = None) -> None:
        """One row, printed as it comes."""
        self.scores[name] = scores
        statistics = self.statistics(scores)
        row = {k: asdict(clustered_interval(s, self.resampler)) for k, s in statistics.items()}
        self.rows[name] = row
        cells = [f"{v['estimate']:.3f} [{v['low']:.3f}, {v['high']:.3f}]" for v in row.values()]
        if not self.rows or len(self.rows) == 1:
            print(" " * 30, *(k.ljust(20) for k in row))
        print(name.ljust(30), *cells, "" if seconds is None else f"{seconds:.0f} s", flush=True)

    def difference(self, above: str, below: str) -> dict[str, Any]:
        """above - below for every statistic."""
        a, b = self.statistics(self.scores[above]), self.statistics(self.scores[below])
        return {k: asdict(paired_difference(a[k], b[k], self.resampler)) for k in a}

    def to_json(self) -> dict[str, Any]:
        """Rows, and the differences that the claims are about."""
        learned = [n for n in self.scores if " / " in n]
        best = max(learned, key=lambda n: self.rows[n]["length_matched"]["estimate"])
        pairs = [(best, b) for b in self.scores if b != best]
        pairs += [(f"length+logprob+{n}", "length+logprob") for n in NESTED]
        pairs += [(f"baselines+{n}", "baselines") for n in NESTED]
        known = [(a, b) for a, b in pairs if a in self.scores and b in self.scores]
        facts = {"traces": len(self.features), "problems": len(self.resampler.problems),
                 "valid": float(self.features.labels.mean()),
                 "provenance": asdict(self.features.provenance)}
        differences = {f"{a} - {b}": self.difference(a, b) for a, b in known}
        for name, parts in differences.items():
            print(name.ljust(60), *(f"{k} {v['estimate']:+.3f} [{v['low']:+.3f}, {v['high']:+.3f}]"
                                    for k, v in parts.items()))
        return {"facts": facts, "rows": self.rows, "differences": differences}


def _columns_of(name: str, features: FeatureMatrix) -> tuple[str, ...]:
    """The learned columns of a set, all of which the features must hold."""
    one = SpectralFeatureExtractor(features.provenance.model, feature_set=name)
    short = min(features.traces, key=lambda t: len(t.prompt + t.completion))
    columns = learned_names(one.fit_transform([short]).names)
    features.take([0]).select(columns)
    return columns


def _baselines(
    features: FeatureMatrix, args: argparse.Namespace, sets: dict[str, tuple[str, ...]]
) -> dict[str, Scores]:
    """Length, log-prob, surface, their stacks with and without spectra, and the probe."""
    found: dict[str, Scores] = {}
    baseline = [str(Column(b)) for b in ("prompt_length",)]
    found["question length"] = features.select(baseline)[:, 0].astype(np.float64)
    for name in NESTED:
        columns = sets[name] if name in sets else learned_names(features.names)
        keep = np.r_[column_families(features.names)["baselines"],
                     [features.names.index(c) for c in columns],
                     _probe(features.names)]
        oof = cross_validate(
            _with_columns(features, keep.astype(int)), KINDS[args.stacked], n_splits=args.folds,
            seed=args.seed)
        plain = {"length": "length", "logprob": "logprob", "surface": "surface",
                 "single": f"best single of {name}", "length+logprob": "length+logprob",
                 "baselines": "baselines", "probe": "hidden-state probe"}
        found |= {new: oof.scores[old] for old, new in plain.items() if old in oof.scores}
        found[f"length+logprob+{name}"] = oof.scores["length+logprob+learned"]
        found[f"baselines+{name}"] = oof.scores["baselines+learned"]
    return found


def _probe(names: Sequence[str]) -> list[int]:
    """The mean hidden states, which ``--features SET+probe`` has too."""
    return [i for i, n in enumerate(names) if n.startswith("state_mean_")]


def _with_columns(features: FeatureMatrix, keep: NDArray[np.int64]) -> FeatureMatrix:
    import dataclasses

    return dataclasses.replace(
        features, values=features.values[:, keep], names=tuple(features.names[i] for i in keep))


def _out_of_fold(
    X: NDArray[np.float32], features: FeatureMatrix, classifier: ValidityClassifier,
    args: argparse.Namespace,
) -> Scores:
    y, groups = features.labels, features.problem_ids
    scores = np.full(len(y), np.nan)
    for train, test in problem_folds(groups, y, args.folds, args.seed):
        model = clone(classifier).fit(X[train], y[train], groups=groups[train])
        scores[test] = model.decision_function(X[test])
    return scores


def _others(args: argparse.Namespace, features: FeatureMatrix) -> dict[str, FeatureMatrix]:
    """Features of a second reader, alone and beside the first's."""
    if args.second is None:
        return {}
    second = read_features(args.second)
    if second.trace_ids != features.trace_ids:
        raise LabelError("--second is of other traces; extract it from the same file")
    return {f"second reader ({second.provenance.model})": second}


def _timed(table: Table, name: str, score: Callable[[], Scores]) -> None:
    started = time.perf_counter()
    scores = score()
    table.add(name, scores, time.perf_counter() - started)


def _arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("features", type=Path)
    parser.add_argument("--sets", nargs="*", default=list(SETS))
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--stacked", default="logistic", choices=list(KINDS),
                        help="classifier of the spectra that stacks add (default: logistic)")
    parser.add_argument("--full", type=Path, help="features of the set `full`, of all or some "
                                                  "of the traces")
    parser.add_argument("--second", type=Path, help="the same traces read by another model")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--output", type=Path, required=True)
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
