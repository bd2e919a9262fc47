"""Writing a folder of files so that a crash leaves the old one or the new one, never half."""

from __future__ import annotations

import glob
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from validator.errors import ArtifactError
from validator.whole_file import lock

__all__ = ["replace_folder", "standing_folder"]


def replace_folder(target: Path, files: Mapping[str, bytes], is_ours: Callable[[Path], bool]
                   ) -> None:
    """Make ``target`` a folder of exactly ``files``; missing parents are made.

    An existing folder is replaced only if it is empty or ``is_ours`` says so. The new folder is
    complete on disk before the old one is renamed away; killed between the two renames, the old one
    is beside ``target`` as ``.<name>.<random>/old``, where :func:`standing_folder` finds it and
    the next call puts it back. What killed writers left is removed. Raises ArtifactError where it
    may not write.
    """
    _clean_up_after_dead(target)
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise ArtifactError(f"{target} exists and is no folder; choose another path")
    if target.is_dir() and any(target.iterdir()) and not is_ours(target):
        raise ArtifactError(f"{target} holds files that are no saved classifier and will not be "
                            "overwritten; choose another folder, or empty this one")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        held, workshop = _workshop(target)
    except OSError as error:
        raise ArtifactError(f"cannot write to {target.parent} ({error.strerror}); choose another "
                            "path") from error
    try:
        (workshop / "new").mkdir()
        for name, content in files.items():
            _write_durably(workshop / "new" / name, content)
        _swap(workshop, target)
    except OSError as error:
        raise ArtifactError(f"cannot write {target} ({error.strerror}); what was there is "
                            "unchanged") from error
    finally:
        if target.exists() or not (workshop / "old").exists():
            shutil.rmtree(workshop, ignore_errors=True)
        if held is not None:
            os.close(held)


def standing_folder(target: Path) -> Path:
    """``target``; or its former self, where a writer was killed between its two renames."""
    olds = [] if target.exists() else sorted(_workshops(target, "/old"))
    return olds[0] if len(olds) == 1 else target


def _workshops(target: Path, inside: str = "") -> list[Path]:
    return list(target.parent.glob(f".{glob.escape(target.name)}.????????{inside}"))


def _workshop(target: Path) -> tuple[int | None, Path]:
    """A new folder beside the target, locked while this process lives where folders can be."""
    while True:
        path = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
        held = _lock(path, wait=True)
        # in between, another process may have taken it for a dead writer's
        if held is None or os.fstat(held).st_nlink:
            return held, path
        os.close(held)


def _lock(folder: Path, *, wait: bool) -> int | None:
    """None where that cannot be done, or another process has it."""
    if sys.platform == "win32":
        return None
    descriptor = None
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        lock(descriptor, wait=wait)
    except OSError:
        if descriptor is not None:
            os.close(descriptor)
        return None
    return descriptor


def _clean_up_after_dead(target: Path) -> None:
    """Put back or remove what is in the folders of writers that died."""
    for path in _workshops(target):
        with suppress(OSError):  # no folder, or another process cleans it up as well
            ours = {entry.name for entry in path.iterdir()} <= {"old", "new"}
            held = _lock(path, wait=False) if ours else None
            if held is not None:
                _finish(path, target)
                os.close(held)


def _finish(workshop: Path, target: Path) -> None:
    if (workshop / "old").exists() and not target.exists():
        os.replace(workshop / "old", target)  # noqa: PTH105
    shutil.rmtree(workshop, ignore_errors=True)


def _swap(workshop: Path, target: Path) -> None:
    if target.exists():
        os.replace(target, workshop / "old")  # noqa: PTH105  a folder cannot be replaced in place
    try:
        os.replace(workshop / "new", target)  # noqa: PTH105
    except OSError:
        if (workshop / "old").exists():
            os.replace(workshop / "old", target)  # noqa: PTH105
        raise


def _write_durably(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
