"""Where trials are kept: a journal file, or a database by URL; and whose they are."""

from __future__ import annotations

import json
import os
import platform
import time
import uuid
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from filelock import FileLock

from validator.errors import StoreError, StoreWarning

if TYPE_CHECKING:
    from optuna.storages import BaseStorage, JournalStorage, RDBStorage

__all__ = ["is_alive", "opened", "this_process", "without_password"]

_LINE = {"op_code", "worker_id"}
"""Keys of every line of a journal."""

OPENINGS = 5
"""How often a database is tried while other processes make its tables."""


@contextmanager
def opened(storage: str | Path) -> Iterator[BaseStorage]:
    """The storage of a journal path or a database URL; Optuna speaks only to warn meanwhile.

    Raises:
        StoreError: a file that is no journal or damaged, a database that cannot be reached.
    """
    import optuna
    from optuna.storages import RDBStorage

    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    found: BaseStorage | None = None
    try:
        found = _database(str(storage)) if "://" in str(storage) else _journal(Path(storage))
        yield found
    finally:
        if isinstance(found, RDBStorage):
            found.remove_session()
            found.engine.dispose()
        optuna.logging.set_verbosity(verbosity)


def without_password(url: str) -> str:
    """A storage as it may be shown and kept: the password of a URL is left out."""
    password = urlsplit(url).password if "://" in url else None
    return url if not password else url.replace(f":{password}@", ":***@", 1)


def _database(url: str) -> RDBStorage:
    shown = without_password(url)
    # a writer of SQLite waits for the others; a server may have hung up on an idle connection
    options: dict[str, Any] = ({"connect_args": {"timeout": 60}} if url.startswith("sqlite")
                               else {"pool_pre_ping": True})
    try:
        return _with_tables(url, options)
    except Exception as error:  # SQLAlchemy's, the driver's, or ImportError for want of a driver
        reason = str(error).replace(url, shown).splitlines()[0]
        raise StoreError(f"cannot open {shown} as a storage of trials: {reason}. Give a file, or a "
                         "URL such as sqlite:///trials.db whose driver is installed") from error


def _with_tables(url: str, options: dict[str, Any]) -> RDBStorage:
    """Two processes that make the tables of a new database at once are an error of one of them."""
    from optuna.storages import RDBStorage

    for _ in range(OPENINGS - 1):
        try:
            return RDBStorage(url, engine_kwargs=options)
        except Exception as error:
            if "already exists" not in str(error):
                raise
            time.sleep(0.2)
    return RDBStorage(url, engine_kwargs=options)


class _ProcessLock:
    """A lock that the kernel takes back from a process that dies, in the form Optuna asks for.

    Optuna's own would keep the others waiting for 30 seconds, and then be broken by them.
    """

    def __init__(self, path: Path) -> None:
        self._lock = FileLock(path.with_name(f"{path.name}.lock"))

    def acquire(self) -> bool:
        """Wait for the lock."""
        self._lock.acquire()
        return True

    def release(self) -> None:
        """Give it back."""
        self._lock.release()


def _journal(path: Path) -> JournalStorage:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = _ProcessLock(path)
        lock.acquire()
        try:
            _drop_half_a_line(path)
        finally:
            lock.release()
        return JournalStorage(JournalFileBackend(str(path), lock_obj=cast(Any, lock)))
    except OSError as error:
        raise StoreError(f"cannot write {path} ({error.strerror}); give another file for the "
                         "trials") from error
    except (ValueError, KeyError) as error:
        raise StoreError(f"{path} is a damaged journal ({error}); give another file for the "
                         "trials, or remove this one to start over") from error


def _drop_half_a_line(path: Path) -> None:
    """Take away what a writer that died in the middle of a line left; the lock is held."""
    if not path.exists() or path.stat().st_size == 0:
        return
    with path.open("r+b") as file:
        first = file.readline()
        if first.endswith(b"\n") and not _is_journal(first):
            raise StoreError(f"{path} is no journal of trials and will not be written to; give "
                             "another file")
        file.seek(0)
        whole = 0
        for line in file:
            whole += len(line) if line.endswith(b"\n") else 0
        if whole == 0:
            raise StoreError(f"{path} holds no whole line of a journal of trials; give another "
                             "file")
        if whole < path.stat().st_size:
            warnings.warn(f"{path}: half a line, left by a process that died while it wrote, was "
                          "removed", StoreWarning, stacklevel=2)
            file.truncate(whole)


def _is_journal(line: bytes) -> bool:
    try:
        value = json.loads(line)
    except ValueError:
        return False
    return isinstance(value, dict) and value.keys() >= _LINE


def this_process() -> dict[str, Any]:
    """What tells this process from every other, as far as the system shows it."""
    return {"host": platform.node(), "space": _space(), "pid": os.getpid(),
            "started": _started(os.getpid())}


def is_alive(owner: Mapping[str, Any]) -> bool | None:
    """Whether the process that :func:`this_process` described lives; None if it cannot be told.

    It can be told on the same machine since the same boot, where process ids mean the same; the
    time a process was started at tells it from a later one with its number.
    """
    if (owner.get("host"), owner.get("space")) != (platform.node(), _space()):
        return None
    if owner.get("started") is not None:
        return bool(_started(int(owner["pid"])) == owner["started"])
    return None


def _space() -> str:
    """This boot and this table of process ids; another container may have another."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:  # no Linux: the machine's address, without any knowledge of its boots
        return f"{uuid.getnode():x}"


def _started(pid: int) -> str | None:
    """When a process was started, in clock ticks since boot; None if it is gone, or off Linux."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()  # the name before may hold blanks
    return None if fields[0] in "ZX" else fields[19]  # proc(5): state is 3rd, starttime 22nd
