"""``validator windtunnel measure``: a model against the truth of a tunnel."""

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
    write_json,
)

if TYPE_CHECKING:
    from validator.models.loading import LoadedModel
    from validator.windtunnels.measured import Measured
    from validator.windtunnels.runs import Run
    from validator.windtunnels.subjects import Subject

__all__ = ["add_measure"]


def add_measure(actions: Any) -> None:
    """Add the action."""
    from validator.cli.windtunnel import add_settings

    parser = add_command(
        actions, "measure",
        "Measure a model: whole answers by depth and head roles, or its entropies against the "
        "exact posterior beside controls, and its geometry.",
        "validator windtunnel measure runs/edges-16 --plots plots\n  "
        "validator windtunnel measure --model smollm2-135m-instruct --subject sula", _run)
    parser.add_argument("target", nargs="?", metavar="RUN_OR_MODEL",
                        help="folder of `validator windtunnel train`, one of its checkpoints, or "
                             "another model of the symbols of --subject")
    parser.add_argument("--subject", help="from `validator windtunnel list`; a run knows its own")
    parser.add_argument("--model", metavar="HUB_OR_NAME",
                        help="any causal LM, in context, on the subject's problems in English")
    parser.add_argument("--problems", type=int,
                        help="none of them trained on (default: 2000 where whole answers are "
                             "judged, 500 of evidence, 20 with --model)")
    parser.add_argument("--shots", type=int,
                        help="solved walks before each, with --model (default: 3)")
    parser.add_argument("--controls", type=int, metavar="STEPS",
                        help="train two MLPs without attention for so many batches as controls "
                             "(evidence alone)")
    parser.add_argument("--plots", type=Path, metavar="DIR", help="write plots, PNG and SVG")
    parser.add_argument("--json-output", type=Path, help="write the numbers as JSON")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, mps (default: cpu)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's)")
    add_settings(parser)


def _run(args: argparse.Namespace) -> int:
    import torch

    from validator.cli.windtunnel_tables import show_measured
    from validator.errors import ParameterError
    from validator.windtunnels.measured import Measuring, measure_subject

    if args.threads:
        torch.set_num_threads(args.threads)
    loaded, subject, run = _what(args)
    if args.plots and args.model and subject.walks:
        raise ParameterError("there are no plots of walks in context; leave --plots out")
    how = Measuring(args.problems, args.model is not None, args.shots, args.controls)
    found = measure_subject(loaded, subject, how, progress=progress, run=run)
    result = {**found.to_json(), "plots": _plots(args.plots, found)}
    if args.json_output:
        write_json(args.json_output, {"command": command_line(), **result})
    if args.json:
        print_json(result)
    else:
        show_measured(console(), found)
    return 0


def _what(args: argparse.Namespace) -> tuple[LoadedModel, Subject, Run | None]:
    """The model, what it is measured on, and the run it comes from, if it comes from one."""
    from validator.cli.windtunnel import settings_from
    from validator.errors import ParameterError
    from validator.models.loading import load_model
    from validator.windtunnels.subjects import find_subject

    if (args.target is None) == (args.model is None):
        raise ParameterError("give either RUN_OR_MODEL, a model of symbols, or --model, any causal "
                             "LM in context")
    run, own = _run_of(args.target)
    if run is not None:
        if args.subject or args.settings:
            raise ParameterError(f"{args.target} is a run of {run.subject.name} and is measured on "
                                 "it; leave --subject and --set out")
        return load_model(own, device=args.device), run.subject, run
    if args.subject is None:
        raise ParameterError(f"{args.target or args.model} does not say what it is to be measured "
                             "on; name a --subject from `validator windtunnel list`")
    subject = find_subject(args.subject).changed(settings_from(args))
    return load_model(args.model or args.target, device=args.device), subject, None


def _run_of(target: str | None) -> tuple[Run | None, Path]:
    """The run that a folder or one of its checkpoints belongs to, and the model's folder."""
    from validator.windtunnels.runs import RECORD, read_run

    folder = Path(target or "")
    if target is None or not folder.is_dir():
        return None, folder
    if (folder / RECORD).is_file():
        run = read_run(folder)
        return run, run.last
    parent = folder.resolve().parent
    if folder.resolve().name.startswith("checkpoint-") and (parent / RECORD).is_file():
        return read_run(parent), folder
    return None, folder


def _plots(folder: Path | None, found: Measured) -> list[str]:
    if folder is None:
        return []
    from validator.windtunnels.plots_written import write_plots

    return [str(path) for path in write_plots(folder, found)]
