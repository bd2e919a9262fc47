"""``validator report``: the scores that lm-eval logged -> a table, JSON and an HTML page."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from validator.cli.console import (
    add_command,
    command_line,
    console,
    interval_text,
    print_json,
    table,
    write_json,
)

if TYPE_CHECKING:
    from validator.plugins.harness.logs import LoggedRun
    from validator.training.given_scores import GivenComparison

__all__ = ["register"]


def register(subparsers: Any) -> None:
    """Add the command."""
    parser = add_command(
        subparsers, "report",
        "Report on the scores that a spectral task of lm-eval logged (--log_samples).",
        "validator report LM_EVAL_OUTPUT_PATH -o report.html", run)
    parser.add_argument("folder", type=Path, help="--output_path of the run")
    parser.add_argument("--task", help="which task (default: the only one)")
    parser.add_argument("--filter", help="which filter's verdict (default: the first logged)")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE.html",
                        help="HTML page to write")
    parser.add_argument("--json-output", type=Path, help="write the numbers as JSON")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap (default: 0)")


def run(args: argparse.Namespace) -> int:
    """Read, judge, show."""
    import numpy as np

    from validator.errors import HarnessError
    from validator.plugins.harness.logs import read_run
    from validator.plugins.harness.summary import LEARNED
    from validator.report.given_page import write_given_page
    from validator.training.given_scores import judge_scores

    logged = read_run(args.folder, task=args.task, filter=args.filter)
    if not logged.scores:
        raise HarnessError(f"{logged.source} has no scores: {logged.task} is no spectral task; run "
                           f"{logged.task}_spectral, or make one: validator lm-eval spectralize "
                           f"{logged.task} -o DIR")
    kept = ~logged.seen
    if not kept.any():
        raise HarnessError("the classifier was trained on every document of this run, so nothing "
                           "in it is out of sample; evaluate other documents")
    rows = np.flatnonzero(kept)
    traces = [logged.traces[i] for i in rows]
    labels = np.array([int(t.label or 0) for t in traces])
    scores = {n: s[rows] for n, s in logged.scores.items()}
    found = judge_scores(
        labels, [t.problem_id for t in traces], scores, logged.lengths[rows],
        [t.answer for t in traces], learned=LEARNED, seed=args.seed)
    notes = _notes(logged, len(rows))
    title = f"{logged.task}, {logged.filter}"
    if args.output:
        write_given_page(
            args.output, found.to_json(), scores, labels, logged.lengths[rows], learned=LEARNED,
            title=title, command=command_line(), about=_about(logged), notes=notes)
    if args.json_output:
        write_json(args.json_output, {"task": logged.task, "filter": logged.filter,
                                      "notes": notes, **found.to_json()})
    if args.json:
        print_json({"task": logged.task, "filter": logged.filter, "notes": notes,
                    **found.to_json()})
    else:
        _show(found, title, notes, LEARNED)
    return 0


def _notes(logged: LoggedRun, kept: int) -> list[str]:
    notes = []
    empty = sum(not t.completion for t in logged.traces)
    if empty:
        notes.append(f"{empty} empty responses have no score and rank below all others.")
    if kept < len(logged.traces):
        notes.append(f"{len(logged.traces) - kept} responses to documents that the classifier was "
                     "trained on are left out.")
    return notes


def _about(logged: LoggedRun) -> dict[str, Any]:
    told = {k: v for k, v in logged.about.items() if k != "advice"}
    return {"task": logged.task, "filter": logged.filter, **told}


def _show(found: GivenComparison, title: str, notes: list[str], learned: str) -> None:
    out, facts = console(), found.facts
    header = (f"{title}: {facts['traces']} responses, {facts['problems']} documents, "
              f"{100 * facts['valid']:.0f}% right, 95% intervals over documents")
    columns = ["score", "AUROC", "within documents", "at equal length", "best of N"]
    rows = [[r.key, interval_text(r.auroc), interval_text(r.within),
             interval_text(r.length_matched), interval_text(r.best_of_n)] for r in found.rows]
    own = {i: "bold" for i, r in enumerate(found.rows) if r.key == learned}
    out.print(table(header, columns, rows, own))
    if found.choosing:
        chosen = [[name, interval_text(value)] for name, value in found.choosing.items()]
        out.print(table("Choosing", ["rule", "documents right"], chosen))
    for note in (*notes, found.verdict):
        out.print(note, markup=False, soft_wrap=True)
