"""Anomaly mode in another domain: functions of Python's standard library, as they are and damaged.

    python -m benchmarks.anomaly read --folder runs/anomaly
    python -m benchmarks.anomaly judge --folder runs/anomaly \
        --output benchmarks/results/anomaly.json

The reference is fitted on some functions. Of others, each is scored as it is and in three damaged
forms of as many characters: one operator turned into another, two neighbouring lines exchanged, the
words of the body shuffled. The functions are those of the running Python, which the file names.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import io
import json
import platform
import re
import sysconfig
import textwrap
import tokenize
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from validator.features.extractor import SpectralFeatureExtractor
from validator.features.table import read_features, write_features
from validator.training.anomaly_report import judge_anomalies
from validator.types import FeatureMatrix, Trace
from validator.unsupervised import fit_anomaly
from validator.unsupervised.reference import METHODS

MODEL = "smollm2-135m-instruct"
SEED = 0
SIZES = {"reference": 160, "new": 60}
CHARACTERS = (100, 320)
SWAPS = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "==": "!=", "!=": "==", "+": "-", "-": "+",
         "*": "/", "/": "*", "+=": "-=", "-=": "+="}
DAMAGE = ("operator", "lines", "shuffled")


def main() -> None:
    """Read, or judge."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("action", choices=["read", "judge"])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    if args.action == "read":
        read(args.folder, args.threads)
        return
    result = judge(args.folder, args.resamples)
    show(result)
    if args.output:
        args.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def functions() -> list[Trace]:
    """Short functions of the standard library that all three kinds of damage can be done to."""
    found: dict[str, Trace] = {}
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        source = path.read_text(encoding="utf-8")
        lines = source.split("\n")
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef) and ast.get_docstring(node) is None:
                text = _text(lines, node)
                trace = None if text is None else _trace(f"{path.stem}.{node.name}", text)
                if trace is not None:
                    found.setdefault(trace.completion, trace)
    return list({t.id: t for t in found.values()}.values())


def damaged(trace: Trace) -> Iterator[Trace]:
    """The damaged forms of a function, label 0."""
    random = Random(f"{SEED} {trace.id}")
    for kind, text in zip(DAMAGE, (_operator(trace.completion, random),
                                   _lines(trace.completion, random),
                                   _shuffled(trace.completion, random)), strict=True):
        if text is not None and text != trace.completion:
            yield replace(trace, id=f"{trace.id}#{kind}", completion=text, label=0,
                          meta={"damage": kind})


def read(folder: Path, threads: int) -> None:
    """Features of the reference functions and of the new ones."""
    folder.mkdir(parents=True, exist_ok=True)
    usable = [t for t in functions() if len(list(damaged(t))) == len(DAMAGE)]
    chosen = Random(f"functions {SEED}").sample(usable, sum(SIZES.values()))
    good, new = chosen[: SIZES["reference"]], chosen[SIZES["reference"]:]
    extractor = SpectralFeatureExtractor(MODEL, num_threads=threads, store=folder / "store").fit()
    for k in range(0, len(good), 20):
        extractor.transform(good[k : k + 20])
        print(f"{k + 20} of the reference", flush=True)
    write_features(folder / "reference.parquet", extractor.transform(good))
    rows = [[t, *damaged(t)] for t in new]
    for k in range(0, len(rows), 5):
        extractor.transform([t for own in rows[k : k + 5] for t in own])
        print(f"{k + 5} of the new ones", flush=True)
    write_features(folder / "new.parquet", extractor.transform([t for own in rows for t in own]))


def judge(folder: Path, n_resamples: int) -> dict[str, Any]:
    """Each distance beside length and log-prob, for each kind of damage."""
    good, new = read_features(folder / "reference.parquet"), read_features(folder / "new.parquet")
    kinds = np.array([t.meta.get("damage", "") for t in new.traces])
    result: dict[str, Any] = {
        "python": platform.python_version(), "provenance": asdict(new.provenance),
        "texts_sha256": hashlib.sha256("\0".join(
            t.prompt + t.completion for t in (*good.traces, *new.traces)).encode()).hexdigest(),
        "reference": len(good), "new": int((kinds == "").sum()), "resamples": n_resamples,
        "methods": {}}
    for method in METHODS:
        reference = fit_anomaly(good, method=method, seed=SEED)
        rows: dict[str, Any] = {"all": _judged(reference, new, n_resamples)}
        for kind in DAMAGE:
            part = new.take(np.flatnonzero((kinds == "") | (kinds == kind)))
            rows[kind] = _judged(reference, part, n_resamples)
        result["methods"][method] = {"fitted": reference.fitted,
                                     "calibrated": reference.calibrated, **rows}
    return result


def _judged(reference: Any, features: FeatureMatrix, n_resamples: int) -> dict[str, Any]:
    report = judge_anomalies(reference, features, n_resamples=n_resamples).to_json()
    good = [t["anomalous"] for t, own in zip(report["traces"], features.traces, strict=True)
            if own.label == 1]
    bad = [t["anomalous"] for t, own in zip(report["traces"], features.traces, strict=True)
           if own.label == 0]
    return {"rows": report["rows"], "over": report["over"], "warnings": report["warnings"],
            "flagged_good": float(np.mean(good)), "flagged_damaged": float(np.mean(bad))}


def _text(lines: Sequence[str], node: ast.FunctionDef) -> str | None:
    """The function, moved to the margin; None for one in a line, decorated or with comments."""
    if node.decorator_list or node.body[0].lineno == node.lineno:
        return None
    text = "\n".join(lines[node.lineno - 1 : node.end_lineno])
    return None if "#" in text or '"""' in text else textwrap.dedent(text)


def _trace(name: str, text: str) -> Trace | None:
    """The header as prompt, the body as completion; its lines are steps."""
    header, _, body = text.partition(":\n")
    completion = "\n" + body.rstrip()
    if "\n" in header or not CHARACTERS[0] <= len(completion) <= CHARACTERS[1]:
        return None
    return Trace(name, name, header + ":", completion, 1)


def _operator(text: str, random: Random) -> str | None:
    try:
        tokens = list(tokenize.generate_tokens(io.StringIO(textwrap.dedent(text[1:])).readline))
    except (tokenize.TokenError, IndentationError):
        return None
    lines = text[1:].split("\n")
    margin = len(lines[0]) - len(lines[0].lstrip())
    places = [t for t in tokens if t.type == tokenize.OP and t.string in SWAPS
              and not (t.string == "*" and re.search(r"[(,]\s*$", t.line[: t.start[1]]))]
    if not places:
        return None
    token = random.choice(places)
    row, column = token.start[0] - 1, token.start[1] + margin
    line = lines[row]
    if line[column : column + len(token.string)] != token.string:
        return None
    lines[row] = line[:column] + SWAPS[token.string] + line[column + len(token.string):]
    return "\n" + "\n".join(lines)


def _lines(text: str, random: Random) -> str | None:
    lines = text[1:].split("\n")
    places = [i for i in range(len(lines) - 1) if lines[i] != lines[i + 1]]
    if not places:
        return None
    i = random.choice(places)
    lines[i], lines[i + 1] = lines[i + 1], lines[i]
    return "\n" + "\n".join(lines)


def _shuffled(text: str, random: Random) -> str:
    """White space stays where it is between words in another order."""
    words, spaces = re.findall(r"\S+", text), re.findall(r"\s+", text)
    mixed = random.sample(words, len(words))
    return "".join(s + w for s, w in zip(spaces, mixed, strict=True))


def show(result: Mapping[str, Any]) -> None:
    """A table in Markdown: each score, for each kind of damage."""
    print("| method, damage | score | Spearman with length | AUROC | against its own original |\n"
          "|---|---|---:|---:|---:|")
    for method, parts in result["methods"].items():
        for kind in ("all", *DAMAGE):
            for row in parts[kind]["rows"]:
                told = [f"{i['estimate']:.2f} [{i['low']:.2f}, {i['high']:.2f}]"
                        for i in (row["verdict"]["auroc"], row["verdict"]["within"])]
                print(f"| {method}, {kind} | `{row['name']}` | {row['length']:+.2f} | "
                      f"{told[0]} | {told[1]} |")


if __name__ == "__main__":
    main()
