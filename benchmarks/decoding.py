"""Time of sampling and scoring N answers to one problem: in one pass, or one after the other.

    python -m benchmarks.decoding --output benchmarks/results/decoding.json

Three timings on the same draws of the default model: ``generate`` alone; ``generate`` with the
features read while it decodes; ``generate``, and the same texts scored by a teacher-forced pass.
The features of the two ways are compared column by column.
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

from validator.plugins.rerank.generate import Generation, sample_and_read
from validator.scoring import Validator, shipped_artifact
from validator.training.decoding import Sampler, Sampling
from validator.training.problems import problem_set, prompt_format
from validator.types import FeatureMatrix

MODEL = "smollm2-135m-instruct"


def main() -> None:
    """Time the three, compare, print, save."""
    args = _arguments()
    torch.set_num_threads(args.threads)
    artifact = shipped_artifact(MODEL)
    assert artifact is not None
    validator = Validator.load(artifact).prepare()
    style = prompt_format("one-step")
    prompt = style.prompt(problem_set("one-step", 1, args.seed)[0].question)
    sampling = Sampling(args.n, max_new_tokens=style.max_new_tokens, seed=args.seed)
    extractor = validator.extractor

    def generate() -> Any:
        sampler = Sampler(
            extractor.model_, extractor.tokenizer_, [prompt], sampling, style.stop)
        return sampler.draw((0,))[0]

    def read() -> Generation:
        drawn = sample_and_read(extractor, prompt, sampling, style.stop)
        assert drawn.features is not None
        validator.score_features(drawn.features)
        return drawn

    drawn = read()  # also warms what is found by comparison on a first call
    readable = [t for t in drawn.traces if t.id not in drawn.unread]
    seconds, cpu_seconds = _fastest({
        "generate": generate, "generate_and_read": read,
        "score": lambda: validator.score(readable)}, args.repeats)
    assert [c.text for c in generate()] == [t.completion for t in drawn.traces]
    assert drawn.features is not None
    found = extractor.transform(readable)
    result = {
        "model": MODEL, "threads": args.threads, "n": args.n, "repeats": args.repeats,
        "prompt_tokens": int(found.lengths[0, 0]), "drawn_tokens": drawn.tokens,
        "reread": drawn.reread, "unread": dict(drawn.unread),
        "seconds": seconds, "cpu_seconds": cpu_seconds,
        "difference": _difference(drawn.features, found)}
    print(json.dumps(result, indent=1))
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def _fastest(
    work: dict[str, Callable[[], Any]], repeats: int
) -> tuple[dict[str, float], dict[str, float]]:
    """Seconds of the fastest of several runs of each, taken in turn: by the clock, and of CPU."""
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in work}
    for _ in range(repeats):
        for name, run in work.items():
            started = time.perf_counter(), time.process_time()
            run()
            spent[name].append((time.perf_counter() - started[0],
                                time.process_time() - started[1]))
    clock, cpu = ({name: min(t[i] for t in times) for name, times in spent.items()}
                  for i in range(2))
    for seconds in (clock, cpu):
        seconds["generate_then_score"] = seconds["generate"] + seconds["score"]
    return clock, cpu


def _difference(ours: FeatureMatrix, theirs: FeatureMatrix) -> dict[str, Any]:
    """Largest difference of each column, absolute or relative to values above 1."""
    gap = np.abs(ours.values - theirs.values) / np.maximum(1.0, np.abs(theirs.values))
    worst = np.nan_to_num(gap).max(0)
    return {"columns": len(worst), "largest": float(worst.max()),
            "column": ours.names[int(worst.argmax())],
            "share_below_1e-5": float((worst <= 1e-5).mean())}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--n", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/decoding.json"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
