"""How near small trained models come to exact posteriors, and what their geometry is like.

    python -m benchmarks.windtunnel_bayes bijection-10 --folder runs/bijection-10

trains the named subject's reference model where the folder has none, then measures it and two
controls without attention on problems that none was trained on, and adds the result to the file of
results. CPU seconds are those of one thread.

    python -m benchmarks.windtunnel_bayes sula --in-context smollm2-135m-instruct --problems 30

measures a model that was never trained on the tunnel, in context, on its style ``text``.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.windtunnel_results import add_result
from validator.models.loading import load_model
from validator.windtunnels.contract import Problem
from validator.windtunnels.entropy import measure_entropy
from validator.windtunnels.evidence import EvidenceTunnel
from validator.windtunnels.measure_evidence import SEES, measure_geometry, train_control
from validator.windtunnels.subjects import SUBJECTS, Subject

EVIDENCE = [name for name, subject in SUBJECTS.items() if not subject.walks]


def main() -> None:
    """Train, measure, add to the results."""
    args = _arguments()
    torch.set_num_threads(1)
    subject = SUBJECTS[args.subject]
    problems = subject.problems(args.problems)
    assert isinstance(subject.tunnel, EvidenceTunnel)
    if args.in_context is not None:
        report = measure_entropy(load_model(args.in_context), subject.tunnel, problems, "text")
        add_result(args.output, f"{args.subject}, {args.in_context}", report.to_json())
        print(report.overall, report.curve_mae_bits, report.interval)
        return
    result: dict[str, Any] = {"seed": args.seed, "steps": args.steps or subject.steps}
    record = args.folder / "training.json"
    if not (args.folder / "config.json").is_file():
        record.parent.mkdir(parents=True, exist_ok=True)
        record.write_text(json.dumps(_train(subject, problems, args)), encoding="utf-8")
    result |= json.loads(record.read_text(encoding="utf-8"))
    if args.train_only:
        return
    model = load_model(args.folder)
    result["model"] = measure_entropy(model, subject.tunnel, problems, subject.style).to_json()
    untrained = subject.loaded(subject.untrained(args.seed), "untrained")
    result["geometry"] = measure_geometry(
        model, subject, problems[:args.geometry_problems], untrained).to_json()
    for sees in SEES:
        result[f"control_{sees}"] = train_control(
            subject, problems, sees=sees, seed=args.seed,
            steps=args.control_steps or subject.steps).to_json()
    add_result(args.output, args.subject, result)
    for name in ("model", *(f"control_{sees}" for sees in SEES)):
        print(args.subject, name, result[name]["overall"], result[name]["interval"])


def _train(subject: Subject, problems: list[Problem], args: argparse.Namespace) -> dict[str, Any]:
    model = subject.untrained(args.seed)
    run = subject.train(
        model, seed=args.seed, max_steps=args.steps, budget_seconds=args.budget,
        progress=_progress, held_out=[p.id for p in problems])
    subject.save(model, args.folder)
    return {"parameters": sum(p.numel() for p in model.parameters()), "steps": run.steps,
            "cpu_seconds": round(run.cpu_seconds, 1), "stopped": run.stopped,
            "last_loss_nats": float(np.mean(run.losses[-100:]))}


def _progress(done: int, total: int) -> None:
    if done % 500 == 0:
        print(f"step {done} of {total}, {time.process_time():.0f} CPU s", flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("subject", choices=EVIDENCE)
    parser.add_argument("--folder", type=Path, help="of the trained model")
    parser.add_argument("--in-context", metavar="MODEL", help="measure this model, train none")
    parser.add_argument("--steps", type=int, help="batches; by default the subject's")
    parser.add_argument("--control-steps", type=int, help="of the MLP; by default the same")
    parser.add_argument("--budget", type=float, help="CPU seconds of training at most")
    parser.add_argument("--problems", type=int, default=500, help="measured, and not trained on")
    parser.add_argument("--geometry-problems", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--train-only", action="store_true")
    parser.add_argument("--output", type=Path,
                        default=Path("benchmarks/results/windtunnel_bayes.json"))
    args = parser.parse_args()
    if (args.folder is None) == (args.in_context is None):
        parser.error("give --folder or --in-context")
    return args


if __name__ == "__main__":
    main()
