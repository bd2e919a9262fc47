"""Cost of spectral-trust's analysis of one prompt, beside a plain forward pass in the same run.

    OMP_NUM_THREADS=2 PEER/bin/python benchmarks/peers/spectral_trust_timing.py --model FOLDER \
        --threads 2

Run by an environment of its own (see README.md beside this file); prints one JSON object on the
standard output and nothing else there. Every round times each method once, on the same tokens; the
seconds are medians over rounds, the ratios medians of the ratios within a round.

- ``sdpa``: ``model(input_ids)`` with sdpa attention, no cache: the unit.
- ``analyze_text``: its documented entry point, forward pass included: eager attention, then one
  dense decomposition per layer of the averaged heads.
- ``precomputed``: the same decompositions from attention and hidden states that are at hand.
- ``per_head``: its per-head metrics of attention at hand, all layers; only with ``--per-head``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import spectral_trust  # type: ignore[import-not-found]
import torch
import transformers

Method = Callable[[], object]


def main() -> None:
    """Measure every length and print the result."""
    args = _arguments()
    require_threads(args.threads)
    torch.set_num_threads(args.threads)
    with contextlib.redirect_stdout(sys.stderr):  # the peer reports its progress there
        plain = transformers.AutoModelForCausalLM.from_pretrained(
            args.model, attn_implementation="sdpa", dtype=torch.float32).eval()
        rows = [measure(plain, length, args) for length in args.lengths]
    print(json.dumps({
        "peer": "spectral-trust", "version": spectral_trust.__version__, "threads": args.threads,
        "dtype": "float32", "repeats": args.repeats, "torch": torch.__version__,
        "transformers": transformers.__version__, "processor": platform.processor(),
        "machine": platform.machine(), "rows": rows}))


def require_threads(threads: int) -> None:
    """Raise ValueError unless NumPy, which decomposes for the peer, has as many threads as torch.

    NumPy's linear algebra reads the variable when it is loaded, which has happened by now.
    """
    found = os.environ.get("OMP_NUM_THREADS")
    if found != str(threads):
        raise ValueError(f"expected OMP_NUM_THREADS={threads} in the environment, as --threads "
                         f"says, got {found}; start this script with it")


def measure(plain: Any, length: int, args: argparse.Namespace) -> dict[str, float]:
    """Medians for one text of ``length`` tokens."""
    settings = config(args.model, length)
    with spectral_trust.GSPDiagnosticsFramework(settings) as framework:
        framework.instrumenter.load_model(str(args.model))
        methods = timed_methods(plain, framework, settings, per_head=args.per_head)
        require_length(framework, length)
        methods["sdpa"]()
        rounds = [{name: _seconds(method) for name, method in methods.items()}
                  for _ in range(args.repeats)]
    result: dict[str, float] = {"tokens": length}
    for name in methods:
        result[f"{name}_seconds"] = statistics.median(r[name] for r in rounds)
        if name != "sdpa":
            result[name] = statistics.median(r[name] / r["sdpa"] for r in rounds)
    return result


def config(model: Path, length: int) -> Any:
    """Its defaults with the dense solver, no truncation below ``length``, nothing written."""
    return spectral_trust.GSPConfig(
        model_name=str(model), max_length=length, normalization="sym", eigen_solver="dense",
        verbose=False, save_plots=False, save_intermediate=False, local_files_only=True)


def timed_methods(
    plain: Any, framework: Any, settings: Any, *, per_head: bool
) -> dict[str, Method]:
    """Name -> what is timed; the attention of ``precomputed`` is read here, before."""
    read = framework.instrumenter.process_text(TEXT)
    ids = read["inputs"]["input_ids"]
    graphs = spectral_trust.GraphConstructor(settings)
    analyzer = spectral_trust.SpectralAnalyzer(settings)

    def forward() -> None:
        with torch.inference_mode():
            plain(ids, use_cache=False)

    def precomputed() -> None:
        # It pairs the attention of a layer with the states that leave the layer.
        states = read["hidden_states"][1:]
        for layer, (attention, hidden) in enumerate(zip(read["attentions"], states, strict=True)):
            mean = graphs.aggregate_heads(graphs.symmetrize_attention(attention))
            analyzer.analyze_layer(hidden[0], graphs.construct_laplacian(mean)[0], layer)

    methods: dict[str, Method] = {
        "sdpa": forward,
        "analyze_text": lambda: framework.analyze_text(TEXT, save_results=False),
        "precomputed": precomputed}
    if per_head:
        methods["per_head"] = lambda: spectral_trust.per_head_metrics_all_layers(
            read["attentions"], config=settings)
    return methods


TEXT = " ".join(f"{i} and {i * i % 997} make {i + i * i % 997}." for i in range(1000))
"""Longer than any length measured; its instrumenter keeps the first ``max_length`` tokens."""


def require_length(framework: Any, length: int) -> None:
    """Raise ValueError unless the peer reads exactly ``length`` tokens of the text."""
    found = len(framework.instrumenter.process_text(TEXT)["tokens"])
    if found != length:
        raise ValueError(f"expected {length} tokens, but the peer read {found}; ask for lengths "
                         "that TEXT and the model's context have room for")


def _seconds(method: Method) -> float:
    started = time.perf_counter()
    method()
    return time.perf_counter() - started


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--model", type=Path, required=True, help="folder of the model")
    parser.add_argument("--lengths", type=int, nargs="+", default=[512, 1024])
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--per-head", action="store_true", help="also per_head: slow")
    return parser.parse_args()


if __name__ == "__main__":
    main()
