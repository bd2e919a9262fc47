"""A PostgreSQL cluster of the test's own, from the binaries that are installed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

PASSWORD = "geheim"


def binaries() -> Path | None:
    """Where initdb and postgres are: on the path, or in the newest of Debian's folders."""
    found = shutil.which("initdb")
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"),
                    key=lambda p: int(p.parts[-3]) if p.parts[-3].isdigit() else 0)
    places = [Path(found).resolve()] if found else debian
    return next((p.parent for p in reversed(places) if (p.parent / "postgres").exists()), None)


@contextmanager
def cluster() -> Iterator[str]:
    """The URL of an empty database; its server listens on a socket in its folder and nowhere else.

    Skips the test where PostgreSQL or its driver is not installed.
    """
    programs = binaries()
    if programs is None:
        pytest.skip("no PostgreSQL: Debian's package postgresql was not found")
    pytest.importorskip("psycopg", reason="no driver: the extra [postgres] is not installed")
    # not pytest's folder, which only its owner may enter
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    try:
        with _served(programs, folder, _other_user(folder)):
            yield f"postgresql://tuner:{PASSWORD}@/postgres?host={folder}"
    finally:
        shutil.rmtree(folder)


def _other_user(folder: Path) -> dict[str, Any]:
    """PostgreSQL refuses to run as root: whose the cluster is instead."""
    if os.geteuid() != 0:
        return {}
    import pwd

    names = {entry.pw_name for entry in pwd.getpwall()}
    user = "postgres" if "postgres" in names else "nobody"
    group = pwd.getpwnam(user).pw_gid
    shutil.chown(folder, user, group)
    return {"user": user, "group": group, "extra_groups": []}


@contextmanager
def _served(programs: Path, folder: Path, owner: dict[str, Any]) -> Iterator[None]:
    data, secret = folder / "data", folder / "secret"
    secret.write_text(PASSWORD + "\n")
    subprocess.run(
        [programs / "initdb", "-D", data, "-U", "tuner", "--pwfile", secret, "--no-sync",
         "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C"],
        check=True, stdout=subprocess.DEVNULL, cwd=folder, **owner)
    log = (folder / "log").open("wb")
    with log, subprocess.Popen(
            [programs / "postgres", "-D", data, "-k", folder, "-c", "listen_addresses=",
             "-c", "fsync=off"], stdout=log, stderr=log, cwd=folder, **owner) as server:
        try:
            _wait(server, folder)
            yield
        finally:
            server.send_signal(signal.SIGINT)  # a fast shutdown: clients are disconnected
            try:
                server.wait(timeout=30)
            except subprocess.TimeoutExpired:
                server.send_signal(signal.SIGQUIT)


def _wait(server: subprocess.Popen[bytes], folder: Path) -> None:
    import psycopg

    until = time.monotonic() + 60
    while True:
        try:
            psycopg.connect(host=str(folder), user="tuner", password=PASSWORD,
                            dbname="postgres").close()
            return
        except psycopg.OperationalError:
            told = (folder / "log").read_text(errors="replace")
            assert server.poll() is None, told
            assert time.monotonic() < until, told
            time.sleep(0.05)
