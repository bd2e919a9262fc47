"""The model of a Trainer, as it can be read in the middle of training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import extract_model_from_parallel

from validator.errors import FeatureMismatchError, ModelError
from validator.models.loading import identify_model

__all__ = ["agreed", "live_model", "require_base"]


def live_model(model: Any) -> Any:
    """The causal LM inside what the Trainer trains: unwrapped, with its adapters in place.

    Raises ModelError for adapters that are no part of the network (prompt tuning and its like) and
    for weights that are spread over processes.
    """
    network = extract_model_from_parallel(model, keep_torch_compile=False)
    adapters = getattr(network, "peft_config", None)
    if adapters and hasattr(network, "get_base_model"):
        learned = [c.peft_type for c in adapters.values() if c.is_prompt_learning]
        if learned:
            raise ModelError(
                f"{learned[0]} learns a prompt, which is no part of the network that reads the "
                "probe; adapters that change weights, such as LoRA, can be read")
        network = network.get_base_model()
    spread = [name for name, p in network.named_parameters()
              if p.numel() == 0 or hasattr(p, "full_tensor")]
    wrapped = any(type(m).__name__ == "FullyShardedDataParallel" for m in network.modules())
    if spread or wrapped:
        raise ModelError(
            "the weights are spread over processes (FSDP, DeepSpeed ZeRO-3), so that no process "
            "can read the probe alone; save checkpoints and rank them afterwards with `validator "
            "checkpoints`")
    return network


def require_base(network: Any, base: str | Path | None, wanted: tuple[str, str]) -> None:
    """Refuse a fine-tune of another model than the artifact's.

    Args:
        network: what is trained.
        base: what it began with, or None to look where its configuration says it came from.
        wanted: name and revision of the artifact's model.

    Raises:
        FeatureMismatchError: it began with another model, or nothing says with which.
    """
    origin = base or getattr(network.config, "name_or_path", "") or getattr(
        network.config, "_name_or_path", "")
    if not origin:
        raise FeatureMismatchError(
            f"nothing says which model this is a fine-tune of, and the artifact is only good for "
            f"those of {wanted[0]!r}; pass base=, its name or folder")
    found = identify_model(origin)
    if found != wanted:
        raise FeatureMismatchError(
            f"this is a fine-tune of {found[0]!r} ({found[1]}), the artifact was trained on "
            f"{wanted[0]!r} ({wanted[1]}); train an artifact on the model you start from, go "
            "without one, or, where training goes on from a checkpoint, pass base=, the model it "
            "all began with")


def agreed(found: Mapping[str, float]) -> dict[str, float]:
    """The first process's numbers in every process: the last digits may differ between devices."""
    shared = [dict(found)]
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.broadcast_object_list(shared, src=0)
    return shared[0]
