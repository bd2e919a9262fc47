"""Label-free scores of a feature file, judged with its labels, which none of them has seen.

    python -m benchmarks.label_free features.parquet --output benchmarks/results/label_free.json

Distances are fitted per problem-grouped fold, on unlabelled and on valid-only traces.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.scores import Table
from validator.features.table import read_features
from validator.splits import problem_folds
from validator.types import FeatureMatrix
from validator.unsupervised import ReferenceDistance, available_presets, score_label_free

METHODS = ("mahalanobis", "knn", "isolation_forest")


def main() -> None:
    """Score, judge, print, save."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("features", type=Path)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    features = read_features(args.features)
    table = Table(features, args.resamples)
    for name, scores in score_label_free(features).items():
        if np.isnan(scores).any():
            print(f"{name}: undefined for {int(np.isnan(scores).sum())} traces, left out")
        else:
            table.add(name, scores)
    for method in METHODS:
        for reference in ("unlabelled", "valid only"):
            table.add(f"{method} distance, {reference}",
                      _distance(features, method, reference == "valid only", args.folds))
    _, missing = available_presets(features)
    result = {"rows": table.rows, "unavailable": dict(missing), "folds": args.folds,
              "provenance": asdict(features.provenance), "traces": len(features)}
    args.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def _distance(
    features: FeatureMatrix, method: str, valid_only: bool, folds: int
) -> NDArray[np.float64]:
    y, scores = features.labels, np.full(len(features), np.nan)
    for train, test in problem_folds(features.problem_ids, y, folds, 0):
        reference = train[y[train] == 1] if valid_only else train
        model = ReferenceDistance(method).fit(features.take(reference))
        scores[test] = model.score(features.take(test))
    return scores


if __name__ == "__main__":
    main()
