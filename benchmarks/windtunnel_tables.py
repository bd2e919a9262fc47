"""The tables of docs/windtunnel.md, in Markdown, from the files of results.

    python -m benchmarks.windtunnel_tables
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

RESULTS = Path("benchmarks/results")
WALKS = {
    "edges-16": "edges as tokens, 1 layer, 2 heads; 8-16 nodes",
    "edges-32": "the same; 8-32 nodes",
    "edges-16-direct": "without chain of thought; 8-16 nodes",
    "edges-32-direct": "without chain of thought; 8-32 nodes",
    "flat-16": "nodes as tokens, 2 layers, 4 heads; 8-16 nodes",
    "flat-16-one-layer": "nodes as tokens, 1 layer, 4 heads; 8-16 nodes",
    "filter-sort": "filter and sort, 2 layers, 4 heads"}
EVIDENCE = ("bijection-10", "bijection-20", "bijection-10-repeat", "hmm-fixed", "hmm-banded",
            "hmm-given", "sula")
MODELS = ("smollm2-135m-instruct", "gemma3-270m")


def main() -> None:
    """Print every table."""
    trees, evidence = (
        json.loads((RESULTS / f"windtunnel_{name}.json").read_text(encoding="utf-8"))["subjects"]
        for name in ("trees", "bayes"))
    for table in (walks(trees), deeper(trees), entropies(evidence), geometry(evidence),
                  in_context(evidence)):
        print("\n".join(table), end="\n\n")


def walks(results: dict[str, Any]) -> list[str]:
    """Exact accuracy and head roles of every seed."""
    rows = []
    for name, what in WALKS.items():
        runs = list(results.get(name, {}).values())
        if not runs:
            continue
        rows.append([f"`{name}`", what, f"{runs[0]['parameters']:,}", f"{runs[0]['steps']:,}",
                     f"{runs[0]['cpu_seconds']:.0f}",
                     ", ".join(f"{run['exact']:.4f}" for run in runs),
                     *(_masses(runs, role) for role in ("backward edge", "forward own",
                                                        "control"))])
    return _table(["subject", "", "parameters", "steps", "CPU s", "exact", "edge, backward",
                   "own step, forward", "control"], rows)


def deeper(results: dict[str, Any]) -> list[str]:
    """Exact accuracy on trees deeper than any that was trained on."""
    runs = {f"`{name}`, seed {seed}": run["exact_deeper"] for name in WALKS
            for seed, run in results.get(name, {}).items() if "exact_deeper" in run}
    depths = list(next(iter(runs.values())))
    return _table(["", *(f"depth {d}" for d in depths)],
                  [[name, *(f"{run[d][0]:.3f}" for d in depths)] for name, run in runs.items()])


def entropies(results: dict[str, Any]) -> list[str]:
    """Entropy errors of the trained models and of the MLP that sees all symbols."""
    rows = []
    for name, result in _known(results, EVIDENCE):
        control = result.get("control_all", result.get("control"))
        rows.append([f"`{name}`", f"{result['parameters']:,}", f"{result['steps']:,}",
                     f"{result['cpu_seconds']:.0f}", *_report(result["model"], 4),
                     f"{control['overall']['entropy_mae_bits']:.4f}"])
    return _table(["subject", "parameters", "steps", "CPU s", "mean error", "error of means", "KL",
                   "mass on support", "MLP"], rows)


def geometry(results: dict[str, Any]) -> list[str]:
    """Key frames, the principal axis and ridge regressions."""
    rows = []
    for name, result in _known(results, EVIDENCE):
        found = result["geometry"]
        keys, before = found["key_frame"], found["key_frame_untrained"]
        axis = found["entropy_axis"]
        without = found["entropy_error_without"]
        rows.append([f"`{name}`", *(_number(keys[k]["abs_cosine"]) for k in keys),
                     ", ".join(_number(frame["abs_cosine"]) for frame in before.values()),
                     _number(keys["evidence"]["random"]), _number(axis["pc1_share"]),
                     _number(axis["pc1_share_of_means"]), _number(axis["pc1_spearman"]),
                     _number(axis["ridge_r2"]), _number(axis["ridge_r2_at_position"]),
                     f"{without['pc1']:.3f} / {without['random']:.3f}"])
    return _table(["subject", "keys of evidence", "of answers", "untrained", "random",
                   "first axis", "of means", "Spearman", "ridge R2", "at fixed position",
                   "error without axis / random axis"], rows)


def in_context(results: dict[str, Any]) -> list[str]:
    """Models that were never trained on a tunnel."""
    rows = [[model, f"`{name}`", str(result["problems"]), *_report(result, 3),
             f"{result['overall']['candidate_mass']:.3f}"]
            for model in MODELS for name in EVIDENCE
            if (result := results.get(f"{name}, {model}")) is not None]
    return _table(["model", "subject", "problems", "mean error", "error of means", "KL",
                   "mass on support", "mass on candidates"], rows)


def _known(results: dict[str, Any], names: Sequence[str]) -> list[tuple[str, Any]]:
    return [(name, results[name]) for name in names if name in results]


def _report(report: dict[str, Any], digits: int) -> list[str]:
    own, (low, high) = report["overall"], report["interval"]
    return [f"{own['entropy_mae_bits']:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]",
            f"{report['curve_mae_bits']:.{digits}f}", f"{own['posterior_kl_bits']:.{digits}f}",
            f"{own['mass_on_support']:.{digits}f}"]


def _masses(runs: Sequence[Any], role: str) -> str:
    """Of each seed's best head; a dash where the subject does not have the role."""
    found = [run["roles"][role]["value"] for run in runs if role in run.get("roles", {})]
    return ", ".join(f"{mass:.2f}" for mass in found) or "–"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns),
            *("| " + " | ".join(row) + " |" for row in rows)]


if __name__ == "__main__":
    main()
