"""Golden numbers of spectral-trust 0.3.0, an independent implementation of the same descriptors.

    PEER/bin/python benchmarks/peers/spectral_trust_golden.py --model FOLDER --tokens TOKENS.json \
        --output tests/golden/spectral_trust_0.3.0.json

Run by an environment of its own that holds spectral-trust and transformers (see README.md beside
this file); TOKENS.json is written by ``golden_tokens.py``. Its public functions are called with
their default settings, but for the dense solver: the default one keeps 50 modes.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from pathlib import Path
from typing import Any

import numpy as np
import spectral_trust  # type: ignore[import-not-found]
import torch
import transformers
from torch import Tensor

LAYERS = (0, 7, 15, 22, 29)
CUTOFFS = (0.1, 0.5)
"""Shares of the modes that count as high: its default, and half."""
GRAPH = ("fiedler_value", "eig_energy", "eig_spectral_entropy", "eig_hfer")
SIGNAL = ("energy", "smoothness_index", "spectral_entropy")

Numbers = dict[str, list[list[float]]]


def main() -> None:
    """Read every trace with eager attention and write the numbers of the chosen layers."""
    args = _arguments()
    torch.set_num_threads(1)
    given = json.loads(args.tokens.read_text(encoding="utf-8"))
    model = transformers.AutoModelForCausalLM.from_pretrained(
        args.model, attn_implementation="eager", dtype=torch.float32).eval()
    traces = []
    for trace in given["traces"]:
        print(trace["id"], len(trace["ids"]), file=sys.stderr)
        ids = trace.pop("ids")
        traces.append(trace | {"tokens": len(ids)} | numbers(model, ids))
    result = provenance(given) | {"traces": traces}
    args.output.write_text(_lines(result), encoding="utf-8")


def provenance(given: dict[str, Any]) -> dict[str, Any]:
    """What the numbers were made with and of; the names of their columns."""
    versions = {module.__name__: module.__version__
                for module in (spectral_trust, torch, transformers, np)}
    return {
        "versions": versions | {"python": platform.python_version()},
        "command": ["benchmarks/peers/spectral_trust_golden.py", "--model", "FOLDER",
                    "--tokens", "TOKENS", "--output", "tests/golden/spectral_trust_0.3.0.json"],
        "settings": {"normalization": "sym", "eigen_solver": "dense", "dtype": "float32",
                     "attention": "eager"},
        "model": given["model"], "revision": given["revision"], "format": given["format"],
        "layers": LAYERS, "graph": GRAPH,
        "signal": (*SIGNAL, *(f"hfer_{cutoff}" for cutoff in CUTOFFS)),
    }


def numbers(model: Any, ids: list[int]) -> Numbers:
    """Descriptors of one sequence.

    Returns:
        ``graph`` (L, 4) of the graphs alone; ``input`` (L, 5) of the hidden states that enter a
        layer; ``output`` (L, 5) of those that leave it, which is what its own entry point takes.
        Those of the last layer have passed the final normalisation of the model.
    """
    with torch.inference_mode():
        read = model(torch.tensor([ids]), output_attentions=True, output_hidden_states=True,
                     use_cache=False)
    found: Numbers = {"graph": [], "input": [], "output": []}
    for layer in LAYERS:
        laplacian = head_mean_laplacian(read.attentions[layer])
        before, after = (describe(read.hidden_states[i][0], laplacian) for i in (layer, layer + 1))
        found["graph"].append(before["graph"])
        found["input"].append(before["signal"])
        found["output"].append(after["signal"])
    return found


def head_mean_laplacian(attention: Tensor) -> Tensor:
    """(1, H, T, T) weights -> (T, T) its Laplacian of the symmetrised, averaged heads."""
    graphs = spectral_trust.GraphConstructor(config())
    mean = graphs.aggregate_heads(graphs.symmetrize_attention(attention))
    laplacian: Tensor = graphs.construct_laplacian(mean)[0]
    return laplacian


def describe(hidden: Tensor, laplacian: Tensor) -> dict[str, list[float]]:
    """Its descriptors of one graph and of the signal (T, D) on it."""
    found = [spectral_trust.SpectralAnalyzer(config(cutoff)).analyze_layer(hidden, laplacian, 0)
             for cutoff in CUTOFFS]
    first = found[0]
    return {
        "graph": [_digits(getattr(first, name)) for name in GRAPH],
        "signal": [*(_digits(getattr(first, name)) for name in SIGNAL),
                   *(_digits(each.hfer) for each in found)],
    }


def config(cutoff: float = CUTOFFS[0]) -> Any:
    """Its defaults, with the dense solver."""
    return spectral_trust.GSPConfig(
        normalization="sym", eigen_solver="dense", hfer_cutoff_ratio=cutoff, verbose=False)


def _digits(value: float) -> float:
    """Nine significant digits hold a float32."""
    return float(f"{value:.9g}")


def _lines(result: dict[str, Any]) -> str:
    """JSON with one line for each key and each trace."""
    head = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in result.items()
            if key != "traces"]
    traces = ",\n".join(json.dumps(trace) for trace in result["traces"])
    return "{\n" + ",\n".join([*head, f'"traces": [\n{traces}\n]']) + "\n}\n"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--model", type=Path, required=True, help="folder of the default model")
    parser.add_argument("--tokens", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    return parser.parse_args()


if __name__ == "__main__":
    main()
