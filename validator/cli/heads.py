"""``validator heads``: what each head looks at, what it moves, and what it alone can tell."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from validator.cli.console import (
    add_command,
    command_line,
    console,
    error_console,
    interval_text,
    print_json,
    progress,
    table,
    write_json,
)
from validator.cli.scorer import MODEL, scorer_of
from validator.errors import ParameterError
from validator.types import Trace

if TYPE_CHECKING:
    from validator.explain.head_ablation import Ablation
    from validator.explain.head_signal import HeadSignal
    from validator.explain.head_study import HeadStudy
    from validator.scoring import Validator

__all__ = ["register"]

SHOWN = 15
MOVED = {"log_odds": "log-odds", "p_valid": "P(valid)", "mean_logprob": "log-prob"}
"""Quantity -> its column; the JSON has all of them."""


def register(subparsers: Any) -> None:
    """Add the command."""
    from validator.training.datasets import FORMATS

    parser = add_command(
        subparsers, "heads",
        "Study single attention heads: set each to zero and see scores and descriptors move, what "
        "each attends to (induction, previous token, sink), and how well each alone tells valid "
        "from invalid traces.",
        "validator heads traces.jsonl --layers 0,15,29 --limit 8 -o heads.png", run)
    parser.add_argument("traces", type=Path, help="trace file; labels are used where there are any")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE.png",
                        help="map of layers and heads to write, .png or .svg")
    parser.add_argument("--json-output", type=Path, help="write the numbers as JSON")
    parser.add_argument("--layers", type=_indices, metavar="0,7,15",
                        help="ablate heads of these layers only (default: all)")
    parser.add_argument("--heads", type=_indices, metavar="0,1,2",
                        help="ablate these heads of each layer only (default: all)")
    parser.add_argument("--limit", type=int, default=24, metavar="N",
                        help="traces that are read without each head, of as many problems as there "
                             "are; it costs one reading of them for each head (default: 24)")
    parser.add_argument("--no-ablation", action="store_true", help="leave that part out")
    parser.add_argument("--signal-limit", type=int, default=400, metavar="N",
                        help="labelled traces for the AUROC of single heads; 0 leaves that part "
                             "out (default: 400)")
    parser.add_argument("--folds", type=int, default=5, help="of that AUROC (default: 5)")
    parser.add_argument("--artifact", type=Path,
                        help="folder written by `validator train` (default: the one that ships for "
                             "the model)")
    parser.add_argument("--model", help="known name, hub id or folder (default: the artifact's, or "
                                        f"{MODEL})")
    parser.add_argument("--features", metavar="FILE.yaml",
                        help="the feature set's file, if the artifact was trained on one of your "
                             "own")
    parser.add_argument("--seed", type=int, default=0,
                        help="of random tokens, folds and resamples (default: 0)")
    parser.add_argument("--format", default="jsonl", choices=sorted(FORMATS),
                        help="format of the trace file (default: jsonl)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, mps (default: cpu)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's)")
    parser.add_argument("--store", metavar="DIR",
                        help="feature store for the AUROC of single heads, a folder or its URL "
                             "(default: features/ in the cache folder); ablated heads use none")
    parser.add_argument("--no-store", action="store_true", help="neither read nor write a store")


def _indices(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected numbers like 0,7,15, got {text!r}") from error


def run(args: argparse.Namespace) -> int:
    """Load, read, ablate, write, show."""
    from validator.report.head_map import FORMATS, save_head_map
    from validator.training.datasets import load_traces

    if args.output and args.output.suffix not in FORMATS:
        raise ParameterError(f"-o writes {' or '.join(FORMATS)}, got {args.output.name!r}")
    if args.limit < 1:
        raise ParameterError(f"--limit must be at least 1, got {args.limit}")
    traces = load_traces(args.traces, format=args.format)
    scorer, name = scorer_of(args, "heads are ordered by how they move log-prob; "
                             "--artifact gives one of your own")
    found = _study(args, scorer.prepare(), name, traces)
    if args.output:
        save_head_map(args.output, found.panels(), found.text.layers,
                      f"Heads of {found.model}")
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


def _study(
    args: argparse.Namespace, scorer: Validator, name: str | None, traces: Sequence[Trace]
) -> HeadStudy:
    from validator.explain.head_roles import attention_roles, repeated_tokens
    from validator.explain.head_study import HeadStudy, study_sample
    from validator.features.encoding import encode_trace, max_positions

    own = scorer.extractor
    few = study_sample(traces, args.limit)
    limit = max_positions(own.model_.config)
    text = [encode_trace(t, own.tokenizer_, limit).ids for t in few]
    random = attention_roles(own.model_, repeated_tokens(own.tokenizer_, own.model_,
                                                         seed=args.seed))
    ablation = None if args.no_ablation else _ablation(args, scorer, few)
    return HeadStudy.of(own.provenance_.model, name, random, attention_roles(own.model_, text),
                        ablation, _signal(args, scorer, traces), args.seed)


def _ablation(args: argparse.Namespace, scorer: Validator, few: Sequence[Trace]) -> Ablation:
    from validator.explain.head_ablation import ablate_heads, chosen_heads, head_outputs

    outputs = head_outputs(scorer.extractor.model_)
    heads = chosen_heads(outputs, args.layers, args.heads)
    with progress(f"{len(few)} traces without each of {len(heads)} heads") as advance:
        return ablate_heads(scorer, few, heads, outputs=outputs, progress=advance)


def _signal(
    args: argparse.Namespace, scorer: Validator, traces: Sequence[Trace]
) -> HeadSignal | None:
    from validator.explain.head_signal import head_signal

    labelled = [t for t in traces if t.label is not None][: args.signal_limit]
    if args.signal_limit == 0:
        return None
    if len({t.label for t in labelled}) < 2:
        error_console().print("no AUROC of single heads: it takes valid and invalid traces",
                              markup=False)
        return None
    with progress("reading labelled traces") as advance:
        features = scorer.extractor.transform(labelled, progress=advance)
    with progress("judging heads") as advance:
        return head_signal(features, n_splits=args.folds, seed=args.seed, progress=advance)


def _show(found: HeadStudy) -> None:
    out = console()
    if found.signal is not None:
        signal = found.signal
        out.print(table(
            f"AUROC on {signal.traces} traces of {signal.problems} problems, {signal.valid} valid",
            ["score", "AUROC", "at equal length"],
            [[name, interval_text(signal.beside[name]), interval_text(signal.equal_length[name])]
             for name in signal.beside]))
    order = _order(found)
    columns, rows = _columns(found, order[:SHOWN])
    by = "own AUROC" if found.judged_by is None else f"|change of {found.judged_by}|"
    title = f"Heads of {found.model}, by {by if found.ablation or found.signal else 'induction'}"
    if found.ablation is not None:
        title += (f"; {len(found.ablation.traces)} traces, {len(found.ablation.heads)} heads "
                  "ablated")
    out.print(table(title, columns, rows))
    for role in ("induction", "previous", "first"):
        values = found.role(role)
        names = [f"{_name(found, i)} {values.flat[i]:.2f}"
                 for i in np.argsort(-values, axis=None)[:5]]
        out.print(f"most {role}: {', '.join(names)}", markup=False)


def _order(found: HeadStudy) -> list[int]:
    """Flat indices of the heads that have the first panel, largest first."""
    first = next(iter(found.panels().values()))
    size = np.abs(first) if found.ablation is not None else first
    order = np.argsort(-np.where(np.isnan(size), -np.inf, size), axis=None, kind="stable")
    return [int(i) for i in order if not np.isnan(first.flat[i])]


def _name(found: HeadStudy, flat: int) -> str:
    layer, head = divmod(int(flat), found.role("self").shape[1])
    return f"{found.text.layers[layer]}.{head}"


def _columns(found: HeadStudy, order: Sequence[int]) -> tuple[list[str], list[list[str]]]:
    """What is shown of these heads; narrow enough for a terminal of 120 characters."""
    columns, rows = ["head"], [[_name(found, i)] for i in order]
    size = found.role("self").shape[1]
    heads = [(found.text.layers[i // size], i % size) for i in order]
    if found.ablation is not None:
        for quantity, name in MOVED.items():
            if quantity in found.ablation.quantities:
                columns.append(name)
                for row, head in zip(rows, heads, strict=True):
                    row.append(_change(found, head, quantity))
    if found.signal is not None:
        columns.append("own AUROC")
        for row, head in zip(rows, heads, strict=True):
            row.append(interval_text(found.signal.auroc[found.signal.heads.index(head)]))
    for role, name in {"induction": "induction", "previous": "prev.", "first": "first"}.items():
        columns.append(name)
        for row, i in zip(rows, order, strict=True):
            row.append(f"{found.role(role).flat[i]:.2f}")
    return columns, rows


def _change(found: HeadStudy, head: tuple[int, int], quantity: str) -> str:
    """Its mean change without the head, with its interval where there is room for one."""
    assert found.ablation is not None
    assert found.changes is not None
    k, q = found.ablation.heads.index(head), found.ablation.quantities.index(quantity)
    mean, low, high = (float(part[k, q]) for part in (
        found.changes.mean, found.changes.low, found.changes.high))
    if np.isnan(mean):
        return "n/a"
    return f"{mean:+.3f}" if quantity == "p_valid" else f"{mean:+.3f} [{low:+.2f}, {high:+.2f}]"
