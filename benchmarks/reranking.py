"""What choosing among N answers is worth: on the trained kind of problem, on others, on GSM8K.

    python -m benchmarks.reranking TRAINING.parquet one-step=A.parquet two-step=B.parquet \\
        --cross-validate two-step=B.parquet gsm8k=C.parquet

``TRAINING`` are the features that the shipped classifier was trained on: the character n-gram
baseline is fitted to the same traces. Each ``NAME=FILE`` is judged by that classifier, on problems
it has not seen; each set under ``--cross-validate`` by classifiers fitted to its own other
problems. Features are those of ``validator extract``, feature set ``default``.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from validator.audit import SurfaceBaseline, surface_texts, texts_beside
from validator.classifier import ValidityClassifier, load_artifact
from validator.cli.rerank import show_report
from validator.features.table import read_features
from validator.scoring import Validator, shipped_artifact
from validator.training.evaluate import cross_validate
from validator.training.fit import unseen_rows
from validator.training.reranking import RerankingReport, judge_reranking
from validator.types import FeatureMatrix
from validator.unsupervised import score_label_free

MODEL = "smollm2-135m-instruct"
COMPARED = {"learned": "validity", "logprob": "mean_logprob", "surface": "surface",
            "baselines": "length + log-prob + surface", "baselines+learned": "all three + validity"}
"""Out-of-fold scores and their names in the table."""


def main() -> None:
    """Judge every set, print, save."""
    args = _arguments()
    folder = args.artifact or shipped_artifact(MODEL)
    assert folder is not None
    training = read_features(args.training)
    surface = SurfaceBaseline().fit(surface_texts(training.traces), training.labels)
    found: dict[str, Any] = {}
    for name, path in args.sets:
        features = read_features(path)
        features = features.take(unseen_rows(load_artifact(folder), features))
        report = _by_artifact(Validator.load(folder), features, surface, training)
        found[f"{name}, classifier as trained on other problems"] = _told(report, name)
    for name, path in args.cross_validate:
        started = time.perf_counter()
        report = _by_folds(read_features(path), args.kind)
        found[f"{name}, cross-validated"] = _told(report, f"{name}, cross-validated")
        print(f"{time.perf_counter() - started:.0f} s")
    args.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def _by_artifact(validator: Validator, features: FeatureMatrix, surface: SurfaceBaseline,
                 training: FeatureMatrix) -> RerankingReport:
    scored = validator.score_features(features)
    names = [n for n in scored[0].unsupervised if n != "ensemble"]
    scores = {"validity": np.array([s.margin for s in scored], dtype=np.float64)}
    scores |= {n: np.array([s.unsupervised[n] for s in scored]) for n in names}
    scores["surface"] = surface.decision_function(texts_beside(training.traces, features.traces))
    return _judged(features, scores, np.array([s.learned for s in scored], dtype=np.float64))


def _by_folds(features: FeatureMatrix, kind: str) -> RerankingReport:
    oof = cross_validate(features, ValidityClassifier(kind), n_splits=5)
    free = score_label_free(features)
    scores = {new: oof.scores[old] for old, new in COMPARED.items()}
    scores |= {n: v for n, v in free.items() if n not in ("ensemble", *scores)}
    return _judged(features, scores, 1 / (1 + np.exp(-scores["validity"])))


def _judged(features: FeatureMatrix, scores: dict[str, NDArray[np.float64]],
            chances: NDArray[np.float64]) -> RerankingReport:
    return judge_reranking(
        features.labels, features.problem_ids, [t.answer for t in features.traces], scores,
        chances=chances)


def _told(report: RerankingReport, title: str) -> dict[str, Any]:
    out = Console(width=140)
    out.rule(title)
    show_report(report, out)
    for rule, gain in {**report.gains, **report.vote_gains}.items():
        out.print(f"  {rule}: {gain.estimate:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]")
    return report.to_json()


def _pair(text: str) -> tuple[str, Path]:
    name, _, path = text.partition("=")
    return name, Path(path)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("training", type=Path)
    parser.add_argument("sets", nargs="*", type=_pair, metavar="NAME=FILE")
    parser.add_argument("--cross-validate", nargs="*", type=_pair, default=[], metavar="NAME=FILE")
    parser.add_argument("--kind", default="xgboost")
    parser.add_argument("--artifact", type=Path)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/reranking.json"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
