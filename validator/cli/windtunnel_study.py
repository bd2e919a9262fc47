"""``validator windtunnel study``: what attention spectra know of validity, without confounds."""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from validator.cli.console import add_command, console, print_json, progress, table, write_json

if TYPE_CHECKING:
    from validator.types import Progress
    from validator.windtunnels.study import StudySettings
    from validator.windtunnels.study_results import Study

__all__ = ["add_study"]

SUBJECTS = ("tree-edges", "tree-edges-late", "tree-flat", "filter-sort", "bijection-repeat",
            "hmm-banded")
"""Walks and sortings, whose traces are judged; then tunnels of the regression."""


def add_study(subparsers: Any) -> None:
    """Add the subcommand."""
    parser = add_command(
        subparsers, "study",
        "Does the spectrum know? Train small models, and judge right traces against wrong ones of "
        "exactly equal length.",
        "validator windtunnel study tree-edges --seeds 0 1 2 --markdown study.md", run)
    parser.add_argument("subjects", nargs="*", metavar="SUBJECT",
                        help=f"of {', '.join(SUBJECTS)} (default: all)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2],
                        help="one model of every subject each (default: 0 1 2)")
    parser.add_argument("--problems", type=int,
                        help="fresh problems each model answers (default: 1500; 300 "
                             "with --quick)")
    parser.add_argument("--twins", type=int,
                        help="how many of them are judged against their wrong twins (default: 500; "
                             "150 with --quick)")
    parser.add_argument("--samples", type=int, default=4,
                        help="own answers to each problem (default: 4)")
    parser.add_argument("--quick", action="store_true",
                        help="few problems and 200 resamples: numbers of wide intervals")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    parser.add_argument("--json-output", type=Path, help="write the result as JSON")
    parser.add_argument("--markdown", type=Path, help="write all tables as Markdown")
    parser.add_argument("--plot", type=Path, metavar="FILE.svg",
                        help="draw AUROC by kind of error; the ending names the format")


def run(args: argparse.Namespace) -> int:
    """Train, judge, write, show."""
    import torch

    from validator.windtunnels.study import run_study
    from validator.windtunnels.study_plots import study_plot
    from validator.windtunnels.study_regression import EVIDENCE
    from validator.windtunnels.study_subjects import SUBJECTS as WALKS
    from validator.windtunnels.study_tables import markdown

    chosen = _chosen(args.subjects)
    settings = _settings(args)
    torch.set_num_threads(args.threads)
    with _Bars() as report:
        study = run_study(settings, {n: s for n, s in WALKS.items() if n in chosen},
                          {n: s for n, s in EVIDENCE.items() if n in chosen}, report)
    if args.json_output is not None:
        write_json(args.json_output, study.to_json())
    if args.markdown is not None:
        args.markdown.parent.mkdir(parents=True, exist_ok=True)
        args.markdown.write_text(markdown(study), encoding="utf-8")
    if args.plot is not None and study.contests:
        args.plot.parent.mkdir(parents=True, exist_ok=True)
        study_plot(study).savefig(args.plot)
    if args.json:
        print_json(study.to_json())
    else:
        _show(study)
    return 0


def _chosen(names: list[str]) -> tuple[str, ...]:
    """The subjects named, or all. Raises ParameterError for one that is not known."""
    from validator.errors import ParameterError

    for name in names:
        if name not in SUBJECTS:
            raise ParameterError(
                f"no subject {name!r} of the study; known: {', '.join(SUBJECTS)}")
    return tuple(names) or SUBJECTS


def _settings(args: argparse.Namespace) -> StudySettings:
    from validator.windtunnels.study import StudySettings

    if args.quick:
        return StudySettings(tuple(args.seeds), args.problems or 300, args.twins or 150,
                             args.samples, prefixes=300, resamples=200)
    return StudySettings(tuple(args.seeds), args.problems or 1500, args.twins or 500, args.samples)


class _Bars(ExitStack):
    """A progress bar for each part of the work, one after the other."""

    what = ""
    advance: Progress | None = None

    def __call__(self, what: str, done: int, total: int) -> None:
        """Go on with the bar, or close it and begin the next."""
        if what != self.what or self.advance is None:
            self.close()
            self.what, self.advance = what, self.enter_context(progress(what))
        self.advance(done, total)


def _show(study: Study) -> None:
    from validator.windtunnels.study_tables import (
        blind_spots,
        contest_rows,
        increment_rows,
        reranking_rows,
        span_text,
    )

    out = console()
    for c in study.contests:
        right, wrong, problems = (sum(t[i] for t in c.traces) for i in range(3))
        out.print(table(f"{c.subject}, {c.comparison}: {right} right, {wrong} wrong traces of "
                        f"{problems} problems", ["score", "AUROC at equal length", "each model",
                                                 "inside problems"], contest_rows(c)))
        out.print(table("", ["added", "gain in AUROC", "each model"], increment_rows(c)))
    if study.regressions:
        out.print(table("posterior entropy at a fixed position",
                        ["tunnel", "position", "predictor", "R2"],
                        [[r.subject, str(r.position), name, span_text(over.mean)]
                         for r in study.regressions for name, over in r.r2.items()]))
    rows = reranking_rows(study)
    if rows:
        out.print(table("choosing among own answers", [
            "subject", "rule", "accuracy", "AUROC inside problems"], rows))
    if study.contests:
        out.print(table("blind spots", ["subject", "wrong by", "attention", "hidden states",
                                        "identity-aware", "log-prob", "counts", "n-grams",
                                        "attention spectra"], blind_spots(study)))
