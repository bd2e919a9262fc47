"""Writing a folder of files so that a crash leaves the old one or the new one, never half."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from validator.errors import ArtifactError

__all__ = ["replace_folder"]


def replace_folder(target: Path, files: Mapping[str, bytes], is_ours: Callable[[Path], bool]
                   ) -> None:
    """Make ``target`` a folder of exactly ``files``; missing parents are made.

    An existing folder is replaced only if it is empty or ``is_ours`` says so. The new folder is
    complete on disk before the old one is renamed away; killed between the two renames, the old one
    is beside ``target`` as ``.<name>.<random>/old``. Raises ArtifactError where it may not write.
    """
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise ArtifactError(f"{target} exists and is no folder; choose another path")
    if target.is_dir() and any(target.iterdir()) and not is_ours(target):
        raise ArtifactError(f"{target} holds files that are no saved classifier and will not be "
                            "overwritten; choose another folder, or empty this one")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        workshop = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
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
