"""What optimising a score does to length and accuracy: the pressure of best-of-n by each score.

    python -m benchmarks.reward_hacking --output benchmarks/results/reward_hacking.json

The shipped answers of the default model, 8 to each of 150 problems, none of which the shipped
classifier was trained on. For each score the best of the first n = 1, 2, 4, 8 answers is kept, as a
policy that learns from the score would come to prefer it: mean length and accuracy of what is kept.

A policy is not held to what it writes today. So one wrong answer to each problem is also cut to its
first sentence, and lengthened by its last sentence three times more: wrong it remains. How often
does each score now prefer it to a right answer as it was sampled?
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from validator.audit.correlation import spearman
from validator.metrics import Resampler, best_of_n, clustered_interval, mean_statistic, oracle
from validator.plugins.reward import LengthTrend
from validator.scoring import Validator, shipped_artifact
from validator.training.datasets import load_traces
from validator.training.fit import prompt_hash
from validator.types import FeatureMatrix, Trace

MODEL = "smollm2-135m-instruct"
SIZES = (1, 2, 4, 8)
SCORES = ("fiedler_value", "hfer", "attention_entropy", "mean_logprob", "completion_length")
Array = NDArray[np.float64]


def main() -> None:
    """Score, choose, print, save."""
    args = _arguments()
    torch.set_num_threads(args.threads)
    folder = shipped_artifact(MODEL)
    assert folder is not None
    validator = Validator.load(folder, store=args.store)
    with as_file(files("validator.data").joinpath("demo_traces.jsonl")) as path:
        traces = [t for t in load_traces(path)
                  if prompt_hash(t.prompt) not in validator.trained_on_problems]
    validator.prepare()
    features = validator.extractor.transform(traces)
    lengths = features.lengths[:, 1]
    bare = _scores(validator, features)
    trends = {n: LengthTrend.fit(bare[n], lengths) for n in ("fiedler_value", "learned")}
    scores = _with_trends(bare, lengths, trends)
    rows = [pressure(name, values, lengths, features.labels, features.problem_ids)
            for name, values in scores.items()]
    result = {"model": MODEL, "traces": len(traces),
              "problems": len(set(features.problem_ids.tolist())),
              "oracle": float(oracle(features.labels, features.problem_ids).values.mean()),
              "rows": rows, "edited": edited(traces, validator, trends)}
    print(table(result))
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def _scores(validator: Validator, features: FeatureMatrix) -> dict[str, Array]:
    found = validator.score_features(features)
    scores = {n: np.array([s.unsupervised[n] for s in found]) for n in SCORES}
    return scores | {"learned": np.array([s.learned for s in found], dtype=np.float64)}


def _with_trends(
    scores: dict[str, Array], lengths: NDArray[np.int64], trends: dict[str, LengthTrend]
) -> dict[str, Array]:
    rest = {f"{n} less its length trend": scores[n] - t.expected(lengths)
            for n, t in trends.items()}
    return scores | rest


def edited(
    traces: Sequence[Trace], validator: Validator, trends: dict[str, LengthTrend]
) -> dict[str, Any]:
    """Share of problems in which a score prefers an edited wrong answer to a right one; ties half.

    Of each problem that has both, the first right and the first wrong answer.
    """
    problems = list(dict.fromkeys(t.problem_id for t in traces))
    first = {label: {t.problem_id: t for t in reversed(traces) if t.label == label}
             for label in (0, 1)}
    both = [p for p in problems if p in first[0] and p in first[1]]
    made = [first[1][p] for p in both]
    for name, edit in EDITS.items():
        made += [replace(first[0][p], id=f"{p}-{name}", completion=edit(first[0][p].completion))
                 for p in both]
    features = validator.extractor.transform(made)
    lengths = features.lengths[:, 1]
    scores = _with_trends(_scores(validator, features), lengths, trends)
    parts = {name: slice((i + 1) * len(both), (i + 2) * len(both)) for i, name in enumerate(EDITS)}
    shares = {
        score: {name: _preferred(values[part], values[: len(both)])
                for name, part in parts.items()} for score, values in scores.items()}
    return {"problems": len(both), "shares": shares,
            "lengths": {"right": float(lengths[: len(both)].mean())} | {
                name: float(lengths[part].mean()) for name, part in parts.items()}}


def _preferred(wrong: Array, right: Array) -> float:
    return float(np.mean((wrong > right) + 0.5 * (wrong == right)))


def _sentences(text: str) -> list[str]:
    return [f"{s}." for s in text.rstrip(".").split(".") if s.strip()]


EDITS: dict[str, Callable[[str], str]] = {
    "as sampled": lambda text: text,
    "cut": lambda text: _sentences(text)[0],
    "lengthened": lambda text: text + 3 * _sentences(text)[-1],
}


def pressure(
    name: str, scores: Array, lengths: NDArray[np.int64], labels: NDArray[np.int64],
    problems: NDArray[Any],
) -> dict[str, Any]:
    """Mean length and accuracy of the best by a score of the first n answers to each problem.

    Args:
        name: of the score.
        scores: (N,).
        lengths: (N,) tokens.
        labels: (N,).
        problems: (N,) ids.
    """
    rho = float(spearman(scores[:, None], lengths.astype(np.float64))[0])
    row: dict[str, Any] = {"score": name, "spearman_with_length": rho, "best_of": {}}
    groups = _rows(problems)
    for n in SIZES:
        first = np.concatenate([rows[:n] for rows in groups])
        kept = [rows[int(np.argmax(scores[rows[:n]]))] for rows in groups]
        right = best_of_n(labels[first], scores[first], problems[first])
        resampler = Resampler(problems[first], seed=0)
        interval = clustered_interval(mean_statistic(right, resampler), resampler)
        row["best_of"][n] = {"length": float(lengths[kept].mean()), "accuracy": interval.estimate,
                             "low": interval.low, "high": interval.high}
    return row


def _rows(problems: NDArray[Any]) -> list[list[int]]:
    groups: dict[str, list[int]] = defaultdict(list)
    for i, problem in enumerate(problems.tolist()):
        groups[problem].append(i)
    return list(groups.values())


def table(result: dict[str, Any]) -> str:
    """The rows as Markdown."""
    head = " | ".join(f"n = {n}" for n in SIZES)
    lines = [f"| score | rho with length | {head} |", "|---|---|" + "---|" * len(SIZES)]
    for row in result["rows"]:
        cells: Sequence[str] = [
            f"{b['length']:.1f} tokens, {b['accuracy']:.3f}" for b in row["best_of"].values()]
        lines.append(f"| {row['score']} | {row['spearman_with_length']:+.2f} | "
                     f"{' | '.join(cells)} |")
    lines.append(f"\noracle: {result['oracle']:.3f}\n")
    told = result["edited"]
    length = told["lengths"]
    names = " | ".join(f"{n}, {length[n]:.1f} tokens" for n in EDITS)
    lines += [f"{told['problems']} problems, right answers {length['right']:.1f} tokens\n",
              f"| score | wrong {names} |", "|---|" + "---|" * len(EDITS)]
    lines += [f"| {score} | " + " | ".join(f"{v:.2f}" for v in own.values()) + " |"
              for score, own in told["shares"].items()]
    return "\n".join(lines)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--store", type=Path, help="feature store")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path,
                        default=Path("benchmarks/results/reward_hacking.json"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
