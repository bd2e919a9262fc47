"""``validator anomaly``: how unlike a corpus of good traces new ones are."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from validator.cli.console import (
    add_command,
    console,
    interval_text,
    print_json,
    progress,
    table,
    write_json,
)
from validator.whole_file import write_text_whole

if TYPE_CHECKING:
    from validator.features.extractor import SpectralFeatureExtractor
    from validator.training.anomaly_report import AnomalyReport
    from validator.types import FeatureMatrix

__all__ = ["register"]

MODEL = "smollm2-135m-instruct"
SHOWN = 15


def register(subparsers: Any) -> None:
    """Add ``anomaly`` with its two actions."""
    parser = subparsers.add_parser(
        "anomaly", help="Fit a reference on good traces of any kind; score new ones against it.",
        description="Fit a reference on good traces of any kind; score new ones against it.",
        epilog="example:\n  validator anomaly fit good.jsonl -o reference",
        formatter_class=argparse.RawDescriptionHelpFormatter)
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    _fit_options(add_command(
        actions, "fit", "Keep what good traces look like: a folder of JSON and arrays.",
        "validator anomaly fit good.jsonl -o reference", _fit))
    _score_options(add_command(
        actions, "score", "How unlike the good traces new ones are, as p-values, with warnings.",
        "validator anomaly score new.jsonl --reference reference -o scores.jsonl", _score))


def _fit_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("traces", type=Path,
                        help="good traces, or their features (`validator extract`)")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR",
                        help="folder to write")
    parser.add_argument("--method", default="knn",
                        choices=["knn", "mahalanobis", "isolation_forest"],
                        help="distance (default: knn, to the 10 nearest)")
    parser.add_argument("--calibration-share", type=float, default=0.3, metavar="X",
                        help="of the problems, kept apart to know which distances are usual "
                             "(default: 0.3)")
    parser.add_argument("--seed", type=int, default=0, help="of the division (default: 0)")
    parser.add_argument("--model", default=MODEL,
                        help=f"known name, hub id or folder (default: {MODEL})")
    parser.add_argument("--features", default="default", metavar="NAME_OR_FILE",
                        help="feature set, or its file (default: default)")
    _reading_options(parser)


def _score_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("traces", type=Path,
                        help="new traces, or their features; labels are used if all have one")
    parser.add_argument("--reference", type=Path, required=True, metavar="DIR",
                        help="folder written by `validator anomaly fit`")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE",
                        help="JSON Lines file, one trace per line")
    parser.add_argument("--json-output", type=Path, metavar="FILE", help="write the report as JSON")
    parser.add_argument("--level", type=float, default=0.05,
                        help="p-value up to which a trace is called anomalous (default: 0.05)")
    parser.add_argument("--model", help="in place of the reference's name, e.g. a folder")
    parser.add_argument("--features", metavar="FILE.yaml",
                        help="the feature set's file, if the reference has one of your own")
    _reading_options(parser)


def _reading_options(parser: argparse.ArgumentParser) -> None:
    from validator.training.datasets import FORMATS

    parser.add_argument("--format", default="jsonl", choices=sorted(FORMATS),
                        help="format of the trace file (default: jsonl)")
    parser.add_argument("--limit", type=int, help="the first N lines only")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, mps (default: cpu)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's)")
    parser.add_argument("--store", metavar="DIR",
                        help="feature store, a folder or its URL (default: features/ in the cache "
                             "folder)")
    parser.add_argument("--no-store", action="store_true", help="neither read nor write a store")


def _fit(args: argparse.Namespace) -> int:
    from validator.features.extractor import SpectralFeatureExtractor
    from validator.unsupervised import fit_anomaly, save_anomaly

    features = _features(args, lambda options: SpectralFeatureExtractor(
        args.model, feature_set=args.features, **options))
    reference = fit_anomaly(features, method=args.method,
                            calibration_share=args.calibration_share, seed=args.seed)
    save_anomaly(args.output, reference)
    facts = {"reference": str(args.output), "method": args.method, "fitted": reference.fitted,
             "calibrated": reference.calibrated, "smallest_p": reference.smallest_p,
             "columns": len(reference.distance.columns_ or ()),
             "components": reference.distance.n_components_, "lengths": list(reference.lengths)}
    if args.json:
        print_json(facts)
        return 0
    console().print(
        f"{reference.fitted} good traces to measure distances from, {reference.calibrated} to know "
        f"which are usual; no p-value below {reference.smallest_p:.3g}; written to {args.output}",
        markup=False, soft_wrap=True)
    return 0


def _score(args: argparse.Namespace) -> int:
    from validator.features.extractor import SpectralFeatureExtractor
    from validator.training.anomaly_report import judge_anomalies
    from validator.unsupervised import load_anomaly

    reference = load_anomaly(args.reference)
    p = reference.provenance
    features = _features(args, lambda options: SpectralFeatureExtractor(
        args.model or p.model, feature_set=args.features or p.feature_set,
        solver=p.solver.partition("(")[0], layers=_parsed(p.layers), heads=_parsed(p.heads),
        dtype=p.dtype, **options))
    report = judge_anomalies(reference, features, level=args.level)
    told = report.to_json()
    if args.output:
        write_text_whole(args.output, "".join(
            json.dumps(row, allow_nan=False) + "\n" for row in told["traces"]))
    if args.json_output:
        write_json(args.json_output, told)
    if args.json:
        print_json(told)
    else:
        _show(report)
    return 0


def _features(args: argparse.Namespace, make: Any) -> FeatureMatrix:
    """Features from a Parquet file, traces from any other."""
    from validator.features.table import read_features
    from validator.models.cache import cache_root
    from validator.training.datasets import load_traces

    if args.traces.suffix == ".parquet":
        return read_features(args.traces)
    traces = load_traces(args.traces, format=args.format, limit=args.limit)
    store = None if args.no_store else args.store or cache_root() / "features"
    extractor: SpectralFeatureExtractor = make(
        {"device": args.device, "num_threads": args.threads, "store": store})
    with progress("reading traces") as advance:
        return extractor.fit_transform(traces, progress=advance)


def _parsed(chosen: str) -> tuple[int, ...] | None:
    return None if chosen == "all" else tuple(int(i) for i in chosen.split(","))


def _show(report: AnomalyReport) -> None:
    out = console()
    lowest = sorted(report.traces, key=lambda t: t.scores["distance"])[:SHOWN]
    out.print(table(
        f"{sum(t.anomalous for t in report.traces)} of {len(report.traces)} traces anomalous at "
        f"level {report.level:g}", ["trace", "distance", "p", "p of length", "p of log-prob"],
        [[t.id, f"{t.scores['distance']:.3f}", *(f"{t.p_values[n]:.3f}" for n in (
            "distance", "typical_length", "mean_logprob"))] for t in lowest]))
    labelled = report.rows[0].verdict is not None
    out.print(table(
        "The distance and what stands beside it",
        ["score", "flagged", "Spearman with length",
         *(["AUROC", "at equal length"] if labelled else [])],
        [[r.name, f"{100 * r.flagged:.1f}%", "n/a" if r.length is None else f"{r.length:+.2f}",
          *([] if r.verdict is None else [interval_text(r.verdict.auroc),
                                          interval_text(r.verdict.length_matched)])]
         for r in report.rows]))
    for warning in report.warnings:
        out.print(warning, markup=False, soft_wrap=True)
