"""Files that appear whole or not at all, and what a killed writer leaves behind.

A file is written under a temporary name and renamed. The writer holds a lock on the temporary file
until it has its final name; the system drops that lock when the process dies, however it dies. So a
temporary file that can be locked belongs to nobody.
"""

from __future__ import annotations

import errno
import os
import secrets
import sys
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from validator.errors import StoreWarning
from validator.features.store_place import Place, RemotePath

__all__ = [
    "dead_temporaries",
    "lock",
    "make_folder",
    "remove_dead_temporaries",
    "set_aside",
    "set_aside_files",
    "write_whole",
]

CORRUPT = ".corrupt"
TEMPORARY = ".tmp"


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
    descriptor, temporary = _create(target.parent)
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
    _sync_folder(target.parent)


def make_folder(folder: Place) -> None:
    """Make a folder and its parents, lasting; raises OSError."""
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        if isinstance(folder, Path):
            _sync_folder(folder.parent)


def dead_temporaries(folder: Place) -> list[Path]:
    """Temporary files in the folder whose writer has died."""
    return [path for path in _temporaries(folder) if _if_dead(path, remove=False)]


def remove_dead_temporaries(folder: Place) -> list[Path]:
    """Remove the temporary files whose writer has died, where that is allowed; which they were."""
    return [path for path in _temporaries(folder) if _if_dead(path, remove=True)]


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


def _create(folder: Path) -> tuple[int, Path]:
    """A new, locked file that no other process will remove while the lock is held."""
    while True:
        path = folder / f".{secrets.token_hex(8)}{TEMPORARY}"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        # Where files cannot be locked, nobody can find out that a writer is dead either.
        with suppress(OSError):
            lock(descriptor, wait=True)
        # Between the two lines above, another process may have locked the file and removed it.
        if os.fstat(descriptor).st_nlink:
            return descriptor, path
        os.close(descriptor)


def _write_all(descriptor: int, content: bytes) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _if_dead(path: Path, *, remove: bool) -> bool:
    """Whether the writer has died; and, if wanted, the file is gone. False where one cannot tell.

    The lock is held while the file is removed, so that a writer that has just made it finds out.
    """
    try:
        descriptor = os.open(path, os.O_RDWR)
        try:
            lock(descriptor, wait=False)
            if remove:
                path.unlink()
        finally:
            os.close(descriptor)
    except OSError:
        return False
    return True


def lock(descriptor: int, *, wait: bool) -> None:
    """Hold an open file until it is closed or the process dies; raises OSError."""
    if sys.platform == "win32":
        raise OSError(errno.ENOTSUP, "no file locks that end with their process")
    import fcntl

    fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))


def _sync_folder(folder: Path) -> None:
    """Make the names in a folder last through a power cut, where the system can."""
    if sys.platform == "win32":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)
