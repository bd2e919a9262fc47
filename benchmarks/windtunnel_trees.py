"""Small models that walk on trees: how often the whole walk is right, and which head does what.

    python -m benchmarks.windtunnel_trees edges-32 --seeds 0 1 2

trains the named subject's model with each seed, measures it on 2,000 trees that it was not trained
on, and adds the result to the file of results. CPU seconds are those of one thread.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.windtunnel_results import add_result
from validator.windtunnels.answers import accuracy_by, exact_accuracy, greedy_answers
from validator.windtunnels.edge_model import trained_parameters
from validator.windtunnels.head_roles import RoleRecord, head_roles
from validator.windtunnels.measure_walks import best_roles, deeper_tunnel
from validator.windtunnels.subjects import SUBJECTS, Subject
from validator.windtunnels.symbols import symbol_tokenizer
from validator.windtunnels.tree import TreePathTunnel

WALKS = [name for name, subject in SUBJECTS.items() if subject.walks]


def main() -> None:
    """Train, measure, add to the results."""
    args = _arguments()
    torch.set_num_threads(1)
    result = {str(seed): _measure(SUBJECTS[args.subject], seed, args) for seed in args.seeds}
    add_result(args.output, args.subject, result)
    for seed, found in result.items():
        print(args.subject, seed, json.dumps(found))


def _measure(subject: Subject, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    tunnel: Any = subject.tunnel
    style, steps = subject.style, args.steps or subject.steps
    test = subject.problems(args.problems)
    tokenizer = symbol_tokenizer(tunnel.symbols(style))
    model = subject.untrained(seed)
    record = (RoleRecord(model, tokenizer, tunnel, test[:100], style)
              if isinstance(tunnel, TreePathTunnel) else None)
    run = subject.train(model, seed=seed, max_steps=steps, budget_seconds=args.budget,
                        held_out={p.id for p in test}, save=record, progress=_progress,
                        checkpoints=range(0, steps + 1, steps // 10) if record else ())
    if args.folder is not None:
        subject.save(model, args.folder / str(seed))
    answers = greedy_answers(model, tokenizer, tunnel, test, style)
    result: dict[str, Any] = {
        "parameters": trained_parameters(model), "steps": run.steps, "stopped": run.stopped,
        "cpu_seconds": round(run.cpu_seconds, 1), "exact": exact_accuracy(answers),
        "exact_by_depth": accuracy_by(answers)}
    if record is not None:
        found = head_roles(model, tokenizer, tunnel, test[:300], style)
        result |= {"roles": _roles(best_roles(found)), "roles_by_step": {
            step: _roles(best_roles(roles)) for step, roles in record.steps.items()}}
    deeper = deeper_tunnel(tunnel)
    if deeper is not None and tunnel.nodes[1] >= 32:
        result["exact_deeper"] = accuracy_by(greedy_answers(
            model, tokenizer, deeper, replace(subject, tunnel=deeper).problems(args.problems),
            style))
    return result


def _roles(best: Any) -> dict[str, Any]:
    return {name: asdict(head) for name, head in best.items()}


def _progress(done: int, total: int) -> None:
    if done % 200 == 0:
        print(f"step {done} of {total}, {time.process_time():.0f} CPU s", flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("subject", choices=WALKS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, help="batches of 64; by default the subject's")
    parser.add_argument("--budget", type=float, help="CPU seconds of training at most")
    parser.add_argument("--problems", type=int, default=2000, help="measured, and not trained on")
    parser.add_argument("--folder", type=Path, help="where models are saved, one folder a seed")
    parser.add_argument("--output", type=Path,
                        default=Path("benchmarks/results/windtunnel_trees.json"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
