"""What can and what cannot be read in the middle of training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from fine_tuning import made_traces
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from tiny_models import byte_tokenizer, tiny_model

from validator.errors import ModelError
from validator.plugins.checkpoints import ValidityCallback
from validator.plugins.checkpoints.live import agreed, live_model

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*gradient_checkpointing.*deprecated:FutureWarning")


def test_an_adapter_is_read_in_place() -> None:
    model: Any = get_peft_model(tiny_model(), LoraConfig(
        r=4, target_modules=["q_proj"], task_type="CAUSAL_LM", init_lora_weights=False))
    network = live_model(model)
    assert network is model.get_base_model()
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.inference_mode():
        assert torch.equal(network(ids).logits, model(ids).logits)
        with model.disable_adapter():
            bare = model(ids).logits
        assert not torch.allclose(network(ids).logits, bare)


def test_a_learned_prompt_and_spread_weights_are_refused() -> None:
    prompt = get_peft_model(tiny_model(), PromptTuningConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=2))
    with pytest.raises(ModelError, match="learns a prompt"):
        live_model(prompt)
    spread = tiny_model()
    spread.lm_head.weight = torch.nn.Parameter(torch.empty(0))
    with pytest.raises(ModelError, match="spread over processes"):
        live_model(spread)


def test_a_compiled_or_wrapped_model_is_unwrapped() -> None:
    model = tiny_model()
    assert live_model(torch.nn.DataParallel(model)) is model
    assert live_model(torch.compile(model, backend="eager")) is model


def test_half_precision_is_part_of_the_shift(base: Path, artifact: Path) -> None:
    model = tiny_model().to(torch.bfloat16)
    probe = made_traces(10, 13)
    full = ValidityCallback(probe, artifact=artifact, base=base)._score(
        tiny_model(), byte_tokenizer())
    half = ValidityCallback(probe, artifact=artifact, base=base)._score(model, byte_tokenizer())
    assert half["validity"] == pytest.approx(full["validity"], abs=0.05)
    assert half["validity"] != full["validity"]


def test_one_process_agrees_with_itself() -> None:
    assert agreed({"a": 1.0}) == {"a": 1.0}
