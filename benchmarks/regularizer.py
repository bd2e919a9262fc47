"""Does a spectral term help a small model learn to walk on trees? Accuracy, steps, calibration.

    python -m benchmarks.regularizer edges-8 --seeds 0 1 2

trains the named subject's model with each target at each weight, and without a term; every run of a
seed begins with the same model and sees the same batches. What is recorded already is not run
again. Measured on problems that are never trained on, at even steps:

- exact: share of problems with every symbol of the answer the likeliest one, given those before;
- steps to 0.9 exact, interpolated between the steps that are measured;
- nll: mean of minus the logarithm of the probability of an answer's symbols, in nats;
- ece: expected calibration error of the likeliest symbol's probability, 10 bins.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from benchmarks.windtunnel_results import add_result
from validator.metrics.calibration import ece
from validator.training.regularizer import DESCRIPTORS, DIRECTIONS, SpectralRegularizer
from validator.windtunnels.subjects import SUBJECTS, TEST_SEED, Subject
from validator.windtunnels.training import Loss, supervised_loss, train_reference
from validator.windtunnels.tree import TreePathTunnel
from validator.windtunnels.tree_training import RATES

FEW = TreePathTunnel(nodes=(6, 8), depth=(2, 4), labels=12)
WALKS = {"edges-8": replace(SUBJECTS["edges-16"], name="edges-8", tunnel=FEW)} | {
    name: subject for name, subject in SUBJECTS.items() if subject.walks}
GOAL = 0.9
MEASURES = ("steps_to_0.9", "exact_half", "exact", "nll", "ece")


@dataclass(frozen=True)
class Setting:
    """One kind of run."""

    descriptor: str
    goal: str
    weight: float
    span: str

    @property
    def name(self) -> str:
        """How tables call it."""
        return f"{self.goal} {self.descriptor}, weight {self.weight:g}" if self.weight else "none"

    def loss(self) -> Loss:
        """Cross-entropy, and the term; without a term the model is not even watched."""
        if not self.weight:
            return supervised_loss
        regularizer = SpectralRegularizer(
            {self.descriptor: self.goal}, weight=self.weight, span=self.span)

        def with_term(model: Any, ids: Tensor, labels: Tensor) -> Tensor:
            with regularizer.watch(model) as term:
                return supervised_loss(model, ids, labels) + term(labels)

        return with_term


def main() -> None:
    """Train, measure, add to the results."""
    args = _arguments()
    torch.set_num_threads(1)
    if args.table:
        print(_table(_summary(_recorded(args))))
        return
    for setting in _settings(args):
        for seed in args.seeds:
            if str(seed) in _recorded(args).get(setting.name, {}):
                continue
            found = _run(WALKS[args.subject], setting, seed, args)
            print(args.subject, setting.name, seed, json.dumps(found), flush=True)
            _record(args, setting.name, seed, found)


def _name(args: argparse.Namespace) -> str:
    return f"{args.subject}, {args.span}, {args.steps} steps"


def _recorded(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Setting -> seed -> what was measured before, by this process or another."""
    if not args.output.is_file():
        return {}
    known = json.loads(args.output.read_text(encoding="utf-8"))["subjects"].get(_name(args), {})
    runs: dict[str, dict[str, Any]] = known.get("runs", {})
    return runs


def _record(args: argparse.Namespace, setting: str, seed: int, found: dict[str, Any]) -> None:
    with FileLock(f"{args.output}.lock"):
        runs = _recorded(args)
        runs.setdefault(setting, {})[str(seed)] = found
        add_result(args.output, _name(args), {
            "problems": args.problems, "summary": _summary(runs), "runs": runs})


def _settings(args: argparse.Namespace) -> Iterator[Setting]:
    """Without a term, then each target at each weight."""
    if 0 in args.weights:
        yield Setting("", "", 0.0, args.span)
    for weight in filter(None, args.weights):
        for target in args.targets:
            descriptor, goal = target.split(":")
            yield Setting(descriptor, goal, weight, args.span)


def _run(
    subject: Subject, setting: Setting, seed: int, args: argparse.Namespace
) -> dict[str, Any]:
    tunnel: Any = subject.tunnel
    test = tunnel.token_batch(np.random.default_rng(TEST_SEED), args.problems, subject.style)
    ids, labels = torch.from_numpy(test.ids), torch.from_numpy(test.labels)
    model, curve = subject.untrained(seed), dict[int, dict[str, float]]()
    run = train_reference(
        tunnel, subject.style, model, seed=seed, max_steps=args.steps,
        learning_rate=RATES[subject.style], held_out=set(test.problem_ids), loss=setting.loss(),
        checkpoints=range(0, args.steps + 1, args.every),
        save=lambda step: curve.update({step: _measured(model, ids, labels)}))
    exact = {step: at["exact"] for step, at in curve.items()}
    last = curve[max(curve)]
    return {"steps_to_0.9": _steps_to(exact), "exact_half": exact[args.steps // 2], **last,
            "descriptors": _descriptors(model, ids, labels, setting.span),
            "cpu_ms_per_step": round(1000 * run.cpu_seconds / run.steps, 2),
            "exact_by_step": exact}


@torch.no_grad()
def _measured(model: Any, ids: Tensor, labels: Tensor) -> dict[str, float]:
    model.eval()
    hidden = model.base_model(
        input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False
    ).last_hidden_state[:, :-1]
    wanted = labels[:, 1:] != -100
    logs = model.get_output_embeddings()(hidden[wanted]).log_softmax(-1)
    truth = labels[:, 1:][wanted]
    best = logs.max(-1)
    right = torch.ones_like(wanted)
    right[wanted] = best.indices == truth
    nll = -logs.gather(-1, truth.unsqueeze(-1)).mean()
    return {"exact": right.all(-1).float().mean().item(), "nll": nll.item(),
            "ece": ece((best.indices == truth).numpy(), best.values.double().exp().numpy())}


@torch.no_grad()
def _descriptors(model: Any, ids: Tensor, labels: Tensor, span: str) -> dict[str, float]:
    """What the descriptors are in the end, on the problems that are measured."""
    every = SpectralRegularizer(dict.fromkeys(DESCRIPTORS, "minimize"), weight=0.0, span=span)
    with every.watch(model) as term:
        model.base_model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
        term(labels)
    return {name: round(term.values[name], 4) for name in DESCRIPTORS}


def _steps_to(exact: dict[int, float]) -> float | None:
    """Where the curve first reaches the goal; None if it never does."""
    for (before, low), (after, high) in pairwise(exact.items()):
        if high >= GOAL > low:
            return before + (after - before) * (GOAL - low) / (high - low)
    return None


def _summary(runs: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Mean and standard deviation over seeds, and of the differences to no term of each seed."""
    plain = runs.get("none", {})
    table: dict[str, Any] = {}
    for name, every in runs.items():
        seeds = {seed: run for seed, run in every.items() if seed in plain}
        table[name] = {"seeds": len(seeds)} | {
            m: _spread([run[m] for run in seeds.values()]) for m in MEASURES}
        table[name]["difference"] = {m: _spread([
            None if run[m] is None or plain[seed][m] is None else run[m] - plain[seed][m]
            for seed, run in seeds.items()]) for m in MEASURES}
        table[name]["cpu_ratio"] = _spread([
            run["cpu_ms_per_step"] / plain[seed]["cpu_ms_per_step"] for seed, run in seeds.items()])
    return table


def _table(summary: dict[str, Any]) -> str:
    """Markdown: without a term as it is, with one as the paired difference to that; mean and
    standard deviation over seeds."""
    heads = ["setting", "seeds", *MEASURES, "CPU"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for name, found in summary.items():
        shown = found if name == "none" else found["difference"]
        sign = "" if name == "none" else "+"
        cells = [_cell(shown[m], sign, 0 if "steps" in m else 3) for m in MEASURES]
        row = [name, str(found["seeds"]), *cells, _cell(found["cpu_ratio"], "", 2)]
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


def _cell(spread: dict[str, Any], sign: str, digits: int) -> str:
    if spread["mean"] is None:
        return "never"
    around = "" if spread["sd"] is None else f" ± {spread['sd']:.{digits}f}"
    never = f" ({spread['unknown']} never)" if spread["unknown"] else ""
    return f"{spread['mean']:{sign}.{digits}f}{around}{never}"


def _spread(values: list[float | None]) -> dict[str, Any]:
    """Mean and standard deviation of the known values, and how many are unknown."""
    known = [value for value in values if value is not None]
    return {"mean": mean(known) if known else None,
            "sd": stdev(known) if len(known) > 1 else None, "unknown": len(values) - len(known)}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("subject", choices=WALKS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--weights", type=float, nargs="+", default=[0.0, 0.1, 1.0],
                        help="of the term; 0 trains without it once for all targets")
    every = [f"{name}:{goal}" for name in DESCRIPTORS for goal in DIRECTIONS]
    parser.add_argument("--targets", nargs="+", choices=every, default=every)
    parser.add_argument("--span", choices=["completion", "sequence"], default="completion")
    parser.add_argument("--steps", type=int, default=400, help="batches of 64")
    parser.add_argument("--every", type=int, default=20, help="steps between measurements")
    parser.add_argument("--problems", type=int, default=400, help="measured, never trained on")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/regularizer.json"))
    parser.add_argument("--table", action="store_true", help="print what is recorded, run nothing")
    args = parser.parse_args()
    if args.steps % (2 * args.every):
        parser.error("--steps must be a multiple of twice --every: the middle is measured too")
    return args


if __name__ == "__main__":
    main()
