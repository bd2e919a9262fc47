"""CPU time and tokens of N samples, with and without stopping the bad ones early.

    OMP_NUM_THREADS=1 python -m benchmarks.monitor_sampling --below 0.2 \\
        --output benchmarks/results/monitor_sampling.json

Answers of the default model to one-step problems that no classifier was trained on. Three ways take
turns on each problem: plain sampling in a batch; the same under the monitor, with nothing stopped;
and with samples stopped whose P(valid) falls below the threshold. The answer kept is the one with
the highest P(valid). Every last score is compared with the offline extractor's on the same tokens.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from validator.classifier import load_artifact
from validator.features.extractor import SpectralFeatureExtractor
from validator.models.loading import load_model
from validator.plugins.monitor import (
    EarlyStopped,
    ValidityMonitor,
    sample_with_early_stopping,
    shipped_prefix_artifact,
)
from validator.training.answers import check, parse_answer
from validator.training.decoding import Sampler, Sampling
from validator.training.problems import problem_set, prompt_format
from validator.types import Trace

MODEL = "smollm2-135m-instruct"


def main() -> None:
    """Sample in three ways, compare, print, save."""
    args = _arguments()
    torch.set_num_threads(1)
    loaded = load_model(MODEL)
    artifact = args.artifact or shipped_prefix_artifact(MODEL)
    monitor = ValidityMonitor(loaded, artifact=artifact).prepare()
    style = prompt_format("one-step")
    sampling = Sampling(args.n, args.temperature, max_new_tokens=style.max_new_tokens,
                        seed=args.seed)
    rows, gaps = [], list[float]()
    for problem in problem_set("one-step", args.problems, args.seed):
        prompt = style.prompt(problem.question)

        def stopping(below: float, prompt: str = prompt) -> EarlyStopped:
            return sample_with_early_stopping(
                monitor, prompt, sampling, style.stop, below=below, checks=tuple(args.checks))

        row: dict[str, Any] = {"problem": problem.id}
        plain, row["plain_cpu"] = _timed(lambda prompt=prompt: Sampler(  # type: ignore[misc]
            loaded.model, loaded.tokenizer, [prompt], sampling, style.stop).draw((0,))[0])
        row["plain_tokens"] = sum(c.tokens for c in plain)
        for name, below in (("watched", -1.0), ("stopping", args.below)):
            found, row[f"{name}_cpu"] = _timed(lambda below=below: stopping(below))  # type: ignore[misc]
            row[f"{name}_tokens"] = found.tokens
            answer = parse_answer(found.best.text, style.answer_style)
            row[f"{name}_right"] = answer is not None and check(
                answer, problem.target, style.answer_style)
            gaps += _gaps(loaded, artifact, prompt, found)
        rows.append(row)
        print(json.dumps(row), flush=True)
    result = {"model": MODEL, "n": args.n, "below": args.below, "checks": args.checks,
              "problems": len(rows), "sum": {
                  key: sum(r[key] for r in rows) for key in rows[0] if key != "problem"},
              "largest_score_difference": max(gaps), "scores_compared": len(gaps),
              "scores_within_0.001": float(np.mean(np.array(gaps) <= 1e-3)), "rows": rows}
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({k: v for k, v in result.items() if k != "rows"}, indent=1))


def _timed(run: Callable[[], Any]) -> tuple[Any, float]:
    started = time.process_time()
    found = run()
    return found, time.process_time() - started


def _gaps(loaded: Any, folder: Any, prompt: str, found: EarlyStopped) -> list[float]:
    """Difference of each sample's last score and the classifier's on the text, read offline."""
    artifact = load_artifact(folder)
    traces, own = [], []
    for i, sample in enumerate(found.samples):
        ids = loaded.tokenizer(sample.text, add_special_tokens=False)["input_ids"]
        if sample.score is not None and len(ids) >= sample.tokens - 1:
            traces.append(Trace(str(i), "p", prompt, loaded.tokenizer.decode(
                ids[: sample.tokens - 1])))
            own.append(sample.score)
    if not traces:
        return []
    rows = SpectralFeatureExtractor(loaded, feature_set="monitor").fit_transform(traces)
    expected = artifact.classifier.predict_proba(rows.select(artifact.feature_names))[:, 1]
    return [abs(float(a) - b) for a, b in zip(expected, own, strict=True)]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--below", type=float, required=True)
    parser.add_argument("--checks", type=int, nargs="+", default=[6, 10])
    parser.add_argument("--problems", type=int, default=20)
    parser.add_argument("--n", type=int, default=8)
    parser.add_argument("--temperature", type=float, default=0.6)
    parser.add_argument("--seed", type=int, default=77, help="of problems and draws (default: 77)")
    parser.add_argument("--artifact", type=Path)
    parser.add_argument("--output", type=Path,
                        default=Path("benchmarks/results/monitor_sampling.json"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
