"""Which checkpoint to keep, where the truth is exact: what each criterion's choice is worth.

    python -m benchmarks.windtunnel_checkpoints --folder runs/windtunnel_checkpoints

A model of walks on trees is trained until it answers some of them, a classifier is trained on what
it makes of right solutions and of twins of equal length, and training then goes on in several runs
from there, with other seeds and learning rates, some far too high. Every checkpoint is scored by
`validator checkpoints`' own code on a fixed probe; its true accuracy is that of its greedy answers
to 2,000 trees. Runs that are finished are not done again.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from validator import SpectralFeatureExtractor, ValidityClassifier
from validator.models.loading import load_model
from validator.plugins.checkpoints import (
    Criterion,
    Judgement,
    Probe,
    judge_criterion,
    survey_checkpoints,
)
from validator.training.fit import train
from validator.types import Trace
from validator.windtunnels.answers import greedy_answers
from validator.windtunnels.runs import RECORD, Run, Schedule, library_versions, read_run, train_run
from validator.windtunnels.subjects import find_subject
from validator.windtunnels.traces import distinct_problems, tunnel_traces

SUBJECT = find_subject("edges-16")
BASE_SEED, LESSONS, PROBE, OWN = 100, 101, 202, 303
"""Seeds of the model that all runs begin with, the classifier's traces, the probe, and the trees
whose own answers are scored."""
LABEL_FREE = ("mean_logprob", "hfer", "fiedler_value", "attention_entropy")
MAIN = ("last", "validation_loss", *LABEL_FREE, "validity", "validity_auroc",
        *(f"own_{name}" for name in ("mean_logprob", "hfer", "validity")))


@dataclass(frozen=True)
class Size:
    """How much of everything."""

    runs: tuple[tuple[int, float], ...]
    """(seed, highest learning rate)."""
    base_steps: int
    steps: int
    checkpoints: int
    truth: int
    """Trees that the true accuracy is of."""
    lessons: int
    """Trees whose solutions and twins the classifier is trained on."""
    probe: int
    """Trees of the probe, a solution and four twins each."""


FULL = Size(((0, 1e-3), (1, 3e-3), (2, 3e-2), (3, 1e-1), (4, 3e-1)), 160, 200, 10, 2000, 150, 24)
SMALL = Size(((0, 1e-2),), 10, 4, 3, 20, 30, 5)


def main() -> None:
    """Train what is missing, score, judge, summarise."""
    args = _arguments()
    torch.set_num_threads(1)
    size = SMALL if args.small else FULL
    base, first = _base(args.folder / "base", size)
    probe = _probe(args.folder, base, size)
    results = []
    for seed, rate in size.runs:
        folder = args.folder / f"seed{seed}-lr{rate:g}"
        done = folder.with_suffix(f"{folder.suffix}.json")
        if not done.is_file():
            found = _judged(_run(folder, first, seed, rate, size), probe)
            done.write_text(json.dumps({"seed": seed, "learning_rate": rate, **found}),
                            encoding="utf-8")
        results.append(json.loads(done.read_text(encoding="utf-8")))
        print(f"seed {seed}, rate {rate:g}: {time.process_time():.0f} CPU s so far", flush=True)
    whole = {"subject": SUBJECT.name, "size": asdict(size),
             "base_exact": base.checkpoints[-1].exact, "runs": results,
             "criteria": _means(results), "versions": library_versions()}
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    print(summary(whole))


def _base(folder: Path, size: Size) -> tuple[Run, Any]:
    """The run that all others begin with, and its model, its tables still composed."""
    model, weights = SUBJECT.untrained(BASE_SEED), folder / "composed.safetensors"
    if weights.is_file():
        model.load_state_dict(load_file(weights))
        return read_run(folder), model
    schedule = Schedule(BASE_SEED, size.base_steps, checkpoints=1, problems=size.truth)
    run = train_run(SUBJECT, folder, schedule, model=model)
    save_file(model.state_dict(), weights)
    return run, model


def _probe(folder: Path, base: Run, size: Size) -> Probe:
    """Solutions and twins of trees that the classifier was not trained on."""
    tunnel = SUBJECT.tunnel

    def traces(count: int, seed: int) -> list[Trace]:
        return tunnel_traces(tunnel, count, style=SUBJECT.style, seed=seed,
                             kinds=tunnel.corruptions)

    artifact = folder / "artifact"
    if not artifact.exists():
        extractor = SpectralFeatureExtractor(str(base.last))
        features = extractor.fit_transform(traces(size.lessons, LESSONS))
        train(features, ValidityClassifier("logistic", C=0.01), artifact, n_splits=5)
    return Probe(tuple(traces(size.probe, PROBE)), artifact)


def _run(folder: Path, first: Any, seed: int, rate: float, size: Size) -> Run:
    if (folder / RECORD).is_file():
        return read_run(folder)
    schedule = Schedule(seed, size.steps, rate, checkpoints=size.checkpoints, problems=size.truth)
    return train_run(SUBJECT, folder, schedule, model=copy.deepcopy(first))


def _judged(run: Run, probe: Probe) -> dict[str, Any]:
    """The survey, with the scores of each checkpoint's own answers among the criteria."""
    truth = {c.name: c.exact for c in run.checkpoints if c.exact is not None}
    found = survey_checkpoints(run.folder, probe, truth=truth)
    asked = distinct_problems(SUBJECT.tunnel, len(probe.traces) // 5, OWN)
    rows = [dict(row.values) for row in found.rows]
    for values, checkpoint in zip(rows, run.checkpoints, strict=True):
        loaded = load_model(run.folder / checkpoint.name)
        answers = greedy_answers(loaded.model, loaded.tokenizer, SUBJECT.tunnel, asked,
                                 SUBJECT.style)
        # An answer that ended at once has no completion to be read.
        answers = [answer for answer in answers if answer.completion]
        if answers:
            means = probe.read(loaded.model, loaded.tokenizer, answers).means()
            values |= {f"own_{n}": v for n, v in means.items() if n != "validity_auroc"}
    accuracy = [truth[row.name] for row in found.rows]
    steps = [float(row.step) for row in found.rows]
    judged = [judge_criterion(Criterion("last", tuple(steps)), accuracy)]
    judged += [judge_criterion(Criterion(
        name, tuple(values.get(name, np.nan) for values in rows), name != "validation_loss"),
        accuracy) for name in dict.fromkeys(n for values in rows for n in values)]
    return {"accuracy": accuracy, "steps": steps, "criteria": [_plain(j) for j in judged]}


def _plain(judged: Judgement) -> dict[str, Any]:
    return {"criterion": judged.criterion, "spearman": judged.spearman, "regret": judged.regret}


def _means(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Criterion -> mean Spearman and regret over the runs that have them, and how many have."""
    found: dict[str, Any] = {}
    for name in dict.fromkeys(c["criterion"] for r in results for c in r["criteria"]):
        own = [c for r in results for c in r["criteria"] if c["criterion"] == name]
        rho = [c["spearman"] for c in own if c["spearman"] is not None]
        regret = [c["regret"] for c in own if c["regret"] is not None]
        found[name] = {"spearman": float(np.mean(rho)) if rho else None,
                       "regret": float(np.mean(regret)) if regret else None, "runs": len(regret)}
    return found


def summary(whole: dict[str, Any]) -> str:
    """Two Markdown tables: the runs, and what each criterion's choice is worth over them."""
    lines = ["| run | accuracy at first | best | last | by checkpoint |", "|---|---|---|---|---|"]
    for run in whole["runs"]:
        accuracy = run["accuracy"]
        lines.append(f"| seed {run['seed']}, rate {run['learning_rate']:g} | {accuracy[0]:.3f} | "
                     f"{max(accuracy):.3f} | {accuracy[-1]:.3f} | "
                     f"{' '.join(f'{a:.2f}' for a in accuracy)} |")
    lines += ["", "| criterion | mean Spearman | mean regret | regret by run |",
              "|---|---|---|---|"]
    for name in (n for n in MAIN if n in whole["criteria"]):
        own = whole["criteria"][name]
        by_run = [c["regret"] for r in whole["runs"] for c in r["criteria"]
                  if c["criterion"] == name]
        lines.append(f"| {name} | {_signed(own['spearman'])} | {_signed(own['regret'])} | "
                     f"{', '.join('n/a' if r is None else f'{r:.3f}' for r in by_run)} |")
    return "\n".join(lines)


def _signed(value: float | None) -> str:
    return "n/a" if value is None else f"{value:+.3f}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--folder", type=Path, default=Path("runs/windtunnel_checkpoints"),
                        help="of the runs; what is in it is not done again")
    parser.add_argument("--small", action="store_true", help="half a minute's size, to try it out")
    parser.add_argument("--output", type=Path,
                        default=Path("benchmarks/results/windtunnel_checkpoints.json"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
