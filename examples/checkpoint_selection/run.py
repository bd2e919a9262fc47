"""Which checkpoint of a fine-tune to keep: what each criterion's choice is worth, in real runs.

    python examples/checkpoint_selection/run.py --output runs/checkpoint_selection

LoRA fine-tunes of the default model on generated one-step word problems, with several seeds and
learning rates, some of them too high. Every checkpoint is scored by `validator checkpoints`' own
code on a fixed probe, and its true accuracy is that of its greedy answers to held-out problems.
The model is taught without exemplars and asked with the four of the problem set, as the classifier
was. What is done is not done again, so a run that was stopped goes on where it stood.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import Trainer, TrainingArguments

from validator.classifier import load_artifact
from validator.cli.console import console, progress
from validator.models.loading import load_model
from validator.plugins.checkpoints import Probe, survey_checkpoints
from validator.plugins.checkpoints.answers import Asking, questions_of
from validator.scoring import shipped_artifact
from validator.training.datasets import load_traces
from validator.training.decoding import Sampling
from validator.training.fit import prompt_hash
from validator.training.problems import Problem, problem_set, prompt_format
from validator.training.sampling import sample_traces
from validator.types import Trace

MODEL = "smollm2-135m-instruct"
SET = "one-step"
FORMAT = prompt_format(SET)
TRAIN, HELDOUT, PROBE, VALIDATION = 101, 202, 303, 404
"""Seeds of the four sets of problems; none shares a question with another."""
MAIN = ("last", "validation_loss", "mean_logprob", "fiedler_value", "hfer", "validity",
        "validity_auroc", "own_mean_logprob", "own_hfer", "own_validity")


@dataclass(frozen=True)
class Size:
    """How much of everything."""

    runs: tuple[tuple[int, float], ...]
    """(seed, learning rate) of each fine-tune."""
    steps: int
    every: int
    """Steps between checkpoints; the untrained model is one more."""
    batch: int
    train: int
    heldout: int
    probe: int
    """Problems of the probe, four sampled answers each."""
    validation: int


FULL = Size(((0, 1e-3), (1, 3e-3), (2, 1e-2)), 40, 4, 8, 600, 40, 6, 24)
SMALL = Size(((0, 1e-2),), 2, 1, 2, 20, 4, 2, 1)


def main() -> None:
    """Make the sets, run the fine-tunes that are missing, summarise all."""
    args = _arguments()
    torch.set_num_threads(args.threads)
    size = SMALL if args.small else FULL
    args.output.mkdir(parents=True, exist_ok=True)
    sets = _sets(size)
    probe = _probe(sets["probe"], args.output / "probe.jsonl")
    for seed, rate in size.runs:
        done = args.output / f"seed{seed}-lr{rate:g}.json"
        if not done.exists():
            started = time.perf_counter()
            run = done.with_suffix("")
            _fine_tune(run, seed, rate, size, sets)
            trained = time.perf_counter() - started
            result = _survey(run, probe, sets)
            result |= {"seed": seed, "learning_rate": rate, "seconds_training": round(trained, 1),
                       "seconds_scoring": round(time.perf_counter() - started - trained, 1)}
            done.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    results = [json.loads((args.output / f"seed{s}-lr{r:g}.json").read_text())
               for s, r in size.runs]
    text = summary(results)
    (args.output / "summary.md").write_text(text, encoding="utf-8")
    console().print(text, markup=False, soft_wrap=True)


def _sets(size: Size) -> dict[str, list[Problem]]:
    """Train, held-out, probe and validation problems; nothing in two of them.

    Held-out and probe problems are none that the artifact was trained on, and few prompt lengths,
    because prompts of one length are decoded together.
    """
    folder = shipped_artifact(MODEL)
    assert folder is not None
    known = set(load_artifact(folder).manifest["metadata"]["training_prompts"])
    fresh = {name: [p for p in problem_set(SET, 400, seed)
                    if prompt_hash(FORMAT.prompt(p.question)) not in known]
             for name, seed in (("heldout", HELDOUT), ("probe", PROBE))}
    tokenizer = load_model(MODEL).tokenizer
    taken: set[str] = set()
    sets = {}
    for name, count in (("heldout", size.heldout), ("probe", size.probe)):
        sets[name] = _alike([p for p in fresh[name] if p.question not in taken], count, tokenizer)
        taken |= {p.question for p in sets[name]}
    for name, seed, count in (("train", TRAIN, size.train), ("validation", VALIDATION,
                                                             size.validation)):
        drawn = [p for p in problem_set(SET, count + 200, seed) if p.question not in taken]
        sets[name] = drawn[:count]
        taken |= {p.question for p in sets[name]}
    return sets


def _alike(problems: Sequence[Problem], count: int, tokenizer: Any) -> list[Problem]:
    """``count`` problems of the most common prompt lengths, the operations taking turns."""
    lengths = [len(tokenizer(p.question)["input_ids"]) for p in problems]
    common = [n for n, _ in Counter(lengths).most_common()]
    kept: list[Problem] = []
    for length in common:
        if len(kept) >= count:
            break
        kept += [p for p, n in zip(problems, lengths, strict=True) if n == length]
    by_operation: dict[str, list[Problem]] = {}
    for problem in kept:
        by_operation.setdefault(problem.meta["expression"], []).append(problem)
    turns = [p for turn in _turns(list(by_operation.values())) for p in turn]
    return turns[:count]


def _turns(groups: Sequence[Sequence[Problem]]) -> Iterable[list[Problem]]:
    for i in range(max(map(len, groups))):
        yield [g[i] for g in groups if i < len(g)]


def _probe(problems: Sequence[Problem], path: Path) -> Probe:
    """The untrained model's sampled answers to the probe's problems, right and wrong."""
    sampling = Sampling(n=4, temperature=0.6, max_new_tokens=FORMAT.max_new_tokens, seed=0)
    if not path.exists():
        with progress("sampling the probe") as advance:
            sample_traces(load_model(MODEL), problems, FORMAT, sampling, path, progress=advance)
    return Probe(tuple(load_traces(path)), shipped_artifact(MODEL))


def solution(problem: Problem) -> str:
    """What the model is taught to write, in the words of the exemplars."""
    written = problem.meta["expression"]
    for name, value in problem.meta["values"].items():
        written = written.replace(name, str(value))
    return f" {written} = {problem.target}. The answer is {problem.target}.\n"


class Lessons(torch.utils.data.Dataset[dict[str, list[int]]]):
    """Questions without exemplars and their solutions; only the solution is learned."""

    def __init__(self, problems: Sequence[Problem], tokenizer: Any) -> None:
        self.items = []
        for problem in problems:
            asked = tokenizer(FORMAT.question.format(question=problem.question))["input_ids"]
            told = tokenizer(solution(problem), add_special_tokens=False)["input_ids"]
            self.items.append({"input_ids": asked + told, "labels": [-100] * len(asked) + told})

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int) -> dict[str, list[int]]:
        return self.items[i]


def padded(items: Sequence[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    """A batch, padded on the right."""
    longest = max(len(item["input_ids"]) for item in items)

    def rows(key: str, filling: int) -> torch.Tensor:
        return torch.tensor([item[key] + [filling] * (longest - len(item[key])) for item in items])

    mask = [[1] * len(i["input_ids"]) + [0] * (longest - len(i["input_ids"])) for i in items]
    return {"input_ids": rows("input_ids", 0), "labels": rows("labels", -100),
            "attention_mask": torch.tensor(mask)}


def _fine_tune(
    run: Path, seed: int, rate: float, size: Size, sets: dict[str, list[Problem]]
) -> None:
    """Train with a constant learning rate; the untrained adapter is checkpoint-0."""
    if (run / f"checkpoint-{size.steps}" / "trainer_state.json").exists():
        return
    random.seed(seed)
    torch.manual_seed(seed)
    loaded = load_model(MODEL)
    model = get_peft_model(loaded.model, LoraConfig(
        r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"))
    model.save_pretrained(str(run / "checkpoint-0"))
    trainer = Trainer(
        model=model, data_collator=padded, processing_class=loaded.tokenizer,
        train_dataset=Lessons(sets["train"], loaded.tokenizer),
        args=TrainingArguments(
            output_dir=str(run), max_steps=size.steps, per_device_train_batch_size=size.batch,
            learning_rate=rate, lr_scheduler_type="constant", save_strategy="steps",
            save_steps=size.every, save_only_model=True, logging_steps=size.every,
            report_to="none", use_cpu=True, seed=seed, dataloader_pin_memory=False,
            remove_unused_columns=False))
    trainer.train()


def _survey(run: Path, probe: Probe, sets: dict[str, list[Problem]]) -> dict[str, Any]:
    solved = [Trace(p.id, p.id, FORMAT.prompt(p.question), solution(p).rstrip("\n"), 1)
              for p in sets["validation"]]
    with progress(f"checkpoints of {run.name}") as advance:
        found = survey_checkpoints(
            run, probe, questions=questions_of(sets["heldout"], FORMAT), heldout=solved,
            asking=Asking.greedily(FORMAT), own=True, progress=advance)
    return found.to_json()


def summary(results: Sequence[dict[str, Any]]) -> str:
    """Two Markdown tables: the runs, and what each criterion's choice is worth over them."""
    lines = ["| run | accuracy untrained | best | last | by step |", "|---|---|---|---|---|"]
    for result in results:
        rows = result["checkpoints"]
        accuracy = [row["accuracy"] for row in rows]
        shown = " ".join("–" if a is None else f"{a:.2f}" for a in accuracy)
        known = [a for a in accuracy if a is not None]
        lines.append(f"| seed {result['seed']}, rate {result['learning_rate']:g} | "
                     f"{known[0]:.3f} | {max(known):.3f} | {known[-1]:.3f} | {shown} |")
    names = [c["criterion"] for c in results[0]["criteria"]]
    order = [n for n in MAIN if n in names] + [n for n in names if n not in MAIN]
    lines += ["", "| criterion | mean Spearman | mean regret | regret by run |",
              "|---|---|---|---|"]
    for name in order:
        own = [next(c for c in r["criteria"] if c["criterion"] == name) for r in results]
        regrets = [c["regret"] for c in own]
        by_run = ", ".join("n/a" if r is None else f"{r:.3f}" for r in regrets)
        lines.append(f"| {name} | {_mean([c['spearman'] for c in own])} | {_mean(regrets)} | "
                     f"{by_run} |")
    return "\n".join(lines) + "\n"


def _mean(values: Sequence[float | None]) -> str:
    known = [v for v in values if v is not None]
    if not known:
        return "n/a"
    missing = len(values) - len(known)
    text = f"{sum(known) / len(known):+.3f}"
    return f"{text} ({missing} undefined)" if missing else text


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--output", type=Path, default=Path("runs/checkpoint_selection"),
                        help="folder of the runs; what is in it is not done again")
    parser.add_argument("--small", action="store_true", help="a minute's size, for a test")
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    main()
