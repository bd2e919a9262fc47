"""The callback in TRL's SFT trainer with LoRA and in two processes, the reward in GRPO's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fine_tuning import made_traces
from peft import LoraConfig
from tiny_models import byte_tokenizer
from transformers import AutoModelForCausalLM

from validator.classifier import load_artifact
from validator.features.extractor import SpectralFeatureExtractor
from validator.plugins.checkpoints import Probe, ValidityCallback, survey_checkpoints
from validator.plugins.reward import ValidityReward

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
PROBE = made_traces(10, 14)
HERE = Path(__file__).parent


def prompts(count: int, **columns: Any) -> Any:
    from datasets import Dataset

    return Dataset.from_list(
        [{"prompt": f"Q: add {i} and 1.\nA:", **columns} for i in range(count)])


def common(folder: Path) -> dict[str, Any]:
    return {"output_dir": str(folder), "report_to": "none", "use_cpu": True, "bf16": False,
            "seed": 0, "disable_tqdm": True, "dataloader_pin_memory": False}


def test_sft_with_lora_chooses_what_the_saved_adapters_say(
    base: Path, artifact: Path, tmp_path: Path
) -> None:
    from trl import SFTConfig, SFTTrainer

    data = prompts(8).map(lambda row, i: {"completion": f" {i + 1}."}, with_indices=True)
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(base), processing_class=byte_tokenizer(),
        train_dataset=data, eval_dataset=data,
        peft_config=LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"),
        args=SFTConfig(
            **common(tmp_path / "run"), max_steps=6, per_device_train_batch_size=4,
            learning_rate=0.05, eval_strategy="steps", eval_steps=1, save_steps=1, max_length=64,
            load_best_model_at_end=True, metric_for_best_model="eval_validity"))
    ValidityCallback(PROBE, artifact=artifact).attach(trainer)
    trainer.train()
    survey = survey_checkpoints(tmp_path / "run", Probe(PROBE, artifact))
    after = {r.step: r.values["validity"] for r in survey.rows}
    logged = {e["step"]: e["eval_validity"] for e in trainer.state.log_history
              if "eval_validity" in e}
    assert logged == pytest.approx(after, abs=1e-5)
    assert len(set(after.values())) == 6
    best = max(after, key=lambda s: after[s])
    assert trainer.state.best_model_checkpoint == str(tmp_path / "run" / f"checkpoint-{best}")
    assert survey.rows[survey.order[0]].step == best
    assert survey.loss_source == "eval_loss of the Trainer"


def test_grpo_takes_the_reward_and_logs_it(base: Path, artifact: Path, tmp_path: Path) -> None:
    from trl import GRPOConfig, GRPOTrainer

    reward = ValidityReward(artifact, model=base, length_reference=made_traces(20, 24))
    trainer = GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(base), processing_class=byte_tokenizer(),
        reward_funcs=reward, train_dataset=prompts(4, target="1"),
        args=GRPOConfig(
            **common(tmp_path), max_steps=2, per_device_train_batch_size=4, num_generations=4,
            max_completion_length=8, logging_steps=1, save_strategy="no"))
    trainer.train()
    logged = [e for e in trainer.state.log_history if "rewards/validity_reward/mean" in e]
    assert len(logged) == 2
    assert all(np.isfinite(e["rewards/validity_reward/mean"]) for e in logged)
    assert all(e["validity_reward/unscored"] == 0 for e in logged)


WORKER = """
import json, sys, warnings
warnings.simplefilter("ignore")
import torch
torch.set_num_threads(1)
from pathlib import Path
from transformers import AutoModelForCausalLM
from fine_tuning import made_traces, trainer_of
from validator.plugins.checkpoints import ValidityCallback
base, artifact, out = map(Path, sys.argv[1:])
trainer = trainer_of(out / "run", AutoModelForCausalLM.from_pretrained(base), max_steps=3,
                     load_best_model_at_end=True, metric_for_best_model="eval_validity",
                     ddp_backend="gloo", per_device_train_batch_size=2)
ValidityCallback(made_traces(10, 14), artifact=artifact).attach(trainer)
trainer.train()
rank = trainer.args.process_index
told = [e["eval_validity"] for e in trainer.state.log_history if "eval_validity" in e]
(out / f"{rank}.json").write_text(json.dumps(
    {"world": trainer.args.world_size, "values": told, "best": trainer.state.best_metric}))
"""


def test_two_processes_agree(base: Path, artifact: Path, tmp_path: Path) -> None:
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    folders = os.pathsep.join([str(HERE), str(HERE.parent)])
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone",
         str(script), str(base), str(artifact), str(tmp_path)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": folders},
        capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first == second
    assert first["world"] == 2
    assert len(first["values"]) == 3
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "checkpoint-3")
    found = load_artifact(artifact)
    features = SpectralFeatureExtractor(
        (model, byte_tokenizer()), feature_set="fast").fit_transform(PROBE)
    chances = found.classifier.predict_proba(features.select(found.feature_names))[:, 1]
    assert first["values"][-1] == pytest.approx(chances.mean(), abs=1e-6)
