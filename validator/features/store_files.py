"""The files of a store, here or behind a URL: written whole, found damaged, set aside."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from validator.errors import StoreWarning
from validator.features.store_place import Place, RemotePath
from validator.whole_file import TEMPORARY, create_locked, is_dead, sync_folder

__all__ = [
    "dead_temporaries",
    "make_folder",
    "remove_dead_temporaries",
    "set_aside",
    "set_aside_files",
    "write_whole",
]

CORRUPT = ".corrupt"


def write_whole(target: Place, content: bytes) -> None:
    """Write a file that is on disk whole when this returns; a file of that name is replaced.

    Killed at any moment, it leaves the whole file or a temporary one beside it. A remote file is
    written in one request.

    Raises:
        OSError: disk full, read-only, failing; the temporary file is removed.
    """
    if isinstance(target, RemotePath):
        target.write_bytes(content)
        return
    descriptor, temporary = create_locked(target.parent)
    try:
        _write_all(descriptor, content)
        os.fsync(descriptor)
        # Renamed while locked: in between, the file would look like one of a dead writer.
        os.replace(temporary, target)  # noqa: PTH105
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)
    sync_folder(target.parent)


def make_folder(folder: Place) -> None:
    """Make a folder and its parents, lasting; raises OSError."""
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        if isinstance(folder, Path):
            sync_folder(folder.parent)


def dead_temporaries(folder: Place) -> list[Path]:
    """Temporary files in the folder whose writer has died."""
    return [path for path in _temporaries(folder) if is_dead(path, remove=False)]


def remove_dead_temporaries(folder: Place) -> list[Path]:
    """Remove the temporary files whose writer has died, where that is allowed; which they were."""
    return [path for path in _temporaries(folder) if is_dead(path, remove=True)]


def set_aside(path: Place, error: Exception, *, move: bool) -> None:
    """Tell that a shard is damaged and, with ``move``, rename it to ``*.corrupt`` if possible."""
    fate = "it is left where it is"
    if move:
        with suppress(OSError):
            _rename(path, path.name + CORRUPT)
            fate = f"it is now called *{CORRUPT}"
    warnings.warn(f"{error}; {fate}, and its rows count as missing", StoreWarning, stacklevel=2)


def set_aside_files(folder: Place) -> Sequence[Place]:
    """Shards that were found damaged and renamed, in order of name."""
    return sorted(folder.glob(f"*{CORRUPT}"))


def _rename(path: Place, name: str) -> None:
    if isinstance(path, RemotePath):
        path.move(path.with_name(name))
    else:
        os.replace(path, path.with_name(name))  # noqa: PTH105


def _temporaries(folder: Place) -> list[Path]:
    if isinstance(folder, RemotePath):
        return []  # never written: a remote file appears when its one request has ended
    return sorted(folder.glob(f".*{TEMPORARY}"))


def _write_all(descriptor: int, content: bytes) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
