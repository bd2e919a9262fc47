"""``validator windtunnel train``: a small model from nothing, its checkpoints' worth known."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from validator.cli.console import add_command, console, print_json, progress, table

if TYPE_CHECKING:
    from validator.windtunnels.runs import Run

__all__ = ["add_train", "checkpoint_table"]


def add_train(actions: Any) -> None:
    """Add the action."""
    from validator.cli.windtunnel import add_settings

    parser = add_command(
        actions, "train",
        "Train a reference model from nothing and measure every checkpoint on problems that it "
        "was not trained on.",
        "validator windtunnel train edges-16 -o runs/edges-16 --seed 0\n  "
        "validator checkpoints runs/edges-16 --probe traces.jsonl --truth "
        "runs/edges-16/truth.json", _run)
    parser.add_argument("subject", metavar="SUBJECT", help="from `validator windtunnel list`")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="RUN_DIR",
                        help="folder of the run; it must hold none")
    parser.add_argument("--seed", type=int, default=0,
                        help="of the first weights and of the problems (default: 0)")
    parser.add_argument("--steps", type=int, help="batches of 64 (default: the subject's)")
    parser.add_argument("--learning-rate", type=float, help="the highest (default: the subject's)")
    parser.add_argument("--budget", type=float, metavar="CPU_SECONDS",
                        help="begin no further batch after so many CPU seconds")
    parser.add_argument("--checkpoints", type=int, default=10, metavar="K",
                        help="how many, evenly spaced, beside that of the untrained model "
                             "(default: 10)")
    parser.add_argument("--problems", type=int,
                        help="measured at each checkpoint (default: 500 where whole answers are "
                             "judged, else 100)")
    parser.add_argument("--plots", type=Path, metavar="DIR", help="write plots of the training")
    add_settings(parser)


def _run(args: argparse.Namespace) -> int:
    from validator.cli.windtunnel import settings_from
    from validator.windtunnels.runs import Schedule, train_run
    from validator.windtunnels.subjects import find_subject

    subject = find_subject(args.subject).changed(settings_from(args))
    schedule = Schedule(args.seed, args.steps, args.learning_rate, args.budget, args.checkpoints,
                        args.problems)
    with progress(f"training {subject.name}", unit="steps") as advance:
        run = train_run(subject, args.output, schedule, progress=advance)
    plots = _plots(args.plots, run)
    if args.json:
        facts = {k: v for k, v in run.to_json().items() if k != "losses"}
        print_json({**facts, "output": str(args.output), "plots": plots})
        return 0
    out = console()
    out.print(checkpoint_table(run))
    told = "all steps" if run.training.stopped == "steps" else "out of time: another machine would"
    told += "" if run.training.stopped == "steps" else " get further"
    out.print(f"{run.parameters:,} parameters, {run.training.steps:,} steps, "
              f"{run.training.cpu_seconds:.1f} CPU seconds ({told})", soft_wrap=True)
    out.print(str(args.output), soft_wrap=True, highlight=False, markup=False)
    return 0


def _plots(folder: Path | None, run: Run) -> list[str]:
    if folder is None:
        return []
    from validator.windtunnels.plots import save_plot
    from validator.windtunnels.plots_written import draw_run

    return [str(p) for name, figure in draw_run(run) for p in save_plot(figure, folder, name)]


def checkpoint_table(run: Run) -> Any:
    """Each checkpoint with its held-out loss and what it is worth."""
    walks = run.subject.walks
    rows = []
    for found in run.checkpoints:
        worth = found.exact if walks else found.entropy_mae_bits
        rows.append([found.name, f"{found.loss:.4f}",
                     "n/a" if worth is None else f"{worth:.3f}" if walks else f"{worth:.4f}"])
    return table(f"{run.subject.name}, seed {run.schedule.seed}: held-out problems",
                 ["checkpoint", "loss, nats", "exact" if walks else "entropy error, bits"], rows)
