"""The checkpoints a Trainer left in a folder: which there are, and how to load one."""

from __future__ import annotations

import json
import re
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from validator.errors import ModelError, ModelIntegrityError, ParameterError
from validator.models.cache import sha256_file
from validator.models.loading import LoadedModel, identify_model, load_model
from validator.models.quiet import quiet

__all__ = ["Checkpoint", "find_checkpoints", "load_checkpoint"]

_NAME = re.compile(r"checkpoint-(\d+)")
ADAPTER = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
STATE = "trainer_state.json"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One folder ``checkpoint-<step>``."""

    path: Path
    step: int
    adapter: bool
    """Whether it holds a PEFT adapter, and no whole model."""
    eval_loss: float | None = None
    """What the Trainer measured at this step; None where it did not."""
    notes: tuple[str, ...] = field(default=())
    """What could not be read beside the weights."""


def find_checkpoints(run: str | Path) -> list[Checkpoint]:
    """The folders ``checkpoint-<step>`` of a Trainer's output folder, earliest step first.

    ``eval_loss`` is the Trainer's own at that step, as any of the folders' ``trainer_state.json``
    has it. Raises ParameterError where there is none.
    """
    folder = Path(run)
    matches = [(m, p) for p in folder.glob("checkpoint-*") if p.is_dir()
               and (m := _NAME.fullmatch(p.name))]
    found = sorted((int(m[1]), p) for m, p in matches)
    if not found:
        raise ParameterError(f"{folder} has no folder checkpoint-<step>; give the output_dir of a "
                             "Trainer that saved some")
    losses: dict[int, float] = {}
    notes: dict[Path, str] = {}
    for place in [*(p for _, p in found), folder]:
        try:
            losses |= _losses(place / STATE)
        except (OSError, ValueError) as error:
            notes[place] = f"{STATE} cannot be read: {error}"
    return [
        Checkpoint(path, step, (path / ADAPTER).is_file(), losses.get(step),
                   (notes[path],) if path in notes else ())
        for step, path in found]


def load_checkpoint(
    checkpoint: Checkpoint, *, base: str | Path | None = None, dtype: str = "float32",
    device: str = "cpu", artifact_base: tuple[str, str] | None = None,
) -> LoadedModel:
    """The model of a checkpoint, in evaluation mode; an adapter stays apart from its base.

    Args:
        checkpoint: which.
        base: in place of the base model that an adapter names.
        dtype: as :func:`validator.models.loading.load_model`.
        device: likewise.
        artifact_base: name and revision that an adapter's base must have; None for any.

    Raises:
        ModelError: it cannot be loaded without running code of the folder, or its base is another.
        ModelIntegrityError: weights are damaged or missing.
        UnknownModelError: there is no such base.
    """
    if not checkpoint.adapter:
        return load_model(checkpoint.path, dtype=dtype, device=device)
    origin = base or _named_base(checkpoint.path)
    if artifact_base is not None and identify_model(origin) != artifact_base:
        raise ModelError(
            f"{checkpoint.path.name} is an adapter of {origin}, which is not the artifact's model "
            f"{artifact_base[0]!r} ({artifact_base[1]}); pass base (`--base`) if it is only found "
            "in another place now")
    weights = checkpoint.path / ADAPTER_WEIGHTS
    if not weights.is_file():
        raise ModelError(f"{checkpoint.path} has no {ADAPTER_WEIGHTS}; pickled adapters (.bin) can "
                         "run code and are not read: save it once more with `save_pretrained`")
    loaded = load_model(origin, dtype=dtype, device=device)
    network = _with_adapter(loaded.model, checkpoint.path)
    return LoadedModel(network, loaded.tokenizer, checkpoint.path.name,
                       f"sha256:{sha256_file(weights)}")


def _with_adapter(network: Any, folder: Path) -> Any:
    try:
        from peft import PeftModel
    except ImportError as error:
        raise ModelError(f"{folder} holds a PEFT adapter: pip install peft") from error
    try:
        with quiet(), warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            adapted = PeftModel.from_pretrained(network, str(folder), local_files_only=True)
    except SafetensorError as error:
        raise ModelIntegrityError(f"the adapter in {folder} is damaged ({error}); save or copy it "
                                  "again") from error
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        raise ModelError(f"the adapter in {folder} does not load: {error}") from error
    missing = [str(w.message) for w in told if "missing adapter keys" in str(w.message)]
    if missing:  # PEFT leaves them as they were made, and only warns
        raise ModelIntegrityError(f"the adapter in {folder} lacks weights: {missing[0][:300]}")
    if any(c.is_prompt_learning for c in adapted.peft_config.values()):
        raise ModelError(f"the adapter in {folder} learns a prompt, which is no part of the "
                         "network that reads; adapters that change weights can be read")
    return adapted.eval().get_base_model()


def _named_base(folder: Path) -> str:
    try:
        settings = json.loads((folder / ADAPTER).read_text(encoding="utf-8"))
        named = settings.get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError) as error:
        raise ModelError(f"{folder / ADAPTER} cannot be read: {error}") from error
    if not named:
        raise ModelError(f"{folder / ADAPTER} does not name its base; pass base (`--base`)")
    return str(named)


def _losses(path: Path) -> dict[int, float]:
    """Step -> evaluation loss of a ``trainer_state.json``; nothing where there is no such file."""
    if not path.is_file():
        return {}
    state = json.loads(path.read_text(encoding="utf-8"))
    history = state.get("log_history") if isinstance(state, dict) else None
    if not isinstance(history, list):
        raise ValueError("it has no log_history")
    return {int(entry["step"]): float(entry["eval_loss"]) for entry in history
            if isinstance(entry, dict) and "eval_loss" in entry and "step" in entry}
