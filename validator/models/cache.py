"""The folder of fetched models: where it is, what makes an entry complete, how it is verified."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from validator.errors import ModelError, ModelIntegrityError
from validator.models.catalog import KnownModel, Source
from validator.types import Progress

__all__ = [
    "MANIFEST",
    "WEIGHTS",
    "FileRecord",
    "Manifest",
    "cache_root",
    "cached_source",
    "is_complete",
    "model_folder",
    "read_manifest",
    "record_files",
    "sha256_file",
    "verify",
    "write_manifest",
]

MANIFEST = "manifest.json"
WEIGHTS = "model.safetensors"
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class FileRecord:
    """Size in bytes and SHA-256 of one file."""

    size: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a fetched folder is, written last."""

    name: str
    source: Source
    revision: str
    """``gguf-sha256:<hash>`` of the wheel's file, or the commit of the hub repository."""
    origin: tuple[str, ...]
    """The requirements or the hub id that were read."""
    gguf_sha256: str | None
    files: Mapping[str, FileRecord]
    proof: Mapping[str, float]
    """Numbers of the conversion's proof; empty where nothing was converted."""
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def weights_sha256(self) -> str:
        """SHA-256 of ``model.safetensors``."""
        return self.files[WEIGHTS].sha256


def cache_root() -> Path:
    """``$VALIDATOR_CACHE``, else ``spectral-validator`` under the user's cache folder."""
    if chosen := os.environ.get("VALIDATOR_CACHE"):
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "spectral-validator"


def model_folder(name: str, source: Source, cache: str | Path | None = None) -> Path:
    """Where ``name`` from ``source`` lies; other sources hold other weights, so never share it."""
    root = cache_root() if cache is None else Path(cache).expanduser()
    return root / "models" / f"{name}--{source}"


def cached_source(
    known: KnownModel, sources: tuple[Source, ...], cache: str | Path | None = None
) -> Source | None:
    """The first of ``sources`` whose recorded weights are completely in the cache, or None."""
    for source in sources:
        folder = model_folder(known.name, source, cache)
        wanted = known.revision(source)
        if is_complete(folder) and wanted in (None, read_manifest(folder).revision):
            return source
    return None


def is_complete(folder: Path) -> bool:
    """Whether the manifest and every file in it, at its recorded size, are there.

    Sizes alone are compared, so the answer is instant; :func:`verify` reads every byte.
    """
    try:
        manifest = read_manifest(folder)
        return all((folder / n).stat().st_size == r.size for n, r in manifest.files.items())
    except (ModelError, OSError):
        return False


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a fetched folder; raises ModelError if it is missing or malformed."""
    path = folder / MANIFEST
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        files = {name: FileRecord(**record) for name, record in data["files"].items()}
        return Manifest(**{**data, "files": files, "origin": tuple(data["origin"])})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{path} is not a manifest of a fetched model ({error}). "
            "Fetch the model again: `validator models fetch NAME`."
        ) from error


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write ``manifest.json`` into ``folder``."""
    data: dict[str, Any] = dataclasses.asdict(manifest)
    (folder / MANIFEST).write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")


def record_files(folder: Path) -> dict[str, FileRecord]:
    """name -> size and checksum of every file in ``folder`` except the manifest."""
    paths = sorted(p for p in folder.iterdir() if p.is_file() and p.name != MANIFEST)
    return {p.name: FileRecord(p.stat().st_size, sha256_file(p)) for p in paths}


def verify(folder: Path, progress: Progress | None = None) -> Manifest:
    """Read every byte of a fetched folder and compare it with the manifest.

    Raises ModelIntegrityError naming the first file that differs, ModelError if there is no
    manifest.
    """
    manifest = read_manifest(folder)
    for done, (name, record) in enumerate(manifest.files.items(), start=1):
        path = folder / name
        got = sha256_file(path) if path.is_file() else "no file"
        if got != record.sha256:
            raise ModelIntegrityError(
                f"{path}: expected sha256 {record.sha256}, got {got}. "
                f"Delete {folder} and run `validator models fetch {manifest.name}` again."
            )
        if progress is not None:
            progress(done, len(manifest.files))
    return manifest


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
