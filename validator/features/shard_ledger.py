"""What is known of shards besides their rows: which are done or tried, which traces failed.

A shard's record is written after its rows, so a shard with a record has its rows in the store. A
try leaves a file that names it before it begins and takes it away when it has ended well; the file
of a process that died stays, and counts. On a local folder the file is locked while the process
lives, so that one at work is not counted; behind a URL every file counts.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import secrets
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from validator.errors import StoreError
from validator.features.shards import TraceShard, decode_shard, encode_shard_traces
from validator.features.store_files import make_folder, remove_dead_temporaries, write_whole
from validator.features.store_place import Place, RemotePath, store_place
from validator.features.store_recipe import recipe_hash
from validator.types import Provenance
from validator.whole_file import lock as lock_file

__all__ = ["FailedTrace", "ShardLedger", "ShardRecord", "ShardRow"]

FORMAT = 1
DIED = "the process that read it died"
RECORD, TRACES = ".json", ".traces"


@dataclass(frozen=True, slots=True)
class FailedTrace:
    """A trace that was given up."""

    id: str
    error: str
    tries: int


@dataclass(frozen=True, slots=True)
class ShardRow:
    """Where a row of a shard is stored."""

    trace: int
    """Position of its trace in the shard."""
    step: int | None
    """Number of the step, where rows are of steps."""
    key: str


@dataclass(frozen=True, slots=True)
class ShardRecord:
    """A shard that is done."""

    recipe: str
    """Hash of the recipe its rows are stored under."""
    provenance: Provenance
    rows: tuple[ShardRow, ...]
    failed: tuple[FailedTrace, ...] = ()
    solver_errors: Mapping[str, float] = dataclasses.field(default_factory=dict)


class ShardLedger:
    """The shards of one way of computing, in a folder of the store.

    Args:
        root: folder or URL of the store.
        identity: all that decides rows besides the traces, as JSON values.
    """

    def __init__(self, root: str | Path | RemotePath, identity: Mapping[str, Any]) -> None:
        self.root = root
        self.identity = identity

    @property
    def folder(self) -> Place:
        """Where the records are."""
        return store_place(self.root) / "shards" / recipe_hash(self.identity)

    @property
    def tries(self) -> Place:
        """Where tries under way and failed ones are."""
        return self.folder / "tries"

    def prepare(self) -> None:
        """Make the folder, say in it what it is of, and remove what dead processes left.

        Raises:
            StoreError: that fails.
        """
        path = self.folder / "identity.json"
        with _told(self.folder):
            make_folder(self.tries)
            remove_dead_temporaries(self.folder)
            if not path.exists():
                text = json.dumps({"format": FORMAT, "identity": self.identity}, indent=2)
                write_whole(path, (text + "\n").encode())
        self._remove_leftovers()

    def done(self) -> frozenset[str]:
        """Digests of the shards that have a record."""
        return frozenset(name.removesuffix(RECORD) for name in _names(self.folder)
                         if len(name) == 64 + len(RECORD) and name.endswith(RECORD))

    def read(self, digest: str) -> ShardRecord | None:
        """The record of a shard; None where there is none, or a damaged one, which is removed."""
        path = self.folder / (digest + RECORD)
        try:
            return _record(json.loads(path.read_bytes()))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreError(f"cannot read {path}: {error}; check the disk") from error
        except (ValueError, KeyError, TypeError):
            self.forget(digest)
            return None

    def write(self, digest: str, record: ShardRecord) -> None:
        """Say that a shard is done; its rows are stored. Its tries are forgotten."""
        text = json.dumps({"format": FORMAT} | dataclasses.asdict(record))
        with _told(self.folder):
            write_whole(self.folder / (digest + RECORD), text.encode())
        _remove(self.folder / (digest + TRACES))
        self._forget_tries([digest])

    def _remove_leftovers(self) -> None:
        """What processes left of shards that are done, where it may be removed.

        They died before they had forgotten a shard's tries, or began it when another had done it.
        """
        done = self.done()
        with suppress(StoreError):
            for name in _names(self.folder):
                if name.endswith(TRACES) and name.removesuffix(TRACES) in done:
                    _remove(self.folder / name)
            self._forget_tries(done)

    def _forget_tries(self, digests: Collection[str]) -> None:
        for name in _names(self.tries):
            if name[:64] in digests:
                _remove(self.tries / name)

    def forget(self, digest: str) -> None:
        """Have a shard computed again."""
        _remove(self.folder / (digest + RECORD))

    def forget_failed(self, digests: Iterable[str]) -> None:
        """Have those of these shards computed again of which a trace was given up."""
        done = self.done()
        for digest in digests:
            record = self.read(digest) if digest in done else None
            if record is not None and record.failed:
                self.forget(digest)

    def write_traces(self, shard: TraceShard) -> None:
        """Put a shard's traces where workers find them, until it is done."""
        with _told(self.folder):
            write_whole(self.folder / (shard.digest + TRACES), encode_shard_traces(shard))

    def read_traces(self, digest: str) -> TraceShard | None:
        """A shard's traces; None if another worker has finished it.

        Raises:
            TraceError: a damaged file.
            StoreError: one that cannot be read.
        """
        path = self.folder / (digest + TRACES)
        try:
            return decode_shard(path.read_bytes())
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreError(f"cannot read {path}: {error}; every worker has to reach the store"
                             ) from error

    @contextmanager
    def attempt(
        self, digest: str, unit: str, blameless: tuple[type[Exception], ...] = ()
    ) -> Iterator[None]:
        """Count a try of part of a shard, unless it ends well, blameless or interrupted."""
        path = self.tries / f"{digest}.{unit}.{secrets.token_hex(6)}"
        with _told(self.folder):
            descriptor = _claim(path)
        try:
            yield
        except blameless:
            _remove(path)
            raise
        except Exception as error:
            with suppress(OSError):
                path.write_bytes(f"{type(error).__name__}: {error}".encode())
            raise
        except BaseException:
            _remove(path)
            raise
        else:
            _remove(path)
        finally:
            if descriptor is not None:
                os.close(descriptor)

    def failures(self, digest: str, unit: str) -> list[str]:
        """The error of each failed try of a part."""
        found = []
        for name in _names(self.tries):
            if name.startswith(f"{digest}.{unit}."):
                path = self.tries / name
                if not _held(path):
                    with suppress(FileNotFoundError):
                        found.append(path.read_bytes().decode(errors="replace") or DIED)
        return found


def _names(folder: Place) -> Sequence[str]:
    try:
        if isinstance(folder, RemotePath):
            return sorted(path.name for path in folder.iterdir())
        return sorted(os.listdir(folder))  # noqa: PTH208  ten times faster
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StoreError(f"cannot list {folder}: {error}") from error


def _record(found: Mapping[str, Any]) -> ShardRecord:
    if found["format"] > FORMAT:
        raise StoreError(f"a shard's record has format {found['format']}, this version reads "
                         f"{FORMAT}; upgrade spectral-validator")
    return ShardRecord(
        found["recipe"], Provenance(**found["provenance"]),
        tuple(ShardRow(**row) for row in found["rows"]),
        tuple(FailedTrace(**failed) for failed in found["failed"]), found["solver_errors"])


def _claim(path: Place) -> int | None:
    """Make the file of a try; locked, where that can be, until the descriptor is closed."""
    if isinstance(path, RemotePath):
        path.write_bytes(b"")
        return None
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    with suppress(OSError):
        lock_file(descriptor, wait=True)
    return descriptor


def _held(path: Place) -> bool:
    """Whether a living process holds the file; False also where that cannot be told."""
    if isinstance(path, RemotePath):
        return False
    try:
        descriptor = os.open(path, os.O_RDWR)
    except OSError:
        return False
    try:
        lock_file(descriptor, wait=False)
    except OSError as error:
        return error.errno in (errno.EWOULDBLOCK, errno.EACCES)
    finally:
        os.close(descriptor)
    return False


def _remove(path: Place) -> None:
    with _told(path):
        path.unlink(missing_ok=True)


@contextmanager
def _told(what: Place) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(f"cannot write {what}: {error}. Shards that are done are safe; free or "
                         "attach space there, or give another store.") from error
