"""What length alone makes of each descriptor: content-free graphs of growing length.

    python -m benchmarks.null_length

Of each null (uniform, recency), 8 draws at each of 12 lengths from 16 to 512 tokens, averaged over
9 heads as the default model has them; a white-noise signal where a descriptor has one. Per
descriptor: its mean at four of the lengths, and Spearman's correlation of all values with the
number of tokens. There is no model and no text in it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr

from validator.features import descriptors as d
from validator.features.eigen import symmetric_eigh
from validator.features.graph import directed_eigenvalues, laplacian
from validator.features.null import content_free_attention

LENGTHS = (16, 23, 32, 45, 64, 91, 128, 181, 256, 362, 430, 512)
SHOWN = (16, 64, 256, 512)
HEADS, DRAWS, WIDTH = 9, 8, 64


def main() -> None:
    """Draw, describe, correlate, print a table, save it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/null_length.json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = [row for kind in ("uniform", "recency") for row in measure(kind)]
    print("| descriptor | null | " + " | ".join(f"{n} tokens" for n in SHOWN) + " | Spearman |")
    print("|---|---|" + "---:|" * (len(SHOWN) + 1))
    for row in rows:
        means = " | ".join(f"{row['means'][str(n)]:.3f}" for n in SHOWN)
        print(f"| `{row['descriptor']}` | {row['null']} | {means} | {row['spearman']:+.2f} |")
    args.output.write_text(json.dumps({
        "lengths": LENGTHS, "heads": HEADS, "draws": DRAWS, "signal": f"white noise, {WIDTH} wide",
        "torch": torch.__version__, "rows": rows}, indent=2) + "\n", encoding="utf-8")


def measure(kind: str) -> list[dict[str, Any]]:
    """Each descriptor over the lengths of one null."""
    found: dict[str, list[list[float]]] = {}
    for length in LENGTHS:
        for draw in range(DRAWS):
            for name, value in describe(kind, length, draw).items():
                found.setdefault(name, []).append([length, value])
    rows = []
    for name, pairs in found.items():
        tokens, values = np.array(pairs).T
        rows.append({
            "descriptor": name, "null": kind,
            "spearman": float(spearmanr(tokens, values).statistic),
            "means": {str(n): float(values[tokens == n].mean()) for n in LENGTHS}})
    return rows


def describe(kind: str, length: int, draw: int) -> Mapping[str, float]:
    """Descriptors of one content-free graph of the whole sequence."""
    attention = content_free_attention(kind, 0, length, HEADS, draw).double()
    values, modes = symmetric_eigh(laplacian(attention, "normalized")[None])
    signal = torch.randn(length, WIDTH, dtype=torch.float64,
                         generator=torch.Generator().manual_seed(1_000_003 * draw + length))
    energy = ((modes[0].T @ signal) ** 2).sum(-1).numpy()
    eigenvalues = values[0].numpy()
    one_head = content_free_attention(kind, 0, length, 1, draw).double()
    directed = directed_eigenvalues(one_head.sum(0), one_head.diagonal(), length).numpy()
    return {
        "fiedler_value": float(d.fiedler_value(eigenvalues)),
        "spectral_gap_k2": float(d.spectral_gap(eigenvalues, 2)),
        "eigenvalue_quantile_q0.5": float(d.quantiles(eigenvalues, [0.5])[0]),
        "eigenvalue_entropy": float(d.eigenvalue_entropy(eigenvalues)),
        "hfer_c0.5": float(d.hfer(energy)),
        "signal_entropy": float(d.signal_entropy(energy)),
        "roughness": float(d.roughness(eigenvalues, energy)),
        "directed_eigenvalue_quantile_q0.5": float(np.median(directed)),
        "attention_entropy_quantile_q0.5": float(np.median(_row_entropy(one_head.numpy()))),
    }


def _row_entropy(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    logs = np.log(np.where(weights > 0, weights, 1.0))
    return np.asarray(-(weights * logs).sum(axis=1))


if __name__ == "__main__":
    main()
