"""``validator checkpoints``: which checkpoint of a fine-tune to keep, by its reading of a probe."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from validator.cli.console import (
    add_command,
    command_line,
    console,
    error_console,
    print_json,
    progress,
    table,
    write_json,
)

if TYPE_CHECKING:
    from validator.plugins.checkpoints.answers import Asking, Question
    from validator.plugins.checkpoints.probe import Probe
    from validator.plugins.checkpoints.survey import Survey

__all__ = ["register"]

SHOWN = 6
"""Criteria of the table of checkpoints; the page and --json have all."""


def register(subparsers: Any) -> None:
    """Add the command."""
    parser = add_command(
        subparsers, "checkpoints",
        "Rank the checkpoints that a fine-tune saved by what each makes of a fixed set of traces.",
        "validator checkpoints runs/sft --probe probe.jsonl --artifact artifact -o page.html", run)
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR",
                        help="output_dir of a Trainer: whole models or PEFT adapters in "
                             "checkpoint-<step>")
    parser.add_argument("--probe", type=Path, required=True, metavar="TRACES.jsonl",
                        help="traces that every checkpoint reads; labels are used where there are")
    parser.add_argument("--artifact", type=Path,
                        help="classifier trained on the model the fine-tune began with (`validator "
                             "train`); without one, label-free scores alone")
    parser.add_argument("--score", help="what `validity` is: learned (default with --artifact) or "
                                        "a label-free score (default without: mean_logprob)")
    parser.add_argument("--by", default="validity",
                        help="criterion that ranks the checkpoints (default: validity)")
    parser.add_argument("--truth", type=Path, metavar="FILE.json",
                        help="true accuracies: {\"checkpoint-10\": 0.42, \"20\": 0.45}")
    parser.add_argument("--problems", metavar="SET", help="ask every checkpoint these problems, a "
                        "built-in set or a file: its accuracy is then the true one")
    parser.add_argument("--count", type=int, default=64, help="how many problems (default: 64)")
    parser.add_argument("--seed", type=int, default=0, help="of the problems (default: 0)")
    parser.add_argument("--own", action="store_true",
                        help="score the answers to --problems too, as criteria own_...")
    parser.add_argument("--heldout", type=Path, metavar="TRACES.jsonl",
                        help="traces whose loss is the validation loss, where the Trainer measured "
                             "none (default: the probe's valid traces)")
    parser.add_argument("--base", help="the adapters' base model, in place of the one they name")
    parser.add_argument("--features", default=None, metavar="SET",
                        help="feature set, without an artifact (default: default)")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE.html", help="page to write")
    parser.add_argument("--json-output", type=Path, help="write the numbers as JSON")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, mps (default: cpu)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's)")


def run(args: argparse.Namespace) -> int:
    """Find, read, score, rank, show."""
    import torch

    from validator.plugins.checkpoints.survey import survey_checkpoints
    from validator.report.checkpoints_page import write_checkpoints_page
    from validator.training.datasets import load_traces

    if args.threads:
        torch.set_num_threads(args.threads)
    probe = _probe(args)
    questions, asking = _questions(args)
    with progress("checkpoints") as advance:
        found = survey_checkpoints(
            args.run_dir, probe, base=args.base, truth=_truth(args.truth), questions=questions,
            asking=asking, own=args.own, by=args.by, device=args.device, progress=advance,
            heldout=load_traces(args.heldout) if args.heldout else ())
    notes = _notes(probe, found)
    result = {**found.to_json(), "notes": notes}
    if args.output:
        write_checkpoints_page(
            args.output, found.to_json(), title=f"Checkpoints of {args.run_dir.name}",
            command=command_line(), notes=notes, about=_about(args, probe))
    if args.json_output:
        write_json(args.json_output, {"command": command_line(), **result})
    if args.json:
        print_json(result)
    else:
        _show(found, notes)
    return 0


def _probe(args: argparse.Namespace) -> Probe:
    from validator.errors import ParameterError
    from validator.plugins.checkpoints.probe import Probe
    from validator.training.datasets import load_traces

    options: dict[str, Any] = {"num_threads": args.threads}
    if args.features is not None:
        if args.artifact is not None and not args.features.endswith((".yaml", ".yml")):
            raise ParameterError("an artifact states its own feature set; leave --features out, or "
                                 "give the YAML file of a set of your own")
        options["feature_set"] = args.features
    return Probe(tuple(load_traces(args.probe)), args.artifact, args.score, options)


def _questions(args: argparse.Namespace) -> tuple[list[Question], Asking | None]:
    from validator.errors import ParameterError
    from validator.plugins.checkpoints.answers import Asking, questions_of
    from validator.training.problems import (
        problem_set,
        problem_set_names,
        prompt_format,
        read_problems,
    )

    if args.problems is None:
        if args.own:
            raise ParameterError("--own scores answers to problems; name some with --problems")
        return [], None
    if args.problems in problem_set_names() or not Path(args.problems).exists():
        problems = problem_set(args.problems, args.count, args.seed)
    else:
        problems = read_problems(Path(args.problems))[: args.count]
    prompt = prompt_format(args.problems)
    return questions_of(problems, prompt), Asking.greedily(prompt)


def _truth(path: Path | None) -> dict[str, float]:
    from validator.errors import ParameterError

    if path is None:
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {str(name): float(value) for name, value in found.items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise ParameterError(
            f"{path}: expected a JSON object, checkpoint's name or step -> accuracy in [0, 1]; "
            f"{error}") from error


def _notes(probe: Probe, found: Survey) -> list[str]:
    notes = []
    if probe.base is not None:
        notes.append(f"The classifier was trained on {probe.base[0]} and is applied to what "
                     "fine-tunes of it read: its scores compare checkpoints, they are no "
                     "calibrated probabilities.")
    seen = probe.seen()
    if seen:
        notes.append(f"{seen} of {len(probe.traces)} probe traces are of problems the classifier "
                     "was trained on.")
    bad = [row for row in found.rows if row.error]
    if bad:
        notes.append(f"{len(bad)} of {len(found.rows)} checkpoints could not be scored and rank "
                     "last.")
    return notes


def _about(args: argparse.Namespace, probe: Probe) -> dict[str, Any]:
    return {
        "run": args.run_dir.name, "probe": f"{args.probe.name}, {len(probe.traces)} traces",
        "artifact": "none" if args.artifact is None else args.artifact.name,
        "problems": "none" if args.problems is None else f"{args.problems}, {args.count}, seed "
                                                          f"{args.seed}"}


def _show(found: Survey, notes: list[str]) -> None:
    out = console()
    names = list(dict.fromkeys(n for row in found.rows for n in row.values))
    first = [n for n in ("validity", "validity_auroc", "validation_loss", "mean_logprob")
             if n in names]
    shown = [*first, *(n for n in names if n not in first)][:SHOWN]
    rows = [[r.name, _number(r.accuracy), *(_number(r.values.get(n)) for n in shown)]
            for r in (found.rows[i] for i in found.order)]
    title = f"{len(rows)} checkpoints, best by {found.by} first (validity: {found.score})"
    out.print(table(title, ["checkpoint", "true accuracy", *shown], rows, {0: "bold"}))
    judged = found.judgements()
    if judged:
        chosen = [[j.criterion, "higher" if j.higher_is_better else "lower",
                   "n/a" if j.picked is None else found.rows[j.picked].name, _number(j.accuracy),
                   _number(j.regret), _number(j.spearman)] for j in judged]
        out.print(table("Choosing by each criterion",
                        ["criterion", "better", "chooses", "accuracy", "regret", "Spearman"],
                        chosen))
    for row in found.rows:
        if row.error:
            error_console().print(f"{row.name}: {row.error}", markup=False, soft_wrap=True)
    for note in (*notes, found.verdict):
        out.print(note, markup=False, soft_wrap=True)


def _number(value: float | None) -> str:
    return "n/a" if value is None or math.isnan(value) else f"{value:.4g}"
