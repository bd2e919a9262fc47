"""The study as tables: for people, and as Markdown for a page."""

from __future__ import annotations

from collections.abc import Sequence

from validator.metrics import Interval
from validator.windtunnels.study_results import ContestResult, Over, Study

__all__ = ["BLIND", "SHORT", "blind_spots", "contest_rows", "increment_rows", "markdown",
           "reranking_rows", "span_text"]

BLIND, SHORT = 0.6, 0.75
"""AUROC below which a score is called blind, and below which it is called weak."""
SHOWN = ("attention, whole sequence", "attention, trace window", "attention, step-local",
         "attention", "hidden states", "identity-aware", "log-prob", "counts", "n-grams", "length",
         "log-prob + attention", "baselines", "baselines + attention",
         "baselines + identity-aware", "baselines + both")
"""Scores in the order of the tables."""


def span_text(value: Interval, signed: bool = False) -> str:
    """``0.912 [0.900, 0.924]``, or with signs."""
    form = "+.3f" if signed else ".3f"
    return f"{value.estimate:{form}} [{value.low:{form}}, {value.high:{form}}]"


def contest_rows(found: ContestResult) -> list[list[str]]:
    """Score, AUROC over models, of each model, inside problems."""
    rows = []
    for name in SHOWN:
        if name not in found.auroc:
            continue
        over = found.auroc[name]
        within = span_text(found.within[name].mean) if name in found.within else "–"
        if name in found.constant:
            rows.append([name, "0.500, constant", "", ""])
        else:
            rows.append([name, span_text(over.mean), _each(over), within])
    return rows


def increment_rows(found: ContestResult) -> list[list[str]]:
    """What is added to what, the paired gain over models, of each model."""
    return [[name, span_text(over.mean, signed=True),
             ", ".join(f"{i.estimate:+.3f}" for i in over.each)]
            for name, over in found.increments.items()]


def _each(over: Over) -> str:
    return ", ".join(f"{i.estimate:.3f}" for i in over.each)


def blind_spots(study: Study, scores: Sequence[str] = (
        "attention", "hidden states", "identity-aware", "log-prob", "counts", "n-grams")
        ) -> list[list[str]]:
    """One row for each contest: AUROC of each score, and what attention spectra do not see."""
    return [[c.subject, c.comparison, *(f"{c.auroc[s].mean.estimate:.3f}" for s in scores),
             _sight(c.auroc["attention"].mean)] for c in study.contests]


def _sight(attention: Interval) -> str:
    if attention.low < BLIND:
        return "blind" if attention.high < SHORT else "not shown to see"
    return "weak" if attention.estimate < SHORT else "sees"


def reranking_rows(study: Study) -> list[list[str]]:
    """Subject, rule, accuracy with all answers and AUROC inside problems, means over models."""
    rows = []
    for subject, reports in study.reranking.items():
        known = [r for r in reports if r is not None]
        for rule in known[0].curves if known else ():
            score = rule.removeprefix("best of N by ")
            accuracy = [r.curves[rule][r.sizes.index(r.at)].estimate for r in known]
            within = [r.within[score].estimate for r in known if score in r.within]
            rows.append([subject, rule, f"{sum(accuracy) / len(accuracy):.3f}",
                         f"{sum(within) / len(within):.3f}" if within else "–"])
    return rows


def markdown(study: Study) -> str:
    """Every table of the study, the blind spots first."""
    parts = ["## Blind spots\n", _table(
        ["subject", "wrong by", "attention", "hidden states", "identity-aware", "log-prob",
         "counts", "n-grams", "attention spectra"], blind_spots(study))]
    for c in study.contests:
        right, wrong, problems = (sum(t[i] for t in c.traces) for i in range(3))
        parts += [f"\n### {c.subject}: {c.comparison}\n",
                  f"{right} right and {wrong} wrong traces of {problems} problems.\n",
                  _table(["score", "AUROC", "each model", "inside problems"], contest_rows(c)),
                  "", _table(["added", "gain in AUROC", "each model"], increment_rows(c))]
    if study.regressions:
        parts += ["\n## Posterior entropy at a fixed position\n", _table(
            ["tunnel", "position", "sd, bits", "predictor", "R2", "each model"],
            [[r.subject, str(r.position), f"{r.spread:.2f}", name, span_text(over.mean),
              _each(over)] for r in study.regressions for name, over in r.r2.items()])]
    if any(r is not None for found in study.reranking.values() for r in found):
        parts += ["\n## Choosing among own answers\n", _table(
            ["subject", "rule", "accuracy", "AUROC inside problems"], reranking_rows(study))]
    return "\n".join(parts) + "\n"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
