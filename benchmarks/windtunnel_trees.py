"""Small models that walk on trees: how often the whole walk is right, and which head does what.

    python -m benchmarks.windtunnel_trees edges-32 --seeds 0 1 2

trains the named subject's model with each seed, measures it on 2,000 trees that it was not trained
on, and adds the result to the file of results. CPU seconds are those of one thread.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from validator.windtunnels.answers import accuracy_by, exact_accuracy, greedy_answers
from validator.windtunnels.edge_model import trained_parameters
from validator.windtunnels.filter_sort import FilterSortTunnel
from validator.windtunnels.head_roles import HeadRoles, RoleRecord, head_roles
from validator.windtunnels.symbols import symbol_tokenizer
from validator.windtunnels.tree import TreePathTunnel
from validator.windtunnels.tree_training import path_model, save_path_model, train_paths

TEST_SEED = 1_000_000
SMALL = TreePathTunnel(nodes=(8, 16), labels=20)
LARGE = TreePathTunnel(nodes=(8, 32), labels=36)
ROLES = (("backward", "edge"), ("backward", "own"), ("turn", "root"), ("forward", "own"),
         ("forward", "edge"), ("end", "goal"))


@dataclass(frozen=True)
class Subject:
    """A tunnel, and how long a model of it learns."""

    tunnel: TreePathTunnel | FilterSortTunnel
    style: str
    steps: int
    layers: int | None = None


SUBJECTS = {
    "edges-16": Subject(SMALL, "edges", 600),
    "edges-32": Subject(LARGE, "edges", 600),
    "edges-16-direct": Subject(replace(SMALL, task="direct"), "edges", 1000),
    "edges-32-direct": Subject(replace(LARGE, task="direct"), "edges", 1000),
    "flat-16": Subject(SMALL, "flat", 1000),
    "flat-16-one-layer": Subject(SMALL, "flat", 1000, layers=1),
    "filter-sort": Subject(FilterSortTunnel(), "flat", 1500),
}
"""Without the chain of thought the sequences are shorter: as much CPU time is more steps."""


def main() -> None:
    """Train, measure, add to the results."""
    args = _arguments()
    torch.set_num_threads(1)
    result = {str(seed): _measure(SUBJECTS[args.subject], seed, args) for seed in args.seeds}
    _add(args.output, args.subject, result)
    for seed, found in result.items():
        print(args.subject, seed, json.dumps(found))


def _measure(subject: Subject, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    tunnel, style = subject.tunnel, subject.style
    test = _problems(tunnel, args.problems)
    tokenizer = symbol_tokenizer(tunnel.symbols(style))
    model = path_model(tunnel, style, seed=seed, layers=subject.layers)
    steps = args.steps or subject.steps
    record = (RoleRecord(model, tokenizer, tunnel, test[:100], style)
              if isinstance(tunnel, TreePathTunnel) else None)
    run = train_paths(tunnel, style, model, seed=seed, max_steps=steps,
                      budget_seconds=args.budget, held_out={p.id for p in test},
                      checkpoints=range(0, steps + 1, steps // 10) if record else (),
                      save=record, progress=_progress)
    if args.folder is not None:
        save_path_model(model, tunnel, style, args.folder / str(seed))
    answers = greedy_answers(model, tokenizer, tunnel, test, style)
    result: dict[str, Any] = {
        "parameters": trained_parameters(model), "steps": run.steps, "stopped": run.stopped,
        "cpu_seconds": round(run.cpu_seconds, 1), "exact": exact_accuracy(answers),
        "exact_by_depth": accuracy_by(answers)}
    if isinstance(tunnel, TreePathTunnel) and record is not None:
        roles = head_roles(model, tokenizer, tunnel, test[:300], style)
        result |= {"roles": _roles(roles), "roles_by_step": {
            step: _roles(found) for step, found in record.steps.items()}}
        if tunnel.nodes == LARGE.nodes:
            deeper = replace(tunnel, depth=(7, 12), nodes=(14, 32))
            result["exact_deeper"] = accuracy_by(greedy_answers(
                model, tokenizer, deeper, _problems(deeper, args.problems), style))
    return result


def _problems(tunnel: TreePathTunnel | FilterSortTunnel, count: int) -> list[Any]:
    rng = np.random.default_rng(TEST_SEED)
    if isinstance(tunnel, TreePathTunnel):
        return tunnel.problems(tunnel.sample_arrays(rng, count))
    return tunnel.problems(tunnel.sample_arrays(rng, count))


def _roles(roles: HeadRoles) -> dict[str, Any]:
    """The best head of each stage and target that occurs, and of stage control."""
    found = {f"{stage} {target}": asdict(roles.best(stage, target)) for stage, target in ROLES
             if not np.isnan(roles.of(stage, target)).any()}
    if not np.isnan(roles.control).any():
        found["control"] = asdict(roles.best_control())
    return found


def _add(path: Path, name: str, result: dict[str, Any]) -> None:
    """Put one subject's result into the file, the others untouched."""
    whole = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"subjects": {}}
    whole["versions"] = {"python": platform.python_version(), "torch": torch.__version__,
                         "transformers": transformers.__version__, "numpy": np.__version__}
    whole["subjects"][name] = result
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")


def _progress(done: int, total: int) -> None:
    if done % 200 == 0:
        print(f"step {done} of {total}, {time.process_time():.0f} CPU s", flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("subject", choices=SUBJECTS)
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
