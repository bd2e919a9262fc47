"""One way to any causal language model: known name, local folder, hub id, or a loaded pair."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from validator.errors import ModelError, UnknownModelError
from validator.models.cache import MANIFEST, WEIGHTS, read_manifest, sha256_file
from validator.models.catalog import known_models, suggestion
from validator.models.fetch import fetch
from validator.models.hub import snapshot
from validator.models.reading import read_folder, read_tokenizer, weight_files
from validator.types import Progress

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["LoadedModel", "identify_model", "load_model", "load_tokenizer"]


@dataclass(frozen=True, slots=True, eq=False)
class LoadedModel:
    """A causal LM in eval mode, its tokenizer, and what identifies its weights."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name: str
    """Known name or hub id; of a folder its last part; of a loaded pair its class."""
    revision: str
    """Hub commit, ``gguf-sha256:``, ``sha256:`` (of files) or ``state-sha256:`` (of tensors)."""


def load_model(
    model: str | Path | tuple[PreTrainedModel, PreTrainedTokenizerBase] | LoadedModel,
    *,
    dtype: str = "float32",
    device: str = "cpu",
    progress: Progress | None = None,
) -> LoadedModel:
    """Load ``model``, with its default (sdpa) attention, ready to be read.

    A string is a known name (fetched if it is missing), else a folder with config.json, else a hub
    id. A loaded (model, tokenizer) pair keeps its dtype and device and is put into eval mode; its
    revision reads every weight once, so prefer a folder for large models. A :class:`LoadedModel`
    comes back as it is: who made it answers for its name and revision.
    ``dtype`` is float32, float64, bfloat16 or float16. ``progress`` follows a fetch.
    Raises UnknownModelError if there is no such model, ModelError if it cannot be loaded,
    ModelIntegrityError if its weights are damaged or incomplete.
    """
    if isinstance(model, LoadedModel):
        return model
    if isinstance(model, tuple):
        return _loaded(*model)
    folder, name, revision = _locate(model, progress)
    network, tokenizer = read_folder(folder, dtype=dtype, device=device)
    return LoadedModel(network, tokenizer, name, revision)


def identify_model(model: str | Path) -> tuple[str, str]:
    """Name and revision that :func:`load_model` would give, without loading a weight.

    A known name or hub id is fetched if it is missing. Raises UnknownModelError, ModelError.
    """
    return _locate(model, None)[1:]


def load_tokenizer(model: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer that :func:`load_model` would give, without loading a weight.

    Raises UnknownModelError, ModelError.
    """
    return read_tokenizer(_locate(model, None)[0])


def _locate(model: str | Path, progress: Progress | None) -> tuple[Path, str, str]:
    if isinstance(model, str) and model in known_models():
        folder = fetch(model, progress=progress)
        return folder, model, read_manifest(folder).revision
    path = Path(model).expanduser()
    if path.is_dir():
        return _identify(path)
    if isinstance(model, Path):
        raise UnknownModelError(f"no folder {model}. Give a folder with config.json.")
    return _from_hub(model)


def _identify(folder: Path) -> tuple[Path, str, str]:
    if not (folder / "config.json").is_file():
        raise UnknownModelError(f"{folder} is a folder without config.json, so not a model's. "
                                "Give the folder that `model.save_pretrained` wrote.")
    revision = _files_revision(folder)
    if (folder / MANIFEST).is_file():  # a fetched model under its path is the same model
        manifest = read_manifest(folder)
        if revision == _combine([(WEIGHTS, manifest.weights_sha256)]):
            return folder, manifest.name, manifest.revision
    return folder, folder.resolve().name, revision


def _from_hub(model: str) -> tuple[Path, str, str]:
    try:
        folder, commit = snapshot(model)
    except UnknownModelError as error:
        raise UnknownModelError(
            f"no model {model!r}{suggestion(model)}: it is no known model "
            f"({', '.join(known_models())}), no local folder with config.json, and as a hub id "
            f"{error}"
        ) from error
    return folder, model, commit


def _loaded(
    network: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> LoadedModel:
    if not isinstance(network, torch.nn.Module) or not callable(tokenizer):
        raise ModelError("a pair must be (model, tokenizer), got "
                         f"({type(network).__name__}, {type(tokenizer).__name__})")
    return LoadedModel(network.eval(), tokenizer, type(network).__name__, _state_revision(network))


def _files_revision(folder: Path) -> str:
    return _combine([(path.name, _cached_sha256(path)) for path in weight_files(folder)])


def _combine(hashes: list[tuple[str, str]]) -> str:
    """The one file's hash, or the hash of the sorted list of names and hashes of several."""
    if len(hashes) == 1:
        return f"sha256:{hashes[0][1]}"
    lines = "".join(f"{name} {value}\n" for name, value in sorted(hashes))
    return f"sha256:{hashlib.sha256(lines.encode()).hexdigest()}"


_known_hashes: dict[tuple[str, int, int], str] = {}


def _cached_sha256(path: Path) -> str:
    stat = path.stat()
    key = (str(path.resolve()), stat.st_size, stat.st_mtime_ns)
    if key not in _known_hashes:
        _known_hashes[key] = sha256_file(path)
    return _known_hashes[key]


def _state_revision(network: PreTrainedModel) -> str:
    """SHA-256 over name, dtype, shape and bytes of every tensor of the state dict, by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    return f"state-sha256:{digest.hexdigest()}"
