"""``validator clean``: a training file -> the examples that look wrong, with reasons."""

from __future__ import annotations

import argparse
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

if TYPE_CHECKING:
    from validator.plugins.clean import CleanReport, ExampleScores
    from validator.types import Trace

__all__ = ["register"]

BY = "small_loss"
SHARE = 0.1
SHOWN = 15


def register(subparsers: Any) -> None:
    """Add the command."""
    from validator.training.datasets import FORMATS

    parser = add_command(
        subparsers, "clean",
        "Find training examples that look wrong: score prompts and completions without labels, "
        "flag the lowest with reasons, and write the others byte for byte.",
        "validator clean train.jsonl -o kept.jsonl --share 0.1", run)
    parser.add_argument("examples", type=Path, help="training file, JSON Lines, .gz or not")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", required=True,
                        help="the examples that are kept, their lines unchanged and in order")
    parser.add_argument("--flagged", type=Path, metavar="FILE",
                        help="the others, with reasons (default: <output>.flagged.jsonl)")
    parser.add_argument("--scores", type=Path, metavar="FILE", help="every score of every example")
    parser.add_argument("--json-output", type=Path, metavar="FILE", help="write the report as JSON")
    parser.add_argument("--page", type=Path, metavar="FILE.html", help="HTML page to write")
    parser.add_argument("--format", default="pairs", choices=sorted({"pairs", *FORMATS}),
                        help="pairs: objects with a prompt and a completion; or a trace format "
                             "(default: pairs)")
    parser.add_argument("--prompt-key", default="prompt", help="of pairs (default: prompt)")
    parser.add_argument("--completion-key", default="completion",
                        help="of pairs (default: completion)")
    parser.add_argument("--limit", type=int,
                        help="the first N examples only; the output then holds no others")
    _choice_options(parser)
    _reading_options(parser)


def _choice_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("which are flagged")
    group.add_argument("--by", default=BY, metavar="SCORE",
                       help=f"score that decides (default: {BY})")
    cut = group.add_mutually_exclusive_group()
    cut.add_argument("--share", type=float, help=f"flag this share, the lowest (default: {SHARE})")
    cut.add_argument("--threshold", type=float, help="flag what scores below this instead")
    group.add_argument("--drop-unscorable", action="store_true",
                       help="leave out what cannot be scored (default: keep it)")
    group.add_argument("--planted", action="store_true",
                       help="add the score `planted`: a classifier trained to tell the examples "
                            "from corrupted copies of them, used on other problems; twice the time")
    group.add_argument("--seed", type=int, default=0, help="of the corruption (default: 0)")


def _reading_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("how they are read")
    group.add_argument("--losses-only", action="store_true",
                       help="token losses and length alone; attention is not read")
    group.add_argument("--artifact", type=Path,
                       help="folder written by `validator train` (default: the one that ships for "
                            "the model)")
    group.add_argument("--model",
                       help=f"known name, hub id or folder (default: the artifact's, or {MODEL})")
    group.add_argument("--features", metavar="NAME_OR_FILE",
                       help="feature set, where no artifact says which, or its file")
    group.add_argument("--device", default="cpu", help="cpu, cuda, mps (default: cpu)")
    group.add_argument("--threads", type=int, help="CPU threads (default: torch's)")
    group.add_argument("--store", metavar="DIR",
                       help="feature store, a folder or its URL (default: features/ in the cache "
                            "folder)")
    group.add_argument("--no-store", action="store_true", help="neither read nor write a store")


def run(args: argparse.Namespace) -> int:
    """Read, score, flag, write, show."""
    from validator.errors import ParameterError
    from validator.plugins.clean import clean_examples, read_examples, require_outputs

    if args.planted and args.losses_only:
        raise ParameterError("--planted reads attention; leave out --losses-only")
    flagged = args.flagged or args.output.with_name(f"{args.output.name}.flagged.jsonl")
    others = (args.scores, args.json_output, args.page)
    require_outputs(args.examples, [args.output, flagged, *(p for p in others if p)])
    examples = read_examples(args.examples, format=args.format, prompt_key=args.prompt_key,
                             completion_key=args.completion_key, limit=args.limit)
    found = _scored(args, [e.trace for e in examples if e.trace is not None])
    share = SHARE if args.share is None and args.threshold is None else args.share
    report = clean_examples(args.examples, examples, found, args.by, share=share,
                            threshold=args.threshold, keep_unscorable=not args.drop_unscorable)
    written = {"kept": args.output, "flagged": flagged}
    report.write_kept(args.output)
    report.write_flagged(flagged)
    if args.scores:
        report.write_scores(args.scores)
    told = {"command": command_line(), **report.to_json()}
    if args.json_output:
        write_json(args.json_output, told)
    if args.page:
        from validator.report.clean_page import write_clean_page

        write_clean_page(args.page, told, title="Training examples that look wrong")
    if args.json:
        print_json(told)
    else:
        _show(report, written)
    return 0


def _scored(args: argparse.Namespace, traces: list[Trace]) -> ExampleScores:
    from validator.classifier import ValidityClassifier
    from validator.plugins.clean import score_examples, with_planted

    scorer, _ = scorer_of(
        args, "there is no score p_valid; --artifact gives one of your own",
        wanted=not args.losses_only, ships=not args.features)
    with progress("reading examples") as advance:
        found = score_examples(
            scorer, traces, attention=not args.losses_only, progress=advance)
    if args.planted:
        with progress("reading corrupted copies") as advance:
            found = with_planted(found, scorer, ValidityClassifier("logistic"), seed=args.seed,
                                 progress=advance)
    return found


def _show(report: CleanReport, written: dict[str, Path]) -> None:
    out = console()
    lines = {e.trace.id: str(e.line) for e in report.examples if e.trace is not None}
    out.print(table(
        f"{len(report.flags)} of {len(report.found.traces)} examples flagged by {report.by}",
        ["line", report.by, "percentile", "also low", "token", "nats"],
        [[lines[f.id], f"{f.by.value:.3g}", f"{f.by.percentile:.1f}",
          ", ".join(s.name for s in f.also[:2]) or "-", repr(f.token), f"{f.token_surprisal:.1f}"]
         for f in report.flags[:SHOWN]]))
    if len(report.flags) > SHOWN:
        out.print(f"and {len(report.flags) - SHOWN} more, in the flagged file", markup=False)
    for note in report.notes():
        out.print(note, markup=False, soft_wrap=True)
    for line, reason in sorted(report.unscorable.items())[:5]:
        out.print(f"line {line}: {reason}", markup=False, soft_wrap=True)
    for name, path in written.items():
        out.print(f"{name}: {path}", markup=False, soft_wrap=True)
