"""Files that appear whole or not at all, and what a killed writer leaves behind.

A file is written under a temporary name and renamed. The writer holds a lock on the temporary file
until it has its final name; the system drops that lock when the process dies, however it dies. So a
temporary file that can be locked belongs to nobody; the next writer of the same file removes it.
"""

from __future__ import annotations

import errno
import glob
import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = [
    "TEMPORARY", "PartialFile", "create_locked", "is_dead", "lock", "replacing", "sync_folder",
    "write_text_whole",
]

TEMPORARY = ".tmp"


def write_text_whole(target: Path, text: str) -> None:
    """Write a text file whole or not at all; its folder is made. Raises OSError."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing(target) as partial:
        partial.write_text(text, encoding="utf-8")


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A file beside ``target`` that takes its name when the block ends without an error.

    Raises:
        OSError: disk full, read-only, failing; the temporary file is removed.
    """
    partial = PartialFile(target)
    try:
        yield partial.path
    except BaseException:
        partial.discard()
        raise
    partial.publish()


class PartialFile:
    """A temporary file beside a target; those that dead writers of the target left are removed.

    Attributes:
        path: where it is, to be written to by any means but another rename.
    """

    def __init__(self, target: Path) -> None:
        self.target = target
        for path in target.parent.glob(f".{glob.escape(target.name)}.*{TEMPORARY}"):
            is_dead(path, remove=True)
        self._descriptor, self.path = create_locked(target.parent, f".{target.name}.")

    def publish(self) -> None:
        """Give the file its name, on disk whole when this returns; raises OSError."""
        try:
            os.fsync(self._descriptor)
            # Renamed while locked: in between, the file would look like one of a dead writer.
            os.replace(self.path, self.target)  # noqa: PTH105
        except BaseException:
            self.discard()
            raise
        os.close(self._descriptor)
        sync_folder(self.target.parent)

    def discard(self) -> None:
        """Remove the file."""
        with suppress(OSError):
            self.path.unlink(missing_ok=True)
        os.close(self._descriptor)


def create_locked(folder: Path, prefix: str = ".") -> tuple[int, Path]:
    """A new, locked file that no other process will remove while the lock is held."""
    while True:
        path = folder / f"{prefix}{secrets.token_hex(8)}{TEMPORARY}"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        # Where files cannot be locked, nobody can find out that a writer is dead either.
        with suppress(OSError):
            lock(descriptor, wait=True)
        # Between the two lines above, another process may have locked the file and removed it.
        if os.fstat(descriptor).st_nlink:
            return descriptor, path
        os.close(descriptor)


def is_dead(path: Path, *, remove: bool) -> bool:
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
    """Hold an open file or folder until it is closed or the process dies; raises OSError."""
    if sys.platform == "win32":
        raise OSError(errno.ENOTSUP, "no file locks that end with their process")
    import fcntl

    fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))


def sync_folder(folder: Path) -> None:
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
