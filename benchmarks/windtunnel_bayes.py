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
import platform
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import transformers

from validator.models.loading import LoadedModel, load_model
from validator.windtunnels.bayes_training import (
    control_model,
    reference_model,
    save_reference,
    train_bayes,
)
from validator.windtunnels.bijection import BijectionTunnel
from validator.windtunnels.contract import Problem
from validator.windtunnels.entropy import measure_entropy
from validator.windtunnels.evidence import EvidenceTunnel
from validator.windtunnels.geometry import (
    ablated_entropy_error,
    entropy_axis,
    key_frame,
    query_states,
)
from validator.windtunnels.hmm import HMMTunnel
from validator.windtunnels.sula import SulaTunnel
from validator.windtunnels.symbols import symbol_tokenizer

TEST_SEED = 1_000_000
SEES: tuple[Literal["last", "all"], ...] = ("last", "all")


@dataclass(frozen=True)
class Subject:
    """A tunnel and how long a model learns it."""

    tunnel: EvidenceTunnel
    style: str
    steps: int
    hold_out: bool = True


SUBJECTS = {
    "bijection-10": Subject(BijectionTunnel(10), "pairs", 15_000),
    "bijection-20": Subject(BijectionTunnel(20), "pairs", 10_000),
    "bijection-10-repeat": Subject(BijectionTunnel(10, repeat=True), "pairs", 5000),
    "hmm-fixed": Subject(HMMTunnel(), "symbols", 1000),
    "hmm-banded": Subject(HMMTunnel(banded=True), "symbols", 1000),
    "hmm-given": Subject(HMMTunnel(3, 3, given=True, levels=10), "symbols", 10_000),
    "sula": Subject(SulaTunnel(), "answer", 1500, hold_out=False),
}


def main() -> None:
    """Train, measure, add to the results."""
    args = _arguments()
    torch.set_num_threads(1)
    subject = SUBJECTS[args.subject]
    rng = np.random.default_rng(TEST_SEED)
    problems = [subject.tunnel.sample(rng) for _ in range(args.problems)]
    if args.in_context is not None:
        report = measure_entropy(load_model(args.in_context), subject.tunnel, problems, "text")
        _add(args.output, f"{args.subject}, {args.in_context}", report.to_json())
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
    result["geometry"] = _geometry(model, subject, problems[:args.geometry_problems], args.seed)
    for sees in SEES:
        result[f"control_{sees}"] = _control(subject, problems, args, sees)
    _add(args.output, args.subject, result)
    for name in ("model", *(f"control_{sees}" for sees in SEES)):
        print(args.subject, name, result[name]["overall"], result[name]["interval"])


def _train(subject: Subject, problems: list[Problem], args: argparse.Namespace) -> dict[str, Any]:
    model = reference_model(subject.tunnel, subject.style, seed=args.seed)
    run = train_bayes(
        subject.tunnel, subject.style, model, seed=args.seed,
        max_steps=args.steps or subject.steps, budget_seconds=args.budget, progress=_progress,
        held_out=[p.id for p in problems] if subject.hold_out else ())
    save_reference(model, subject.tunnel, subject.style, args.folder)
    return {"parameters": sum(p.numel() for p in model.parameters()), "steps": run.steps,
            "cpu_seconds": round(run.cpu_seconds, 1), "stopped": run.stopped,
            "last_loss_nats": float(np.mean(run.losses[-100:]))}


def _control(subject: Subject, problems: list[Problem], args: argparse.Namespace,
             sees: Literal["last", "all"]) -> dict[str, Any]:
    """The MLP, trained for as many steps unless told otherwise, beside its own training."""
    example = subject.tunnel.token_batch(np.random.default_rng(0), 1, subject.style)
    control = control_model(subject.tunnel, subject.style, example.ids.shape[1], sees=sees,
                            seed=args.seed)
    run = train_bayes(
        subject.tunnel, subject.style, control, seed=args.seed, learning_rate=1e-3,
        max_steps=args.control_steps or subject.steps,
        held_out=[p.id for p in problems] if subject.hold_out else ())
    measured = measure_entropy(_loaded(control, subject, "mlp"), subject.tunnel, problems,
                               subject.style).to_json()
    return {"parameters": sum(p.numel() for p in control.parameters()), "steps": run.steps,
            "cpu_seconds": round(run.cpu_seconds, 1), **measured}


def _loaded(model: Any, subject: Subject, name: str) -> LoadedModel:
    tokenizer = symbol_tokenizer(subject.tunnel.symbols(subject.style))
    return LoadedModel(model.eval(), tokenizer, name, "trained here")


def _geometry(model: LoadedModel, subject: Subject, problems: list[Problem], seed: int
              ) -> dict[str, Any]:
    """Key frame before and after training, entropy axis, and what taking it out does."""
    tunnel, style = subject.tunnel, subject.style
    asked = tunnel.queries(problems[0], style)[0].posterior.symbols
    before = _loaded(reference_model(tunnel, style, seed=seed), subject, "untrained")
    states = query_states(model, tunnel, problems, style)
    kinds = {"evidence": tunnel.symbols(style)[:len(asked)], "answers": asked}
    return {
        "problems": len(problems),
        "key_frame": {kind: asdict(key_frame(model, names)) for kind, names in kinds.items()},
        "key_frame_untrained": {kind: asdict(key_frame(before, names))
                                for kind, names in kinds.items()},
        "entropy_axis": asdict(entropy_axis(states)),
        "entropy_error_without": ablated_entropy_error(
            model, states, model.tokenizer.convert_tokens_to_ids(list(asked))),
    }


def _add(path: Path, name: str, result: dict[str, Any]) -> None:
    """Put one subject's result into the file, the others untouched."""
    whole = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"subjects": {}}
    whole["versions"] = {"python": platform.python_version(), "torch": torch.__version__,
                         "transformers": transformers.__version__, "numpy": np.__version__}
    whole["subjects"][name] = result
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")


def _progress(done: int, total: int) -> None:
    if done % 500 == 0:
        print(f"step {done} of {total}, {time.process_time():.0f} CPU s", flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("subject", choices=SUBJECTS)
    parser.add_argument("--folder", type=Path, help="of the trained model")
    parser.add_argument("--in-context", metavar="MODEL", help="measure this model, train none")
    parser.add_argument("--steps", type=int, help="batches of 64; by default the subject's")
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
