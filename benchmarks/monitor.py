"""What watching costs: CPU time of ``generate`` with and without the monitor, token by token.

    OMP_NUM_THREADS=1 python -m benchmarks.monitor --output benchmarks/results/monitor.json

Greedy decoding of the default model on one thread, with a context that ends at ``--context``
tokens. Plain and monitored runs take turns; a run's time is CPU time of the process, so that other
work on the machine counts little, over the last ``--tokens`` tokens before the context's end. The
ratio is the median over pairs of neighbouring runs. ``own`` is the time spent inside the monitor
during watched runs: it does not see what the monitor does to the processor's caches, but does not
depend on what else ran during the plain run.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers import StoppingCriteria

from validator.models.loading import load_model
from validator.plugins.monitor import ValidityMonitor, shipped_prefix_artifact

MODEL = "smollm2-135m-instruct"


def main() -> None:
    """Time each way of watching beside plain ``generate``; print, save."""
    args = _arguments()
    torch.set_num_threads(1)
    loaded = load_model(MODEL)
    artifact = args.artifact or shipped_prefix_artifact(MODEL)
    result: dict[str, Any] = {
        "model": MODEL, "context": args.context, "tokens": args.tokens, "repeats": args.repeats,
        "threads": 1, "torch": torch.__version__, "transformers": transformers.__version__}
    rows = {}
    for completion in args.completion:
        for name, options in _ways(artifact).items():
            if args.only and name not in args.only:
                continue
            monitor = ValidityMonitor(loaded, **options).prepare()
            timed = _Timed(loaded, monitor, args.context, completion, args.tokens)
            rows[f"{name}, completion of {completion}"] = timed.run(args.repeats)
            print(json.dumps({f"{name}, completion of {completion}": rows[
                f"{name}, completion of {completion}"]}), flush=True)
    result["rows"] = rows
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def _ways(artifact: Path | None) -> dict[str, dict[str, Any]]:
    ways: dict[str, dict[str, Any]] = {
        "rows only": {"feature_set": "monitor"},
        "mean_logprob": {"score": "mean_logprob"},
        "attention_entropy": {"score": "attention_entropy"},
    }
    if artifact is not None:
        ways["P(valid), every token"] = {"artifact": artifact}
        ways["P(valid), every 4th token"] = {"artifact": artifact, "score_every": 4}
    return ways


class _Clock(StoppingCriteria):  # type: ignore[misc]
    """Notes the CPU time of the process after each token."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self, input_ids: torch.Tensor, scores: Any, **options: Any) -> torch.Tensor:
        self.times.append(time.process_time())
        return torch.zeros(len(input_ids), dtype=torch.bool)

    def each(self, tokens: int) -> float:
        """Mean seconds of the last so many tokens."""
        return (self.times[-1] - self.times[-1 - tokens]) / tokens


class _Own:
    """CPU time spent in the monitor itself, token by token, within a watched run."""

    def __init__(self, monitor: ValidityMonitor) -> None:
        self.spent, self.marks = 0.0, list[float]()
        following: Any = monitor._following
        following.rows.add = self._counted(following.rows.add)
        self.after = self._counted(following._after)
        hooks = following.model._forward_hooks
        key = next(k for k, hook in hooks.items() if hook == following._after)
        hooks[key] = self.after
        self.call = self._counted(monitor)

    def _counted(self, work: Any) -> Any:
        def counted(*args: Any, **options: Any) -> Any:
            started = time.process_time()
            found = work(*args, **options)
            self.spent += time.process_time() - started
            return found

        return counted

    def __call__(self, *args: Any, **options: Any) -> Any:
        """The monitor, as a stopping criterion."""
        found = self.call(*args, **options)
        self.marks.append(self.spent)
        return found

    def each(self, tokens: int) -> float:
        """Mean seconds of the last so many tokens."""
        return (self.marks[-1] - self.marks[-1 - tokens]) / tokens


class _Timed:
    """Pairs of runs, plain and watched, over the last tokens of a context."""

    def __init__(self, loaded: Any, monitor: ValidityMonitor, context: int, completion: int,
                 tokens: int) -> None:
        self.loaded, self.monitor = loaded, monitor
        self.completion, self.tokens = completion, tokens
        rng = torch.Generator().manual_seed(0)
        self.ids = torch.randint(100, 40_000, (1, context - completion), generator=rng)

    def run(self, repeats: int) -> dict[str, float]:
        """Milliseconds a token, and their ratio: median, smallest and largest over the pairs."""
        pairs = [self._pair(i) for i in range(repeats)]
        plain, watched, own = np.array(pairs).T
        ratios = watched / plain
        inside = watched / (watched - own)
        return {"own_ms": 1e3 * float(np.median(own)), "own_ratio": float(np.median(inside)),
                "own_ratio_high": float(inside.max()), "plain_ms": 1e3 * float(np.median(plain)),
                "watched_ms": 1e3 * float(np.median(watched)),
                "ratio": float(np.median(ratios)),
                "ratio_low": float(ratios.min()), "ratio_high": float(ratios.max())}

    def _pair(self, i: int) -> tuple[float, float, float]:
        """CPU seconds a token, plain, watched, and in the monitor; which is first alternates."""
        if i % 2:
            (watched, own), plain = self._watched(), self._plain()
        else:
            plain, (watched, own) = self._plain(), self._watched()
        return plain, watched, own

    def _plain(self, *criteria: Any) -> float:
        clock = _Clock()
        with torch.inference_mode():
            self.loaded.model.generate(
                self.ids, attention_mask=torch.ones_like(self.ids),
                max_new_tokens=self.completion, min_new_tokens=self.completion, do_sample=False,
                stopping_criteria=[*criteria, clock])
        return clock.each(self.tokens)

    def _watched(self) -> tuple[float, float]:
        with self.monitor.attached():
            own = _Own(self.monitor)
            return self._plain(own), own.each(self.tokens)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--completion", type=int, nargs="+", default=[64, 256],
                        help="tokens of the context that the model wrote (default: 64 256)")
    parser.add_argument("--tokens", type=int, default=32, help="that are timed (default: 32)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--artifact", type=Path)
    parser.add_argument("--only", nargs="+", help="ways of watching to time (default: all)")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/monitor.json"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
