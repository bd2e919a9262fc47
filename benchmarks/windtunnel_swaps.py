"""Two nodes swapped in a walk: how differently do models that walk without fault see it?

    python -m benchmarks.windtunnel_swaps --seeds 0 1 2 3 4 5 6 7 8 9 --steps 600
    python -m benchmarks.windtunnel_swaps --seeds 0 1 2 --steps 1500

trains one model of one layer and two heads for each seed, and adds to the file of results: AUROC of
all attention columns between right walks and their twins of equal length, out of fold; and, as a
way to see how it is seen, in how many pairs the twin's steps look at the prompt more than the right
walk's do, for each head (0.5 where it makes no difference).
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr

from benchmarks.windtunnel_results import add_result
from validator.metrics import Resampler, clustered_interval
from validator.windtunnels.study_judging import Contest, cross_fitted
from validator.windtunnels.study_reading import read_columns
from validator.windtunnels.study_signals import FEATURES, read_signals
from validator.windtunnels.study_subjects import SUBJECTS, train_pair, twins

SUBJECT = "tree-edges-late"


def main() -> None:
    """Train, read, judge, add to the results."""
    args = _arguments()
    torch.set_num_threads(1)
    found = {}
    for seed in args.seeds:
        found[str(seed)] = measure(seed, args.steps, args.twins)
        print(f"{args.steps} batches, seed {seed}: {found[str(seed)]}", flush=True)
    add_result(args.output, f"{args.steps} batches", found)
    print(summary(found))


def summary(found: dict[str, dict[str, Any]]) -> str:
    """Mean and range of the AUROC, and whether it goes with a head that looks back less."""
    auroc = [model["auroc"] for model in found.values()]
    text = f"mean {np.mean(auroc):.3f}, {min(auroc):.3f} to {max(auroc):.3f}"
    if len(found) < 3:
        return text
    less = [0.5 - min(model["twin_looks_back_more"]) for model in found.values()]
    rho = spearmanr(auroc, less).statistic
    return f"{text}; Spearman with how far a head's share lies below one half {rho:+.2f}"


def measure(seed: int, steps: int, count: int) -> dict[str, Any]:
    """One model's exact accuracy, AUROC of swaps, and how its heads' lookback ratio moves."""
    subject = dataclasses.replace(SUBJECTS[SUBJECT], steps=steps, reads=steps)
    pair = train_pair(subject, seed, count)
    right, wrong = twins(subject, pair.problems[:count], "swapped", seed)
    traces = [*right, *wrong]
    contest = Contest(
        read_signals(pair.reader, traces), np.array([t.label for t in traces]),
        np.array([t.problem_id for t in traces]),
        np.array([f"{len(t.prompt.split())} {len(t.completion.split())} {t.meta['depth']}"
                  for t in traces]))
    scores = cross_fitted(contest, seed=seed, only={"attention"})["attention"]
    resampler = Resampler(contest.problems, 1000, seed)
    interval = clustered_interval(contest.statistic(scores, resampler), resampler)
    return {"exact": pair.reader_accuracy, "auroc": round(interval.estimate, 4),
            "interval": [round(interval.low, 4), round(interval.high, 4)],
            "twin_looks_back_more": _lookback(pair.reader, traces, count)}


def _lookback(reader: Any, traces: Any, count: int) -> list[float]:
    """For each head: share of pairs whose wrong walk reads the prompt more; ties are one half."""
    read = read_columns(reader, traces, FEATURES)
    rows = [i for i, c in enumerate(read.columns)
            if c.descriptor == "lookback_ratio" and c.span == "completion"]
    gain = read.values[count:, rows] - read.values[:count, rows]
    return [round(float(x), 3) for x in ((gain > 0) + 0.5 * (gain == 0)).mean(axis=0)]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=600, help="batches of the training")
    parser.add_argument("--twins", type=int, default=500, help="trees")
    parser.add_argument("--output", type=Path,
                        default=Path("benchmarks/results/windtunnel_swaps.json"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
