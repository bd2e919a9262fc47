"""Is the classifier that ships more than memory of problems, and does it carry over?

    python -m benchmarks.shipped TRAINING.parquet OTHER.parquet --transfer GSM8K.parquet

``TRAINING`` are the features it was trained on, ``OTHER`` those of other problems of the same
generator, ``GSM8K`` of any other traces that hold its columns. A question's kind is its text with
names, things and places blanked: two questions of a kind have the same wording and numbers. Scores
of the training problems are the out-of-fold margins in the artifact's manifest.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from validator.classifier import load_artifact
from validator.classifier.venn_abers import CALIBRATION
from validator.configs.loading import read_yaml
from validator.features.table import read_features
from validator.scoring import shipped_artifact
from validator.training.judge import Judge
from validator.types import FeatureMatrix

MODEL = "smollm2-135m-instruct"


def main() -> None:
    """Judge, print, save."""
    args = _arguments()
    folder = shipped_artifact(MODEL)
    assert folder is not None
    artifact = load_artifact(folder)
    training, other = read_features(args.training), read_features(args.other)
    kinds, questions = _kinds(training), set(_questions(training).values())
    counts = Counter(kinds.values())
    fold = np.array(artifact.manifest["metadata"][CALIBRATION]["margins"])
    once = np.array([counts[kinds[p]] == 1 for p in training.problem_ids])
    scores = artifact.classifier.decision_function(other.select(artifact.feature_names))
    asked, kind = _questions(other), _kinds(other)
    seen = np.array([asked[p] in questions for p in other.problem_ids])
    known = np.array([counts[kind[p]] > 0 for p in other.problem_ids]) & ~seen
    result = {
        "training": {"problems": len(kinds), "kinds": len(counts)},
        "out of fold, kind occurs once": _judged(training, fold, once),
        "out of fold, kind occurs several times": _judged(training, fold, ~once),
        "same question": {"problems": len(set(other.problem_ids[seen]))},
        "other problems of a known kind": _judged(other, scores, known),
        "other problems of a new kind": _judged(other, scores, ~known & ~seen),
    }
    if args.transfer is not None:
        away = read_features(args.transfer)
        margins = artifact.classifier.decision_function(away.select(artifact.feature_names))
        result["transfer"] = _judged(away, margins, np.ones(len(away), dtype=bool))
    print(json.dumps(result, indent=1))
    args.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def _judged(features: FeatureMatrix, scores: NDArray[np.float64],
            rows: NDArray[np.bool_]) -> dict[str, Any]:
    part = features.take(np.flatnonzero(rows))
    judge = Judge(part.labels, part.problem_ids, part.lengths[:, 1],
                  [t.answer for t in part.traces], 1000, 0)
    return {"problems": len(judge.resampler.problems), "traces": len(part),
            **asdict(judge.verdict(scores[rows]))}


def _questions(features: FeatureMatrix) -> dict[str, str]:
    return {t.problem_id: t.prompt.rsplit("Q: ", 1)[1] for t in features.traces}


def _kinds(features: FeatureMatrix) -> dict[str, str]:
    settings = read_yaml("problems/one-step.yaml")
    words = sorted((w for key in ("names", "things", "places") for w in settings[key]),
                   key=len, reverse=True)
    pattern = re.compile(r"\b(" + "|".join(words) + r")\b")
    return {p: pattern.sub("_", q) for p, q in _questions(features).items()}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("training", type=Path)
    parser.add_argument("other", type=Path)
    parser.add_argument("--transfer", type=Path)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/shipped.json"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
