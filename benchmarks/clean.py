"""Which score finds corrupted training examples: corruption planted in gsm8k train, then sought.

    python -m benchmarks.clean read gsm8k_train.jsonl --folder runs/clean
    python -m benchmarks.clean judge gsm8k_train.jsonl --folder runs/clean \
        --output benchmarks/results/clean.json

``read`` takes an hour of one core and more, and goes on where it was stopped; all planted examples
are read first. ``judge`` takes what was read: as long as clean examples are missing, those that
were read stand for all of them by weight, and the file says so.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from validator.audit import SurfaceBaseline, surface_texts
from validator.classifier import ValidityClassifier
from validator.columns import BASELINES, Column
from validator.errors import LabelError
from validator.features.extractor import SpectralFeatureExtractor
from validator.features.table import read_features, write_features
from validator.metrics import (
    Resampler,
    Statistic,
    auroc_statistic,
    clustered_interval,
    r_precision_statistic,
)
from validator.plugins.clean import (
    KINDS,
    LOSSES,
    corrupted_copies,
    plant_share,
    planted_scores,
    small_loss,
    token_losses,
)
from validator.plugins.clean.planted import problem_halves
from validator.plugins.clean.scores import DISTANCES
from validator.scoring import Validator, shipped_artifact
from validator.training.datasets import load_traces
from validator.types import FeatureMatrix, Trace
from validator.unsupervised import ReferenceDistance, score_label_free

MODEL = "smollm2-135m-instruct"
SHARE, SEED = 0.1, 0
CHUNK = 25
MIXED = 8
"""Chunks hold so many planted examples until all of them are read."""
COPIED = 0.2
"""Share of the examples whose corrupted copies are read."""

Scores = NDArray[np.float64]


def main() -> None:
    """Read, or judge."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("action", choices=["read", "judge"])
    parser.add_argument("examples", type=Path)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--size", type=int, default=2000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    given, copies = planted(args.examples, args.size)
    if args.action == "read":
        read(given, copies, args.folder, args.threads)
        return
    result = judge(given, args.folder, args.resamples)
    result["examples_sha256"] = hashlib.sha256(args.examples.read_bytes()).hexdigest()
    show(result)
    if args.output:
        args.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def planted(path: Path, size: int) -> tuple[list[Trace], list[Trace]]:
    """Examples of which a tenth is corrupted, and corrupted copies of some of all examples.

    Prompts of mismatched examples come from problems that are not among the examples.
    """
    traces = load_traces(path, format="gsm8k")
    order = Random(f"gsm8k {SEED}").sample(range(len(traces)), len(traces))
    chosen = [traces[i] for i in sorted(order[:size])]
    donors = [traces[i].prompt for i in sorted(order[size:])]
    given = plant_share(chosen, SHARE, donors, SEED)
    copies = corrupted_copies(given, seed=SEED + 1)
    return given, Random(f"copies {SEED}").sample(copies, round(COPIED * size))


def chunks(given: Sequence[Trace]) -> Iterator[list[Trace]]:
    """All examples in random order, the planted ones spread over the first chunks."""
    mixed = Random(f"chunks {SEED}").sample(list(given), len(given))
    bad, good = ([t for t in mixed if t.label == label] for label in (0, 1))
    while bad or good:
        part, bad = bad[:MIXED], bad[MIXED:]
        room = CHUNK - len(part)
        part, good = part + good[:room], good[room:]
        yield part


def read(given: Sequence[Trace], copies: Sequence[Trace], folder: Path, threads: int) -> None:
    """Features and losses of the examples, then features of the copies, chunk by chunk."""
    folder.mkdir(parents=True, exist_ok=True)
    extractor = SpectralFeatureExtractor(MODEL, num_threads=threads).fit()
    for k, part in enumerate(chunks(given)):
        target = folder / f"given-{k:03}.parquet"
        if not target.exists():
            features = extractor.transform(part)
            losses = token_losses(extractor.model_, extractor.tokenizer_, part,
                                  known=extractor.token_surprisals_)
            found = {t.id: np.array([lo.scores()[n] for n in LOSSES])
                     for t, lo in zip(part, losses, strict=True)}
            np.savez(folder / f"losses-{k:03}.npz", allow_pickle=False, **found)
            write_features(target, features)
            print(f"{target.name}: {len(part)} examples", flush=True)
    for k in range(0, len(copies), CHUNK):
        target = folder / f"copies-{k // CHUNK:03}.parquet"
        if not target.exists():
            write_features(target, extractor.transform(copies[k : k + CHUNK]))
            print(f"{target.name}", flush=True)


def judge(given: Sequence[Trace], folder: Path, n_resamples: int) -> dict[str, Any]:
    """Scores of what was read, overall and for each kind."""
    features = _joined(sorted(folder.glob("given-*.parquet")))
    losses = _losses(features, folder)
    scores = scores_of(features, losses)
    read_copies = sorted(folder.glob("copies-*.parquet"))
    if read_copies:
        scores |= in_domain(features, _joined(read_copies))
    labels, kinds = features.labels, [t.meta.get("planted") for t in features.traces]
    clean, bad = sum(t.label == 1 for t in given), int((labels == 0).sum())
    weights = np.where(labels == 1, clean / (labels == 1).sum(), (len(given) - clean) / bad)
    rows = {}
    for kind in ("all", *KINDS):
        where = np.array([k in (None, kind) or kind == "all" for k in kinds])
        rows[kind] = _rows(features.take(np.flatnonzero(where)), {
            n: s[where] for n, s in scores.items()}, weights[where], n_resamples)
    return {
        "provenance": asdict(features.provenance), "examples": len(given), "read": len(features),
        "planted": bad, "complete": len(features) == len(given),
        "copies": sum(len(read_features(p)) for p in read_copies), "share": SHARE, "seed": SEED,
        "resamples": n_resamples, "rows": rows}


def scores_of(features: FeatureMatrix, losses: Mapping[str, Scores]) -> dict[str, Scores]:
    """Scores that no planted example was used for."""
    artifact = shipped_artifact(MODEL)
    assert artifact is not None
    shipped = Validator.load(artifact).score_features(features)
    free = score_label_free(features)
    distances = {f"distance_{m}": ReferenceDistance(m).fit(features).score(features)
                 for m in DISTANCES}
    return {"p_valid": np.array([s.margin for s in shipped], dtype=np.float64), **free,
            **distances, **losses, "small_loss": small_loss(losses)}


def in_domain(features: FeatureMatrix, copies: FeatureMatrix) -> dict[str, Scores]:
    """Classifiers trained on corruption planted in one half of the problems, used on the other."""
    logistic = ValidityClassifier("logistic")
    boosted = ValidityClassifier("xgboost", n_jobs=1)
    columns = [str(Column(b)) for b in BASELINES]
    found = {
        "planted, logistic": planted_scores(features, copies, logistic),
        "planted, xgboost": planted_scores(features, copies, boosted),
        "planted, baselines": planted_scores(features, copies, boosted, columns=columns),
        "planted, surface": _surface(features, copies)}
    kinds = np.array([t.meta["planted"] for t in copies.traces])
    for kind in KINDS:
        others = copies.take(np.flatnonzero(kinds != kind))
        found[f"planted without {kind}"] = planted_scores(features, others, logistic)
    return found


def _surface(features: FeatureMatrix, copies: FeatureMatrix) -> Scores:
    """The same protocol for character n-grams."""
    texts = surface_texts([*features.traces, *copies.traces])
    n = len(features)
    part = problem_halves([*features.problem_ids.tolist(), *copies.problem_ids.tolist()], 2, 0)
    labels = np.r_[np.ones(n, dtype=np.int64), np.zeros(len(copies), dtype=np.int64)]
    scores = np.full(n, np.nan)
    for k in (0, 1):
        train, test = np.flatnonzero(part != k), np.flatnonzero(part[:n] == k)
        model = SurfaceBaseline().fit([texts[i] for i in train], labels[train])
        scores[test] = model.decision_function([texts[i] for i in test])
    return scores


def _rows(features: FeatureMatrix, scores: Mapping[str, Scores], weights: Scores,
          n_resamples: int) -> list[dict[str, Any]]:
    y, resampler = features.labels, Resampler(features.problem_ids, n_resamples, 0)
    ranked = {n: np.where(np.isnan(s), -np.inf, s) for n, s in scores.items()}
    mean = auroc_statistic(y, ranked["mean_logprob"], resampler)
    return [{
        "score": name, "undefined": int(np.isnan(scores[name]).sum()),
        "auroc": _interval(auroc_statistic(y, s, resampler), resampler),
        "r_precision": _interval(r_precision_statistic(y, s, resampler, weights), resampler),
        "over_mean_logprob": _interval(_minus(auroc_statistic(y, s, resampler), mean), resampler),
    } for name, s in ranked.items()]


def _minus(one: Statistic, other: Statistic) -> Statistic:
    """A paired difference: both on the same draws."""
    return lambda counts: one(counts) - other(counts)


def _interval(statistic: Statistic, resampler: Resampler) -> dict[str, float] | None:
    """None where too few planted examples of the kind were read."""
    try:
        return asdict(clustered_interval(statistic, resampler))
    except LabelError:
        return None


def _joined(paths: Sequence[Path]) -> FeatureMatrix:
    parts = [read_features(p) for p in paths]
    first = parts[0]
    return FeatureMatrix(
        np.vstack([p.values for p in parts]), first.names,
        tuple(t for p in parts for t in p.traces), np.vstack([p.lengths for p in parts]),
        first.provenance, {k: v for p in parts for k, v in p.nan_reasons.items()})


def _losses(features: FeatureMatrix, folder: Path) -> dict[str, Scores]:
    found: dict[str, Scores] = {}
    for path in sorted(folder.glob("losses-*.npz")):
        with np.load(path, allow_pickle=False) as file:
            found |= {name: file[name] for name in file.files}
    each = np.array([found[i] for i in features.trace_ids])
    return dict(zip(LOSSES, each.T, strict=True))


def show(result: Mapping[str, Any]) -> None:
    """Tables in Markdown: AUROC of each score for each kind, then R-precision."""
    print(f"{result['read']} of {result['examples']} examples read, {result['planted']} of them "
          f"planted, {result['copies']} copies")
    kinds = list(result["rows"])
    for what in ("auroc", "r_precision", "over_mean_logprob"):
        print(f"\n| {what} | " + " | ".join(kinds) + " |")
        print("|---" + "|---:" * len(kinds) + "|")
        for i, row in enumerate(result["rows"]["all"]):
            cells = [result["rows"][k][i][what] for k in kinds]
            print(f"| `{row['score']}` | " + " | ".join(_cell(c) for c in cells) + " |")


def _cell(value: Mapping[str, float] | None) -> str:
    if value is None:
        return "n/a"
    return f"{value['estimate']:.2f} [{value['low']:.2f}, {value['high']:.2f}]"


if __name__ == "__main__":
    main()
