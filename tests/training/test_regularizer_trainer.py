"""The spectral term in real trainers: what it changes, logs, and leaves alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import byte_tokenizer, tiny_model
from torch import Tensor
from transformers import Trainer, TrainingArguments

from validator.training.regularizer import SpectralRegularizer
from validator.training.regularizer_trainer import regularized

pytestmark = pytest.mark.slow
checkpointing = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")
TEXTS = ["Q: 1 and 2?\nA: 3.", "Q: 7.\nA: it is 7", "Q: 4 less 4\nA: 0.", "Q: two?\nA: 2, yes"]


def items() -> list[dict[str, list[int]]]:
    ids = [byte_tokenizer()(text)["input_ids"] for text in TEXTS]
    return [{"input_ids": i, "labels": [-100] * 8 + i[8:]} for i in ids]


def padded(rows: list[dict[str, list[int]]]) -> dict[str, Tensor]:
    width = max(len(row["input_ids"]) for row in rows)
    fill = {"input_ids": 0, "labels": -100}
    found = {key: torch.tensor([row[key] + [pad] * (width - len(row[key])) for row in rows])
             for key, pad in fill.items()}
    return found | {"attention_mask": (found["input_ids"] != 0).long()}


def trained(
    folder: Path, regularizer: SpectralRegularizer | None, model: Any = None, **overrides: Any
) -> Any:
    settings: dict[str, Any] = {
        "output_dir": str(folder), "max_steps": 2, "per_device_train_batch_size": 4,
        "learning_rate": 0.01, "report_to": "none", "use_cpu": True, "seed": 0,
        "disable_tqdm": True, "dataloader_pin_memory": False, "logging_steps": 1,
        "save_strategy": "no"} | overrides
    kind = Trainer if regularizer is None else regularized(Trainer, regularizer)
    trainer = kind(model=tiny_model() if model is None else model, train_dataset=items(),
                   eval_dataset=items(), data_collator=padded,
                   args=TrainingArguments(**settings))
    trainer.train()
    return trainer


def weights(trainer: Any) -> dict[str, Tensor]:
    return dict(trainer.model.state_dict())


def logged(trainer: Any, name: str) -> list[float]:
    return [entry[name] for entry in trainer.state.log_history if name in entry]


def test_weight_zero_trains_as_without_and_logs_the_descriptors(tmp_path: Path) -> None:
    plain = trained(tmp_path, None)
    watched = trained(tmp_path, SpectralRegularizer({"hfer": 0.2, "roughness": 0.5}, weight=0.0))
    assert all(torch.equal(weights(plain)[n], weights(watched)[n]) for n in weights(plain))
    assert logged(plain, "loss") == pytest.approx(logged(watched, "loss"))
    assert logged(watched, "spectral_term") == [0.0] * 2
    assert len(logged(watched, "spectral_roughness")) == 2
    assert logged(watched, "spectral_undefined") == [0.0] * 2


@checkpointing
def test_the_descriptor_moves_to_its_target_and_evaluation_stays_plain(tmp_path: Path) -> None:
    regularizer = SpectralRegularizer({"roughness": 0.3}, weight=30.0)
    trainer = trained(tmp_path, regularizer, max_steps=8, gradient_checkpointing=True,
                      gradient_checkpointing_kwargs={"use_reentrant": False})
    gap = [abs(value - 0.3) for value in logged(trainer, "spectral_roughness")]
    assert gap[0] > 0.3
    assert gap[-1] < 0.5 * gap[0]
    first = trainer.state.log_history[0]
    # The mean of squares, over layers and sequences, is a little above the square of the mean.
    assert 1.0 <= first["spectral_term"] / (30 * gap[0] ** 2) < 1.2
    found = trainer.evaluate()
    plain = Trainer(model=trainer.model, args=trainer.args, eval_dataset=items(),
                    data_collator=padded).evaluate()
    assert found["eval_loss"] == pytest.approx(plain["eval_loss"])
    assert not any("spectral" in name for name in found)


@pytest.mark.parametrize("scaled", [True, False])
def test_accumulated_batches_make_the_step_of_a_whole_one(tmp_path: Path, scaled: bool) -> None:
    """With a loss that the model scales itself, and with a mean that the Trainer divides."""
    regularizer = SpectralRegularizer({"fiedler_value": "minimize"}, weight=50.0)
    ends = []
    for size in (4, 2):
        model = tiny_model()
        if not scaled:
            model.accepts_loss_kwargs = False
        trainer = trained(
            tmp_path, regularizer, model, max_steps=1, optim="sgd", learning_rate=1.0,
            per_device_train_batch_size=size, gradient_accumulation_steps=4 // size,
            max_grad_norm=0.0)
        ends.append((weights(trainer)["model.layers.2.self_attn.q_proj.weight"],
                     logged(trainer, "spectral_term")))
    start = tiny_model().state_dict()["model.layers.2.self_attn.q_proj.weight"]
    moved = (ends[0][0] - start).abs().max().item()
    # Token means of texts of different lengths differ a little from those of the whole batch.
    assert (ends[0][0] - ends[1][0]).abs().max().item() < (1e-3 if scaled else 0.2) * moved
    assert ends[0][1] == pytest.approx(ends[1][1], rel=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_sft_with_lora_and_checkpointing(tmp_path: Path) -> None:
    from datasets import Dataset
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    data = Dataset.from_list([
        {"prompt": text[:8], "completion": text[8:]} for text in TEXTS])
    trainer = regularized(SFTTrainer, SpectralRegularizer({"roughness": "minimize"}, weight=20.0))(
        model=tiny_model(), processing_class=byte_tokenizer(), train_dataset=data,
        peft_config=LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"),
        args=SFTConfig(
            output_dir=str(tmp_path), max_steps=6, per_device_train_batch_size=4,
            learning_rate=0.05, logging_steps=1, report_to="none", use_cpu=True, bf16=False,
            save_strategy="no", disable_tqdm=True, max_length=64, gradient_checkpointing=True,
            gradient_checkpointing_kwargs={"use_reentrant": False}))
    trainer.train()
    found = logged(trainer, "spectral_roughness")
    assert len(found) == 6
    assert found[-1] < found[0] - 0.05
    assert logged(trainer, "spectral_term")[0] == pytest.approx(20 * found[0])
