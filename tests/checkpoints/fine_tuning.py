"""A tiny model, an artifact trained on it, a probe, and Trainers that change its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tiny_models import byte_tokenizer, tiny_model
from transformers import Trainer, TrainingArguments

from validator.classifier import ValidityClassifier
from validator.families import learned_names
from validator.features.extractor import SpectralFeatureExtractor
from validator.scoring import Validator
from validator.training.fit import prompt_hash
from validator.types import Trace

LAYERS = [0, 2]


def made_traces(first: int, last: int, labelled: bool = True) -> list[Trace]:
    """Two traces of each problem, one valid and one not."""
    return [
        Trace(f"p{p}#{k}", f"p{p}", f"Q: add {p} and 1.\nA:",
              f" {p} + 1 = {p + 1 + 3 * k}" + "." * k, (1 - k) if labelled else None,
              meta={"target": str(p + 1)})
        for p in range(first, last) for k in range(2)]


def save_base(folder: Path, **overrides: Any) -> Path:
    tiny_model(**overrides).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def train_artifact(base: Path, folder: Path, feature_set: str = "fast") -> Path:
    extractor = SpectralFeatureExtractor(str(base), feature_set=feature_set)
    features = extractor.fit_transform(made_traces(0, 8))
    X = features.select(learned_names(features.names))
    classifier = ValidityClassifier(C=0.01).fit(X, features.labels, groups=features.problem_ids)
    return Validator(extractor, classifier).save(
        folder, {"training_problems": [f"p{i}" for i in range(8)],
                 "training_prompts": [prompt_hash(t.prompt) for t in made_traces(0, 8)]})


class Texts(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """Each item the tokens of one right answer, all of the same length."""

    def __init__(self, count: int = 8) -> None:
        tokenizer = byte_tokenizer()
        self.ids = [tokenizer(f"Q: add {i % 9} and 1.\nA: {i % 9 + 1}")["input_ids"]
                    for i in range(count)]

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, i: int) -> dict[str, list[int]]:
        return {"input_ids": self.ids[i], "labels": self.ids[i]}


def arguments(folder: Path, **overrides: Any) -> TrainingArguments:
    settings: dict[str, Any] = {
        "output_dir": str(folder), "max_steps": 6, "per_device_train_batch_size": 4,
        "learning_rate": 0.02, "eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps",
        "save_steps": 1, "logging_steps": 2, "report_to": "none", "use_cpu": True, "seed": 0,
        "disable_tqdm": True, "dataloader_pin_memory": False,
    }
    return TrainingArguments(**(settings | overrides))


def trainer_of(folder: Path, model: Any, callbacks: Any = None, **overrides: Any) -> Trainer:
    return Trainer(
        model=model, args=arguments(folder, **overrides), train_dataset=Texts(),
        eval_dataset=Texts(4), processing_class=byte_tokenizer(), callbacks=callbacks)
