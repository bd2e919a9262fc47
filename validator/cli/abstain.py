"""``validator abstain``: answer only where P(valid) is high enough for a promised risk."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from validator.cli.console import add_command, console, error_console, print_json, progress, table

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from validator.classifier import Artifact
    from validator.conformal import AbstentionReport, ConformalLabels, RiskThreshold
    from validator.metrics import Interval
    from validator.types import FeatureMatrix

__all__ = ["register"]


class Judged(NamedTuple):
    """Scored traces of problems the artifact has not seen."""

    probs: NDArray[np.float64]
    labels: NDArray[np.int64]
    groups: NDArray[np.str_]

    def take(self, rows: NDArray[np.int64]) -> Judged:
        """The same for some rows."""
        return Judged(self.probs[rows], self.labels[rows], self.groups[rows])


def register(subparsers: Any) -> None:
    """Add the command."""
    parser = add_command(
        subparsers, "abstain",
        "Find a threshold on P(valid) above which at most a given share of answers is invalid, "
        "and check it on other problems.",
        "validator abstain artifact calibration.parquet test.parquet --max-risk 0.1", run)
    parser.add_argument("artifact", type=Path, help="folder written by `validator train`")
    parser.add_argument("calibration", type=Path,
                        help="feature file of labelled traces the threshold is chosen on")
    parser.add_argument("test", type=Path, nargs="?",
                        help="feature file of labelled traces of other problems, to check it on; "
                             "left out, half of the calibration problems")
    parser.add_argument("--max-risk", type=float, default=0.1,
                        help="largest share of answers that may be invalid (default: 0.1)")
    parser.add_argument("--confidence", type=float, default=0.9,
                        help="probability that the promise holds (default: 0.9)")
    parser.add_argument("--alpha", type=float, default=0.1,
                        help="share of sets that may miss the true label (default: 0.1)")
    parser.add_argument("--seed", type=int, default=0,
                        help="of the split, the calibration and the bootstrap (default: 0)")


def run(args: argparse.Namespace) -> int:
    """Load, calibrate, check, show."""
    from validator.classifier import load_artifact
    from validator.conformal import ConformalLabels, RiskThreshold, report
    from validator.metrics import ece

    artifact = load_artifact(args.artifact)
    calibration = _judged(artifact, args.calibration)
    if args.test is None:
        calibration, test = _halves(calibration, args.seed)
    else:
        test = _judged(artifact, args.test)
    _require_disjoint(calibration, test)
    rule = RiskThreshold(args.max_risk, args.confidence, seed=args.seed).fit(*calibration)
    sets = ConformalLabels(args.alpha).fit(*calibration)
    found = report(rule, sets, *test, seed=args.seed)
    error, quality = ece(test.labels, test.probs), _quality(test, args.seed)
    if args.json:
        print_json(_to_json(rule, sets, found, error, quality))
    else:
        _show(rule, sets, found, error, quality)
    return 0


def _judged(artifact: Artifact, path: Path) -> Judged:
    """P(valid) of the traces whose problems the artifact was not trained on."""
    import numpy as np

    from validator.features.table import read_features
    from validator.training.fit import artifact_scores, unseen_rows

    features: FeatureMatrix = read_features(path)
    log_odds = artifact_scores(artifact, features)
    rows = unseen_rows(artifact, features)
    seen = len(features.traces) - len(rows)
    if seen:
        error_console().print(
            f"{path.name}: {seen} traces are of problems the artifact was trained on and are left "
            f"out; {len(rows)} remain", markup=False)
    probs = np.exp(-np.logaddexp(0, -log_odds))
    return Judged(probs, features.labels, features.problem_ids).take(rows)


def _halves(judged: Judged, seed: int) -> tuple[Judged, Judged]:
    from validator.splits import problem_folds

    first, second = problem_folds(judged.groups, judged.labels, 2, seed)[0]
    return judged.take(first), judged.take(second)


def _require_disjoint(calibration: Judged, test: Judged) -> None:
    from validator.errors import LabelError

    shared = sorted(set(calibration.groups.tolist()) & set(test.groups.tolist()))
    if shared:
        raise LabelError(
            f"{len(shared)} problems are in the calibration and in the test file, first: "
            f"{shared[0]!r}; a threshold is checked on other problems than it was chosen on. Leave "
            "the test file out to split one file by problem")


def _quality(test: Judged, seed: int) -> dict[str, Interval]:
    """Metrics of P(valid) on the test traces, every trace weighing the same.

    ECE is not among them: a resample's is larger than the sample's, so percentiles mislead.
    """
    from validator.metrics import (
        Resampler,
        aurc,
        brier,
        clustered_interval,
        excess_aurc,
        row_statistic,
    )

    resampler = Resampler(test.groups, seed=seed)

    def interval(metric: Callable[[Any, Any], float]) -> Interval:
        return clustered_interval(
            row_statistic(lambda rows: metric(test.labels[rows], test.probs[rows]), resampler),
            resampler)

    metrics = {"brier": brier, "aurc": aurc, "excess_aurc": excess_aurc}
    found = {}
    with progress("intervals") as advance:
        for name, metric in metrics.items():
            found[name] = interval(metric)
            advance(len(found), len(metrics))
    return found


def _to_json(rule: RiskThreshold, sets: ConformalLabels, found: AbstentionReport, error: float,
             quality: dict[str, Interval]) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "max_risk": rule.max_risk, "confidence": rule.confidence, "seed": rule.seed,
        "certified": rule.certified_,
        "threshold": rule.threshold_ if rule.certified_ else None,
        "calibration": {
            "problems": rule.n_problems_, "answered": rule.coverage_,
            "risk": rule.risk_ if rule.certified_ else None,
        },
        "alpha": sets.alpha,
        "test": found.to_json(),
        "ece": error,
        **{name: asdict(value) for name, value in quality.items()},
    }


def _show(rule: RiskThreshold, sets: ConformalLabels, found: AbstentionReport, error: float,
          quality: dict[str, Interval]) -> None:
    empty, single, both = found.set_sizes
    risk = "–" if found.risk is None else f"{found.risk:.3f}"
    risk_row = _row("risk of the answers", found.risk_interval) if found.risk_interval else [
        "risk of the answers", risk, "–"]
    names = {"brier": "Brier score", "aurc": "AURC", "excess_aurc": "E-AURC"}
    rows = [
        _row("answered", found.answered), risk_row, _row("risk of answering all", found.base_risk),
        _row(f"sets that hold the label (promised: {1 - sets.alpha:g})", found.set_coverage),
        ["sets of one label", f"{single:.3f}", ""],
        ["sets of both, of none", f"{both:.3f}, {empty:.3f}", ""],
        ["ECE", f"{error:.3f}", ""],
        *(_row(names[name], value) for name, value in quality.items()),
    ]
    title = f"{found.traces} traces of {found.problems} problems"
    console().print(table(title, ["on the test traces", "estimate", "95% interval"], rows))
    console().print(_verdict(rule), markup=False)


def _row(name: str, interval: Interval) -> list[str]:
    return [name, f"{interval.estimate:.3f}", f"[{interval.low:.3f}, {interval.high:.3f}]"]


def _verdict(rule: RiskThreshold) -> str:
    promise = (f"at most {rule.max_risk:g} of the answers invalid, with confidence "
               f"{rule.confidence:g}, from {rule.n_problems_} calibration problems")
    if not rule.certified_:
        return (f"No threshold is certified for {promise}: answer nothing. More calibration "
                "problems, a higher --max-risk or a lower --confidence may change that.")
    return (f"Answer where P(valid) >= {rule.threshold_:.4f}: {promise}; there it answers "
            f"{rule.coverage_:.3f} with risk {rule.risk_:.3f}.")
