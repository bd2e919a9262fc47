"""``validator explain``: one trace -> a page that shows what its score rests on."""

from __future__ import annotations

import argparse
import difflib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from validator.cli.console import (
    add_command,
    command_line,
    console,
    print_json,
    progress,
    table,
    write_json,
)
from validator.cli.scorer import MODEL, scorer_of
from validator.errors import ParameterError, TraceError
from validator.types import Trace

if TYPE_CHECKING:
    from validator.explain.data import Explanation
    from validator.explain.reference import Reference
    from validator.scoring import Validator

__all__ = ["register"]


def register(subparsers: Any) -> None:
    """Add the command."""
    from validator.training.datasets import FORMATS

    parser = add_command(
        subparsers, "explain",
        "Show why one trace looks valid or invalid: its tokens and attention graphs, what departs "
        "from valid traces, which features moved the score, and the nearest traces.",
        "validator explain traces.jsonl --id one-step-0-0#1 -o page.html", run)
    parser.add_argument("traces", type=Path, help="trace file")
    parser.add_argument("--id", help="which trace (default: the only one)")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE.html",
                        help="HTML page to write")
    parser.add_argument("--json-output", type=Path, help="write the numbers as JSON")
    parser.add_argument("--artifact", type=Path,
                        help="folder written by `validator train` or `validator steps` (default: "
                             "the one that ships for the model)")
    parser.add_argument("--step-artifact", type=Path, metavar="DIR",
                        help="classifier of steps beside one of traces, for P(step valid)")
    parser.add_argument("--model", help="known name, hub id or folder (default: the artifact's, or "
                                        f"{MODEL})")
    parser.add_argument("--features", metavar="FILE.yaml",
                        help="the feature set's file, if the artifact was trained on one of your "
                             "own")
    _reference_options(parser)
    parser.add_argument("--layer", type=int,
                        help="layer shown first (default: the one that departs most)")
    parser.add_argument("--span", choices=["completion", "whole"], default="completion",
                        help="tokens of the graphs (default: completion)")
    parser.add_argument("--neighbours", type=int, default=3, metavar="K",
                        help="nearest valid and invalid traces shown (default: 3)")
    parser.add_argument("--seed", type=int, default=0, help="of k-means (default: 0)")
    parser.add_argument("--format", default="jsonl", choices=sorted(FORMATS),
                        help="format of the trace file (default: jsonl)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, mps (default: cpu)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's)")
    parser.add_argument("--store", metavar="DIR",
                        help="feature store, a folder or its URL (default: features/ in the cache "
                             "folder)")
    parser.add_argument("--no-store", action="store_true", help="neither read nor write a store")


def _reference_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what the trace is held against")
    group.add_argument("--reference", type=Path, metavar="FILE",
                       help="labelled traces (.jsonl), their features (`validator extract`), or a "
                            "file of --save-reference (default: the shipped one of the model)")
    group.add_argument("--reference-format", metavar="FORMAT", default="jsonl",
                       help="format of a file of reference traces (default: jsonl)")
    group.add_argument("--reference-size", type=int, default=80, metavar="N",
                       help="how many traces of a trace file are read, half of them valid "
                            "(default: 80)")
    group.add_argument("--save-reference", type=Path, metavar="FILE.parquet",
                       help="keep the reference in a small file that is read at once next time")


def run(args: argparse.Namespace) -> int:
    """Load, read, explain, write, show."""
    from validator.explain.trace import explain_trace
    from validator.report.explain_page import chosen_layer, write_explain_page

    trace = _trace(args)
    scorer, name = scorer_of(args, "there is no P(valid); --artifact gives one of your own")
    scorer.prepare()
    reference = _reference(args, scorer)
    with progress(f"explaining {trace.id}") as advance:
        found = explain_trace(
            scorer, trace, reference, span=args.span, step_scorer=_step_scorer(args, scorer),
            classifier=name, neighbours=args.neighbours, seed=args.seed, progress=advance)
    chosen_layer(found, args.layer)  # a wrong one fails whether or not a page is written
    if args.output:
        write_explain_page(args.output, found, title="Why this score?", command=command_line(),
                           layer=args.layer)
    told = {"command": command_line(), **found.to_json()}
    if args.json_output:
        write_json(args.json_output, told)
    if args.json:
        print_json(told)
        return 0
    _show(found)
    if args.output:
        console().print(f"written to {args.output}", markup=False)
    return 0


def _trace(args: argparse.Namespace) -> Trace:
    from validator.training.datasets import load_traces

    traces = {t.id: t for t in load_traces(args.traces, format=args.format)}
    if args.id is None:
        if len(traces) > 1:
            raise ParameterError(f"{args.traces} has {len(traces)} traces; say which with --id, "
                                 f"e.g. --id {next(iter(traces))}")
        return next(iter(traces.values()))
    if args.id not in traces:
        near = difflib.get_close_matches(args.id, traces, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise TraceError(f"{args.traces} has no trace with the id {args.id!r}{hint}")
    return traces[args.id]


def _step_scorer(args: argparse.Namespace, scorer: Validator) -> Validator | None:
    """The classifier of steps, on the model that is loaded already."""
    from validator.models.loading import LoadedModel
    from validator.scoring import Validator

    if args.step_artifact is None:
        return None
    own = scorer.extractor
    loaded = LoadedModel(own.model_, own.tokenizer_, own.provenance_.model,
                         own.provenance_.revision)
    return Validator.load(args.step_artifact, model=loaded, store=own.store)


def _reference(args: argparse.Namespace, scorer: Validator) -> Reference:
    """The traces the trace is held against, read as the scorer reads."""
    from validator.explain.reference_file import shipped_reference, write_reference

    model = scorer.extractor.provenance_.model
    found = shipped_reference(model) if args.reference is None else _given(args, scorer)
    if found is None:
        raise ParameterError(
            f"no reference ships for {model}; give labelled traces of the same kind with "
            "--reference FILE")
    if args.save_reference:
        write_reference(args.save_reference, found, command_line())
    return found


def _given(args: argparse.Namespace, scorer: Validator) -> Reference:
    from validator.explain.reference import Reference, balanced
    from validator.explain.reference_file import is_reference, read_reference
    from validator.features.table import read_features
    from validator.training.datasets import load_traces

    path: Path = args.reference
    if path.suffix == ".parquet":
        if is_reference(path):
            return read_reference(path)
        return Reference.of(read_features(path), path.name)
    if args.reference_size < 1:
        raise ParameterError(f"--reference-size must be at least 1, got {args.reference_size}")
    traces = load_traces(path, format=args.reference_format)
    chosen = balanced(traces, args.reference_size)
    if not chosen:
        raise ParameterError(f"{path} has no labelled traces; the reference needs them")
    with progress(f"reading {len(chosen)} reference traces") as advance:
        features = scorer.extractor.transform(chosen, progress=advance)
    return Reference.of(features, f"{len(chosen)} of the {len(traces)} traces of {path.name}")


def _show(found: Explanation) -> None:
    out, verdict = console(), found.verdict
    out.print(table(
        f"{found.trace.id}: {found.lengths[1]} tokens, reference: {found.reference}",
        ["baseline", "here", "percentile", "median of valid", "of invalid"],
        [[b.name, f"{b.value:.3f}", f"{b.percentile:.0f}", f"{b.valid_median:.3f}",
          "n/a" if b.invalid_median is None else f"{b.invalid_median:.3f}"]
         for b in found.baselines]))
    d = found.deviations
    out.print(table(
        f"{100 * d.beyond:.1f}% of descriptors beyond 3 robust sd (a valid trace: "
        f"{100 * d.beyond_valid:.1f}%)", ["descriptor", "layer", "here", "median of valid", "z"],
        [[d.rows[r], str(d.layers[c]), f"{d.value[r, c]:.4g}", f"{d.center[r, c]:.4g}",
          f"{d.z[r, c]:+.1f}"] for r, c in d.largest(8)]))
    if verdict.contributions is not None:
        found_values = verdict.contributions
        out.print(table(
            f"Log-odds {found_values.margin:+.3f} = bias {found_values.bias:+.3f} + features",
            ["feature", "log-odds"],
            [[c.name, f"{c.contribution:+.3f}"] for c in found_values.top[:8]]))
    for label, near in found.neighbours.items():
        names = ", ".join(f"{n.trace.id} ({n.distance:.2f})" for n in near) or "none"
        out.print(f"nearest {'valid' if label else 'invalid'}: {names}", markup=False)
    if verdict.p_valid is not None:
        between = "" if verdict.interval is None else (
            f", between {verdict.interval[0]:.3f} and {verdict.interval[1]:.3f}")
        out.print(f"P(valid) {verdict.p_valid:.3f}{between}, by {verdict.classifier}",
                  markup=False)
    for note in found.notes:
        out.print(note, markup=False, soft_wrap=True)
