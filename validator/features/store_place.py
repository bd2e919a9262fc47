"""Where a store is: a folder of this machine, or one behind a URL that pyarrow or fsspec can open.

A :class:`RemotePath` has the part of pathlib's interface that the store uses, so that reading,
verifying, merging and cleaning are the same code wherever the files are. What a local folder gives
and an object store does not (locks that end with their process, renaming at no cost) is decided in
``store_files``, by the type of the path.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator
from functools import total_ordering
from pathlib import Path, PurePosixPath
from typing import Any

from validator.errors import StoreError

__all__ = ["Place", "RemotePath", "store_place"]


@total_ordering
class RemotePath:
    """A file or folder of a pyarrow file system, with methods named as :class:`pathlib.Path`'s.

    Args:
        system: a :class:`pyarrow.fs.FileSystem`.
        path: within it.
        shown: the URL, for messages.
    """

    __slots__ = ("path", "shown", "system")

    def __init__(self, system: Any, path: str, shown: str) -> None:
        self.system, self.path, self.shown = system, path.rstrip("/"), shown.rstrip("/")

    def __truediv__(self, name: str) -> RemotePath:
        return RemotePath(self.system, f"{self.path}/{name}", f"{self.shown}/{name}")

    def __str__(self) -> str:
        return self.shown

    def __repr__(self) -> str:
        return f"RemotePath({self.shown!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RemotePath) and self.shown == other.shown

    def __lt__(self, other: RemotePath) -> bool:
        return self.shown < other.shown

    def __hash__(self) -> int:
        return hash(self.shown)

    @property
    def name(self) -> str:
        """The last part."""
        return PurePosixPath(self.path).name

    @property
    def parent(self) -> RemotePath:
        """The folder it is in."""
        return RemotePath(self.system, self.path.rpartition("/")[0], self.shown.rpartition("/")[0])

    def with_name(self, name: str) -> RemotePath:
        """Another file of the same folder."""
        return self.parent / name

    def exists(self) -> bool:
        """Whether there is a file or folder of this name."""
        from pyarrow.fs import FileType

        return bool(self._info().type != FileType.NotFound)

    def is_dir(self) -> bool:
        """Whether it is a folder; on an object store, whether anything lies below it."""
        from pyarrow.fs import FileType

        return bool(self._info().type == FileType.Directory)

    def iterdir(self) -> Iterator[RemotePath]:
        """What the folder holds, not deeper; raises FileNotFoundError where there is none."""
        from pyarrow.fs import FileSelector

        found = self.system.get_file_info(FileSelector(self.path))
        return iter([self / PurePosixPath(info.path).name for info in found])

    def glob(self, pattern: str) -> Iterator[RemotePath]:
        """Files of the folder whose name has the pattern; none where there is no folder."""
        try:
            return (p for p in self.iterdir() if fnmatch.fnmatchcase(p.name, pattern))
        except FileNotFoundError:
            return iter(())

    def open(self, mode: str = "rb") -> Any:
        """A binary file to read from any place; ``mode`` is ``rb``."""
        if mode != "rb":
            raise ValueError(f"a remote file is opened with mode 'rb', got {mode!r}")
        return self.system.open_input_file(self.path)

    def read_bytes(self) -> bytes:
        """All of the file."""
        with self.open() as file:
            return bytes(file.read())

    def write_bytes(self, content: bytes) -> None:
        """Write the file in one request; on an object store it is there whole or not at all."""
        with self.open_write() as file:
            file.write(content)

    def open_write(self) -> Any:
        """A binary file to write from start to end; it replaces one that is there."""
        return self.system.open_output_stream(self.path, compression=None)

    def mkdir(self, *, parents: bool = True, exist_ok: bool = True) -> None:
        """Make the folder and those above it; object stores know none and do nothing."""
        self.system.create_dir(self.path, recursive=parents)

    def move(self, target: RemotePath) -> None:
        """Rename: on an object store a copy and a removal."""
        self.system.move(self.path, target.path)

    def unlink(self, *, missing_ok: bool = False) -> None:
        """Remove the file."""
        try:
            self.system.delete_file(self.path)
        except FileNotFoundError:
            if not missing_ok:
                raise

    def _info(self) -> Any:
        return self.system.get_file_info(self.path)


Place = Path | RemotePath


def store_place(root: str | Path | RemotePath) -> Place:
    """The folder of a store by path or URL.

    Args:
        root: a path; ``file://...``; a URL that :meth:`pyarrow.fs.FileSystem.from_uri` knows
            (``s3://``, ``gs://``, ``hdfs://``), or one that an installed fsspec file system has
            (``memory://``, ``az://``, ...). Keys and regions come from the environment, as those
            libraries read them.

    Raises:
        StoreError: no installed file system opens the URL, or its settings are refused.
    """
    if isinstance(root, RemotePath):
        return root
    scheme, found, rest = str(root).partition("://")
    if isinstance(root, Path) or not found:
        return Path(root)
    return Path(rest) if scheme == "file" else RemotePath(*_open(root), root)


def _open(url: str) -> tuple[Any, str]:
    import pyarrow as pa
    from pyarrow.fs import FileSystem

    try:
        system, path = FileSystem.from_uri(url)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return _open_with_fsspec(url)  # not one of pyarrow's own
    except OSError as error:
        raise StoreError(f"cannot open {url}: {error}; check the address and the credentials in "
                         "the environment") from error
    return system, path


def _open_with_fsspec(url: str) -> tuple[Any, str]:
    from pyarrow.fs import FSSpecHandler, PyFileSystem

    try:
        import fsspec

        system, path = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError, OSError) as error:
        raise StoreError(f"no file system opens {url}: {error}. Give a folder, s3://, gs://, or "
                         "install the fsspec package of that scheme") from error
    return PyFileSystem(FSSpecHandler(system)), str(path)
