"""``validator rerank``: which of N sampled answers to keep, and what choosing is worth."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from validator.plugins.rerank import Reranked, Reranker
    from validator.training.reranking import RerankingReport

__all__ = ["register"]

MODEL = "smollm2-135m-instruct"
SHOWN = 20
"""Problems of the table; all of them go to the file and to standard output."""
SIZES = (1, 2, 4, 8, 16)
"""Numbers of answers of the table; the page and the JSON have all."""


def register(subparsers: Any) -> None:
    """Add the command."""
    from validator.plugins.rerank import RULES
    from validator.training.answers import STYLES

    rules = "; ".join(f"{name}: {what}" for name, what in RULES.items())
    parser = add_command(
        subparsers, "rerank",
        "Choose one of N sampled answers to each problem; with labels, report what every way of "
        "choosing is worth.",
        "validator rerank samples.jsonl -o chosen.jsonl\n"
        "  generate | validator rerank - -o - --rule weighted > chosen.jsonl", run)
    parser.add_argument("samples", help="JSON Lines, - for standard input: traces, those of a "
                        "problem together; or {\"prompt\": ..., \"candidates\": [...]}")
    parser.add_argument("-o", "--output", help="JSON Lines file, one choice per problem, written "
                        "as problems are finished; - for standard output")
    parser.add_argument("--rule", default="best", choices=list(RULES),
                        help=f"{rules} (default: best)")
    parser.add_argument("--score", default="validity",
                        help="what candidates are ranked by: validity, i.e. P(valid), or a "
                             "label-free score, e.g. mean_logprob (default: validity)")
    parser.add_argument("--keep", type=float, default=0.5,
                        help="share that --rule filtered keeps (default: 0.5)")
    parser.add_argument("-k", type=int, default=4, help="how many vote under top-k (default: 4)")
    parser.add_argument("--answer-style", default="math", choices=list(STYLES),
                        help="how final answers are read from candidates that come without one "
                             "(default: math)")
    _add_scorer(parser)
    labelled = parser.add_argument_group("where every candidate is labelled")
    labelled.add_argument("--page", type=Path, metavar="FILE.html", help="report to write")
    labelled.add_argument("--json-output", type=Path, help="write the report as JSON")
    labelled.add_argument("--surface-from", type=Path, metavar="TRACES",
                          help="labelled traces of other problems, e.g. those the classifier was "
                               "trained on: a character n-gram baseline is fitted to them and "
                               "stands beside the other scores")
    labelled.add_argument("--at", type=int, default=8,
                          help="number of answers that rules are compared at (default: 8)")
    labelled.add_argument("--seed", type=int, default=0, help="of the bootstrap (default: 0)")


def _add_scorer(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--artifact", type=Path,
                        help="folder written by `validator train` (default: the one that ships for "
                             "the model)")
    parser.add_argument("--model", help="reader: known name, hub id or folder (default: the "
                                        f"artifact's, or {MODEL})")
    parser.add_argument("--features", metavar="FILE.yaml",
                        help="the feature set's file, if the artifact was trained on one of your "
                             "own")
    parser.add_argument("--batch", type=int, default=128,
                        help="candidates scored at once (default: 128)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, mps (default: cpu)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's)")
    parser.add_argument("--store", type=Path, metavar="DIR",
                        help="feature store (default: features/ in the cache folder)")
    parser.add_argument("--no-store", action="store_true", help="neither read nor write a store")


def run(args: argparse.Namespace) -> int:
    """Choose, write as it goes, show, judge."""
    from validator.plugins.rerank import read_candidates

    reranker = _reranker(args)
    chosen: list[Reranked] = []
    with _sink(args.output) as sink, progress("scoring candidates") as advance:
        for found in reranker.stream(read_candidates(args.samples), advance):
            if sink is not None:
                sink.write(json.dumps(found.to_json(), ensure_ascii=False, allow_nan=False) + "\n")
                sink.flush()
            chosen.append(_without_texts(found))
    report, notes = _report(args, reranker, chosen)
    if report is not None:
        _save(args, report, notes)
    if args.json:
        print_json(_summary(chosen, report, notes))
    elif args.output != "-":
        _show(chosen, report, notes)
    return 0


def _reranker(args: argparse.Namespace) -> Reranker:
    from validator.models.cache import cache_root
    from validator.plugins.rerank import Reranker, make_validator

    store = None if args.no_store else args.store or cache_root() / "features"
    options = {"device": args.device, "num_threads": args.threads, "store": store}
    if args.features is not None:
        options["feature_set"] = args.features
    model = args.model if args.artifact or args.model else MODEL
    validator = make_validator(model, args.artifact, args.score, **options)
    return Reranker(validator, args.rule, args.score, args.keep, args.k, args.answer_style,
                    args.batch, _surface(args.surface_from))


def _surface(path: Path | None) -> dict[str, Any]:
    """The n-gram baseline fitted to the file, as a further score."""
    if path is None:
        return {}
    import numpy as np

    from validator.audit import SurfaceBaseline, surface_texts, texts_beside
    from validator.errors import LabelError
    from validator.training.datasets import load_traces

    traces = load_traces(path)
    if any(t.label is None for t in traces):
        raise LabelError(f"{path}: --surface-from needs traces that are all labelled")
    model = SurfaceBaseline().fit(
        surface_texts(traces), np.array([t.label for t in traces], dtype=np.int64))
    return {"surface": lambda batch: model.decision_function(texts_beside(traces, batch))}


@contextmanager
def _sink(output: str | None) -> Iterator[IO[str] | None]:
    if output is None or output == "-":
        yield None if output is None else sys.stdout
        return
    path = Path(output)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        yield file


def _without_texts(found: Reranked) -> Reranked:
    from dataclasses import replace

    return replace(found, completion="")


def _report(
    args: argparse.Namespace, reranker: Reranker, chosen: list[Reranked]
) -> tuple[RerankingReport | None, list[str]]:
    """What the labels say, on problems that the classifier was not trained on."""
    from validator.training.fit import prompt_hash

    notes = _unscored(chosen)
    known = reranker.validator.trained_on_problems
    fresh = [r for r in chosen if known.isdisjoint({r.problem_id, prompt_hash(r.prompt)})]
    if len(fresh) < len(chosen):
        notes.append(f"The classifier was trained on {len(chosen) - len(fresh)} of the "
                     f"{len(chosen)} problems, which are left out of the report.")
    rows = [(r.problem_id, c) for r in fresh for c in r.candidates]
    labelled = sum(c.label is not None for _, c in rows)
    if not rows or labelled < len(rows):
        if labelled:
            notes.append(f"{len(rows) - labelled} of {len(rows)} candidates have no label, so "
                         "nothing can be said of accuracy.")
        return None, notes
    return _judged(args, rows, notes), notes


def _judged(args: argparse.Namespace, rows: list[Any], notes: list[str]) -> RerankingReport | None:
    import numpy as np

    from validator.errors import LabelError
    from validator.training.reranking import judge_reranking

    names = dict.fromkeys(n for _, c in rows for n in c.scores)
    scores = {n: np.array([np.nan if (v := c.scores.get(n)) is None else v for _, c in rows])
              for n in names}
    chances = scores.get("validity")
    if args.score == "validity":  # calibration gives several the same P(valid): rank by the margin
        scores["validity"] = np.array([np.nan if c.margin is None else c.margin for _, c in rows])
    try:
        return judge_reranking(
            np.array([c.label for _, c in rows]), [p for p, _ in rows], [c.answer for _, c in rows],
            scores, learned=args.score, chances=chances, at=args.at, seed=args.seed)
    except LabelError as error:
        notes.append(f"No report: {error}")
        return None


def _unscored(chosen: list[Reranked]) -> list[str]:
    from validator.errors import ScoreError

    failed = [c for r in chosen for c in r.candidates if c.score is None]
    total = sum(len(r.candidates) for r in chosen)
    if not failed:
        return []
    if len(failed) == total:
        raise ScoreError(f"none of the {total} candidates could be scored, first: "
                         f"{failed[0].id!r}: {failed[0].unscored}")
    shown = "; ".join(f"{c.id}: {c.unscored}" for c in failed[:3])
    return [f"{len(failed)} of {total} candidates could not be scored and rank last: {shown}"
            + ("; ..." if len(failed) > 3 else "")]


def _save(args: argparse.Namespace, report: RerankingReport, notes: list[str]) -> None:
    from validator.report.rerank_page import write_rerank_page

    if args.json_output:
        write_json(args.json_output, {"notes": notes, **report.to_json()})
    if args.page:
        write_rerank_page(args.page, report.to_json(), title=f"Reranking {args.samples}",
                          command=command_line(), notes=notes)


def _summary(chosen: list[Reranked], report: RerankingReport | None,
             notes: list[str]) -> dict[str, Any]:
    return {
        "problems": len(chosen), "candidates": sum(len(r.candidates) for r in chosen),
        "unscored": {c.id: c.unscored for r in chosen for c in r.candidates if c.score is None},
        "chosen": {r.problem_id: {"id": r.chosen.id, "answer": r.chosen.answer,
                                  "score": r.chosen.score, "reason": r.choice.reason}
                   for r in chosen},
        "notes": notes, "report": None if report is None else report.to_json(),
    }


def _show(chosen: list[Reranked], report: RerankingReport | None, notes: list[str]) -> None:
    out = console()
    if report is None:
        rows = [[r.problem_id, r.chosen.id, "n/a" if r.chosen.score is None
                 else f"{r.chosen.score:.3f}", r.chosen.answer or "none", r.choice.reason]
                for r in chosen[:SHOWN]]
        out.print(table(f"{len(chosen)} problems, rule: {chosen[0].rule}",
                        ["problem", "kept", "score", "answer", "why"], rows))
        if len(chosen) > SHOWN:
            out.print(f"and {len(chosen) - SHOWN} more; -o FILE writes all", markup=False)
    else:
        show_report(report, out)
    for note in notes:
        error_console().print(note, markup=False, soft_wrap=True)


def show_report(report: RerankingReport, out: Any) -> None:
    """Print accuracy by rule and number of answers, and the verdict."""
    facts = report.facts
    sizes = [n for n in report.sizes if n in SIZES]
    rows = [[rule, *(interval_text(curve[report.sizes.index(n)]) for n in sizes)]
            for rule, curve in report.curves.items()]
    own = {i: "bold" for i, rule in enumerate(report.curves) if rule == report.learned}
    header = (f"Share of {facts['problems']} problems answered right by choosing among N answers, "
              "95% intervals over problems")
    out.print(table(header, ["rule", *(f"N = {n}" for n in sizes)], rows, own))
    if report.within:
        within = [[name, interval_text(value)] for name, value in report.within.items()]
        out.print(table("AUROC within problems", ["score", "AUROC"], within))
    out.print(report.verdict, markup=False, soft_wrap=True)
