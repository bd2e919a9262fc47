"""``validator audit``: how much of a score is length, difficulty, provenance or surface."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from validator.cli.console import (
    add_command,
    command_line,
    console,
    interval_text,
    print_json,
    progress,
    table,
    write_json,
)

if TYPE_CHECKING:
    from validator.audit.judge import Difference
    from validator.audit.outcome import Audit

__all__ = ["register"]

SHOWN = 8
"""Rows of the long tables in the terminal; the JSON and the page have all."""


def register(subparsers: Any) -> None:
    """Add the command."""
    from validator.training.datasets import FORMATS

    parser = add_command(
        subparsers, "audit",
        "Tell how much of a score is length, difficulty, provenance or surface.",
        "validator audit features.parquet --report audit.html", run)
    parser.add_argument("file", type=Path,
                        help="feature file (.parquet) of labelled traces, or a trace file, which "
                             "is audited as text")
    parser.add_argument("--format", choices=sorted(FORMATS),
                        help="format of a trace file (default: jsonl)")
    parser.add_argument("--kind", default="logistic", choices=("logistic", "xgboost", "mlp"),
                        help="classifier of the learned score (default: logistic)")
    parser.add_argument("--C", type=float, help="logistic: inverse strength of the L2 penalty")
    parser.add_argument("--folds", type=int, default=5, help="problem-grouped folds (default: 5)")
    parser.add_argument("--permutations", type=int, default=200, metavar="N",
                        help="shuffles that the whole score is fitted anew to (default: 200)")
    parser.add_argument("--caliper", type=float, default=0.1,
                        help="matched lengths differ by at most this share (default: 0.1)")
    parser.add_argument("--seed", type=int, default=0,
                        help="of folds, bootstrap and shuffles (default: 0)")
    parser.add_argument("--merge-duplicates", action="store_true",
                        help="give nearly equal questions one problem id before anything else")
    parser.add_argument("--report", type=Path, help="write an HTML page")
    parser.add_argument("--json-output", type=Path, help="write the numbers as JSON")


def run(args: argparse.Namespace) -> int:
    """Read, audit, show."""
    from validator.classifier import ValidityClassifier
    from validator.report.audit_page import write_audit_page
    from validator.training.audit_run import audit

    subject = _read(args)
    classifier = ValidityClassifier(args.kind, C=args.C, random_state=args.seed, n_jobs=-1)
    with progress("audit") as advance:
        done = audit(subject, classifier, n_splits=args.folds, n_permutations=args.permutations,
                     caliper=args.caliper, seed=args.seed, progress=advance)
    title = f"Audit of {args.file.name}"
    result = {"command": command_line(), **done.to_json()}
    if args.report:
        plain = {k: v for k, v in result.items() if k != "command"}
        write_audit_page(args.report, plain, title=title, command=command_line())
    if args.json_output:
        write_json(args.json_output, result)
    if args.json:
        print_json(result)
    else:
        _show(done, console(), title)
    return 0


def _read(args: argparse.Namespace) -> Any:
    """Features from a Parquet file, traces from any other."""
    import dataclasses

    from validator.errors import ParameterError
    from validator.features.table import read_features
    from validator.training.audit_run import merged
    from validator.training.datasets import load_traces

    if args.file.suffix == ".parquet":
        if args.format:
            raise ParameterError(f"{args.file} is a feature file; --format is for trace files")
        features = read_features(args.file)
        if not args.merge_duplicates:
            return features
        return dataclasses.replace(features, traces=merged(features.traces))
    traces = load_traces(args.file, format=args.format or "jsonl")
    return merged(traces) if args.merge_duplicates else traces


def _show(done: Audit, out: Console, title: str) -> None:
    made = done.composition
    out.print(f"{title}: {made.traces} labelled traces ({made.unlabelled} without a label left "
              f"out), {made.problems} problems, {100 * made.valid / made.traces:.0f}% valid, "
              f"{made.mixed} problems mixed, {made.smallest} to {made.largest} traces a problem, "
              f"{len(made.sources)} sources", markup=False)
    _show_alone(done, out)
    _show_scores(done, out)
    _show_shuffled(done, out)
    _show_features(done, out)
    for pair in done.duplicates[:3]:
        out.print(f"nearly equal ({pair.similarity:.2f}): {pair.first}, {pair.second}: "
                  f"{pair.text[:90]}", markup=False)
    out.print(Panel(Text("\n".join(done.verdict)), title="verdict", title_align="left"))


def _show_alone(done: Audit, out: Console) -> None:
    columns = ["alone (below 0.5: more of it means invalid)", "AUROC", "within problems", "p"]
    named = [*((r.name, r) for r in done.alone),
             *((f"formatting: {r.name}", r) for r in done.formatting[:SHOWN])]
    rows = [[name, interval_text(r.auroc), interval_text(r.within), f"{r.p_value:.3g}"]
            for name, r in named]
    out.print(table("What one thing alone says", columns, rows))
    leaks = [[leak.name, interval_text(leak.auroc), interval_text(leak.within),
              f"{leak.adjusted:.3g}", leak.severity if leak.flagged else "none"]
             for leak in done.leaks]
    styles = {i: "bold red" for i, leak in enumerate(done.leaks) if leak.severity == "severe"}
    out.print(table("Leaks: any false flag in at most 5% of clean data", [
        "suspicion", "AUROC", "within problems", "p among all", "flag"], leaks, styles))


def _show_scores(done: Audit, out: Console) -> None:
    rows = [[r.name, *map(interval_text, (r.auroc, r.within, r.length_bins, r.length_pairs))]
            for r in done.scores]
    out.print(table("Scores, like compared with like", [
        "score", "AUROC", "within problems", "same tenth of length", "nearest length"], rows))
    if len(done.composition.sources) > 1:
        rows = [[r.name, *map(interval_text, (r.within_source, r.transfer))] for r in done.scores]
        out.print(table("Sources", ["score", "within sources", "unseen source"], rows))
    if done.transfer_missing:
        out.print(f"no score of unseen sources: {done.transfer_missing}", markup=False)
    if done.increments:
        gains = [[i.base, *map(_gain, (i.auroc, i.within, i.length_pairs))]
                 for i in done.increments]
        out.print(table("What the learned score adds (paired; p by bootstrap over problems)", [
            "beyond", "AUROC", "within problems", "nearest length"], gains))


def _show_shuffled(done: Audit, out: Console) -> None:
    places = {"problems": "between problems", "within": "inside problems"}
    rows = [[t.score, t.statistic, places[t.scheme], f"{t.observed:.3f}", f"{t.null_mean:.3f}",
             f"{t.p_value:.2g}"] for t in done.permutations]
    out.print(table(f"Labels shuffled {done.facts['permutations']} times, score fitted anew", [
        "score", "AUROC", "shuffled", "real", "shuffled mean", "p"], rows))


def _show_features(done: Audit, out: Console) -> None:
    if not done.correlations:
        return
    rows = [[r.family, r.transform, str(r.columns), f"{r.median:.2f}", f"{r.largest:.2f}",
             f"{100 * r.above:.0f}%"] for r in done.correlations
            if r.median is not None and r.largest is not None and r.above is not None]
    out.print(table("Features that follow length: |rho| by family", [
        "family", "variant", "columns", "median", "largest", "above 0.5"], rows[:2 * SHOWN]))
    for name, rho in list(done.offenders.items())[:3]:
        out.print(f"rho {rho:+.3f} with length: {name}", markup=False)


def _gain(value: Difference | None) -> str:
    if value is None:
        return "n/a"
    i = value.interval
    return f"{i.estimate:+.3f} [{i.low:+.3f}, {i.high:+.3f}] p={value.p_value:.2g}"
