"""What one page of ``validator explain`` costs: seconds of each part, and in forward passes.

    python -m benchmarks.explain --output benchmarks/results/explain.json

The default model and shipped traces' texts, cut to so many tokens. Medians over the turns; the
command, from the shell to the page, is run as many times.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import torch

from validator.explain.reference_file import shipped_reference
from validator.explain.trace import explain_trace
from validator.features.extractor import SpectralFeatureExtractor
from validator.report.explain_page import write_explain_page
from validator.scoring import Validator, shipped_artifact
from validator.training.datasets import load_traces, write_traces
from validator.types import Trace

MODEL = "smollm2-135m-instruct"


def main() -> None:
    """Measure, print, save."""
    args = _arguments()
    torch.set_num_threads(args.threads)
    artifact, reference = shipped_artifact(MODEL), shipped_reference(MODEL)
    assert artifact is not None
    assert reference is not None
    scorer = Validator.load(artifact, num_threads=args.threads)
    scorer.prepare()
    result: dict[str, Any] = {"model": MODEL, "threads": args.threads, "turns": args.turns,
                              "lengths": []}
    for tokens in args.tokens:
        trace = _trace(scorer.extractor, tokens)
        ids = scorer.extractor.tokenizer_(trace.prompt + trace.completion,
                                          return_tensors="pt").input_ids
        with tempfile.TemporaryDirectory() as folder, torch.no_grad():
            page = Path(folder) / "page.html"
            found = explain_trace(scorer, trace, reference)
            row = {
                "tokens": ids.shape[1],
                "forward": _median(lambda: scorer.extractor.model_(ids), args.turns),  # noqa: B023
                "explain": _median(
                    lambda: explain_trace(scorer, trace, reference), args.turns),  # noqa: B023
                "page": _median(
                    lambda: write_explain_page(page, found, title="t", command="c"),  # noqa: B023
                    args.turns),
                "command": _median(lambda: _command(trace, page, args.threads), args.turns)}  # noqa: B023
            row["explain_over_forward"] = row["explain"] / row["forward"]
            row["page_bytes"] = page.stat().st_size
        result["lengths"].append({k: round(v, 3) for k, v in row.items()})
    print(json.dumps(result, indent=1))
    args.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def _trace(extractor: SpectralFeatureExtractor, tokens: int) -> Trace:
    """A prompt and as many completions, one after the other, as fill so many tokens."""
    with as_file(files("validator.data").joinpath("demo_traces.jsonl")) as path:
        traces = load_traces(path)
    tokenizer, prompt = extractor.tokenizer_, traces[0].prompt
    room = tokens - len(tokenizer(prompt).input_ids)
    if room < 3:
        raise SystemExit(f"the prompt alone has {tokens - room} tokens")
    ids = tokenizer("\n".join(t.completion for t in traces[: tokens // 8])).input_ids[:room]
    return Trace("t", "p", prompt, tokenizer.decode(ids))


def _command(trace: Trace, page: Path, threads: int) -> None:
    source = page.with_name("trace.jsonl")
    write_traces(source, [trace])
    subprocess.run([sys.executable, "-m", "validator.cli.main", "explain", source, "--no-store",
                    "--threads", str(threads), "-o", page], check=True, capture_output=True)


def _median(job: Callable[[], Any], turns: int) -> float:
    seconds = []
    for _ in range(turns):
        started = time.perf_counter()
        job()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--tokens", type=int, nargs="+", default=[400, 512, 1024])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/explain.json"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
