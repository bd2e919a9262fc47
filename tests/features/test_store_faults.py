"""The feature store when things go wrong: kills, full and failing disks, flipped bits, newer files.

Run as a program, this file is the process that is killed; see :func:`main`.
"""

from __future__ import annotations

import errno
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from validator.errors import StoreError, StoreWarning
from validator.features.store import FeatureStore, StoredRow, row_key
from validator.features.store_files import (
    dead_temporaries,
    remove_dead_temporaries,
    write_whole,
)
from validator.features.store_upkeep import clean_store, merge_store, store_stats, verify_store

RECIPE = {"model": "fake", "version": 1}
COLUMNS = 12
NAMES = tuple(f"c{i}" for i in range(COLUMNS))
ROWS, SHARD, KILLS = 400, 5, 100


# A fake extraction: deterministic, cheap, in shards of five rows

def key(i: int) -> str:
    return row_key([i], 1)


def computed(i: int) -> StoredRow:
    bits = np.random.default_rng(i).integers(0, 2**32, COLUMNS, dtype=np.uint32)
    return StoredRow(bits.view(np.float32), f"reason {i}", (i, i + 1))


def shard_of(number: int) -> dict[str, StoredRow]:
    return {key(i): computed(i) for i in range(number * SHARD, (number + 1) * SHARD)}


def extract(root: str | Path, log: Callable[[str], None] = lambda _: None) -> None:
    """Compute what is not stored; a line before and after each shard."""
    store = FeatureStore(root, RECIPE)
    stored = store.get(key(i) for i in range(ROWS))
    for number in range(ROWS // SHARD):
        rows = shard_of(number)
        if not rows.keys() <= stored.keys():
            log(f"start {number}\n")
            store.put(rows, NAMES)
            log(f"done {number}\n")


def contents(root: str | Path, count: int = ROWS) -> dict[str, Any]:
    found = FeatureStore(root, RECIPE).get(key(i) for i in range(count))
    return {k: (v.values.tobytes(), v.reason, v.lengths) for k, v in found.items()}


def expected(numbers: Sequence[int]) -> dict[str, Any]:
    return {k: (v.values.tobytes(), v.reason, v.lengths)
            for n in numbers for k, v in shard_of(n).items()}


def files(root: str | Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in Path(root).rglob("*") if p.is_file()}


def leftovers(root: str | Path) -> list[Path]:
    return [p for p in Path(root).rglob("*") if p.suffix in (".tmp", ".corrupt")]


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    """Two shards of five rows."""
    made = FeatureStore(tmp_path / "store", RECIPE)
    for number in (0, 1):
        made.put(shard_of(number), NAMES)
    return made


def shards(store: FeatureStore) -> list[Path]:
    return sorted(store.folder.glob("*.parquet"))


# Kills

def main() -> None:
    """``extract ROOT | merge ROOT | kills ROOT | points WHAT ROOT | hold ROOT``."""
    what, *rest = sys.argv[1:]
    {"extract": extract, "merge": merge_until_done, "kills": kill_at_random,
     "points": kill_at_each_point, "hold": hold_a_temporary}[what](*rest)


def tell(line: str) -> None:
    """To the process that started this one."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def program(*arguments: object, **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, __file__, *map(str, arguments)], text=True,
                            stdout=subprocess.PIPE, **options)


def finished(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    return output


def kill_at_random(root: str) -> None:
    """Kill extractions until 100 kills have hit one at work; a new store when one is complete.

    Forks, because starting Python a hundred times would take a minute.
    """
    began = time.monotonic()
    extract(f"{root}/uninterrupted")
    shard_time = (time.monotonic() - began) / (ROWS // SHARD)
    chance, kills, stores = random.Random(0), 0, [Killed(f"{root}/0")]
    while kills < KILLS:
        if stores[-1].run_and_kill(chance.random() < 0.25, 1.5 * shard_time * chance.random()):
            kills += 1
        else:
            stores.append(Killed(f"{root}/{len(stores)}"))
    tell(json.dumps({"kills": kills, "lost": sum(s.lost for s in stores),
                     "half": sum(s.half for s in stores),
                     "done": {s.root: sorted(s.done) for s in stores}}))


class Killed:
    """One store, the extractions of which are killed."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.done: set[int] = set()
        self.lost = self.half = 0

    def run_and_kill(self, one_shard_first: bool, delay: float) -> bool:
        """Fork, wait for the first line (and a shard), wait, kill. False if it had finished."""
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reader)
            extract(self.root, lambda line: void(os.write(writer, line.encode())))
            os._exit(0)
        os.close(writer)
        text = b""
        while (part := os.read(reader, 4096)) and text.count(b"\n") + part.count(b"\n") < (
            1 + one_shard_first
        ):
            text += part
        text += part
        time.sleep(delay)
        os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        while part := os.read(reader, 4096):
            text += part
        os.close(reader)
        self.judge(text.decode())
        return os.WIFSIGNALED(status)

    def judge(self, text: str) -> None:
        """A shard that was done must never be started again."""
        started = set()
        for word, number in (line.split() for line in text.splitlines()):
            if word == "start":
                started.add(int(number))
                self.lost += int(number) in self.done
            else:
                self.done.add(int(number))
        self.half += bool(started - self.done)


def void(_: object) -> None:
    """For a lambda that returns nothing."""


@pytest.mark.slow
def test_a_hundred_kills_lose_no_completed_shard(tmp_path: Path) -> None:
    report = json.loads(finished(program("kills", tmp_path)))
    assert (report["kills"], report["lost"]) == (KILLS, 0)
    assert report["half"] > KILLS // 4  # most kills came in the middle of a shard
    uninterrupted = contents(tmp_path / "uninterrupted")
    assert uninterrupted == expected(range(ROWS // SHARD))
    for root, done in report["done"].items():
        assert expected(done).items() <= contents(root).items()
        extract(root)
        assert contents(root) == uninterrupted
        assert leftovers(root) == []
        assert verify_store(root) == []
        assert [s.duplicates for s in store_stats(root)] == [0]


POINTS = ("open", "write", "fsync", "replace", "mkdir", "unlink", "close")
"""Functions of ``os`` that change files; the process dies before each call of one of them."""


def kill_at_each_point(what: str, root: str) -> None:
    """Copy a store, change it and die before the k-th call, for each k until it comes through."""
    put_third(f"{root}/warm")  # what a process does only once takes time, and is no subject here
    k = 0
    while True:
        copy = f"{root}/{k}"
        if Path(f"{root}/before").exists():
            shutil.copytree(f"{root}/before", copy)
        child = os.fork()
        if child == 0:
            die_before_call(k)
            {"put": put_third, "merge": lambda r: void(merge_store(r, rows=100))}[what](copy)
            os._exit(0)
        if not os.WIFSIGNALED(os.waitpid(child, 0)[1]):
            tell(str(k))
            return
        k += 1


def put_third(root: str) -> None:
    FeatureStore(root, RECIPE).put(shard_of(2), NAMES)


def die_before_call(k: int) -> None:
    """Patch ``os`` so that the k-th call of the functions above is the end; writes go half-way."""
    count = iter(range(10**9))

    def mortal(name: str, real: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            if next(count) == k:
                if name == "write":
                    real(arguments[0], arguments[1][: len(arguments[1]) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **options)
        return call

    for name in POINTS:
        setattr(os, name, mortal(name, getattr(os, name)))


@pytest.mark.parametrize("before", [0, 2])
def test_a_put_killed_at_any_point_is_whole_or_absent(tmp_path: Path, before: int) -> None:
    for number in range(before):
        FeatureStore(tmp_path / "before", RECIPE).put(shard_of(number), NAMES)
    points = int(finished(program("points", "put", tmp_path)))
    assert points >= 6 + (6 if before == 0 else 0)  # both files: open, write, fsync, replace, ...
    old, new = expected(range(before)), expected([*range(before), 2])
    seen = []
    for k in range(points):
        found = contents(tmp_path / str(k))
        assert found in (old, new), k
        seen.append(found == new)
        assert leftovers(tmp_path / str(k)) == [], k
        put_third(str(tmp_path / str(k)))
        assert contents(tmp_path / str(k)) == new
        assert verify_store(tmp_path / str(k)) == []
    assert seen == sorted(seen)  # absent up to some point, there from then on
    assert set(seen) == {True, False}


def test_a_merge_killed_at_any_point_changes_no_row(tmp_path: Path) -> None:
    writer = FeatureStore(tmp_path / "before", RECIPE)
    for number in (0, 1, 2, 1):
        writer.put(shard_of(number), NAMES)
    points = int(finished(program("points", "merge", tmp_path)))
    for k in range(points):
        root = tmp_path / str(k)
        assert contents(root) == expected([0, 1, 2]), k
        merge_store(root, rows=100)
        assert contents(root) == expected([0, 1, 2])
        assert (verify_store(root), leftovers(root)) == ([], [])
        assert [s.shards for s in store_stats(root)] == [1]


# Several processes

def merge_until_done(root: str) -> None:
    """Merge again and again while others write."""
    while True:
        if Path(root).exists():
            merge_store(root, rows=50)
            if sum(s.rows for s in store_stats(root)) == ROWS:
                return


@pytest.mark.slow
def test_two_writers_and_two_mergers_at_once(tmp_path: Path) -> None:
    root = tmp_path / "store"
    both = [program("extract", root), program("extract", root),
            program("merge", root), program("merge", root)]
    reader, right = FeatureStore(root, RECIPE), expected(range(ROWS // SHARD))
    while any(p.poll() is None for p in both):
        rows = reader.get(key(i) for i in range(ROWS))
        found = {k: (v.values.tobytes(), v.reason, v.lengths) for k, v in rows.items()}
        assert found.items() <= right.items()
    for process in both:
        finished(process)
    assert contents(root) == right
    assert (verify_store(root), leftovers(root)) == ([], [])


def hold_a_temporary(root: str) -> None:
    """Stop half-way through writing a file until a line comes in."""
    real = os.fsync

    def waiting(descriptor: int) -> None:
        tell("half-way")
        sys.stdin.readline()
        real(descriptor)

    os.fsync = waiting
    write_whole(Path(root) / "file", b"content")


def test_a_live_writer_s_file_is_left_alone_and_a_dead_one_s_removed(tmp_path: Path) -> None:
    writer, victim = (program("hold", tmp_path, stdin=subprocess.PIPE) for _ in range(2))
    for process in (writer, victim):
        assert process.stdout is not None
        assert process.stdout.readline() == "half-way\n"
    assert len(leftovers(tmp_path)) == 2
    assert remove_dead_temporaries(tmp_path) == dead_temporaries(tmp_path) == []
    victim.kill()
    victim.communicate()
    assert len(dead_temporaries(tmp_path)) == 1
    assert len(remove_dead_temporaries(tmp_path)) == 1
    writer.communicate("\n\n")
    assert files(tmp_path) == {"file": b"content"}


def test_a_file_is_made_anew_if_it_is_removed_before_it_is_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, removed = os.open, []

    def unlucky(path: Any, *arguments: Any) -> int:
        descriptor = real(path, *arguments)
        if not removed and str(path).endswith(".tmp"):
            removed.append(path)
            Path(path).unlink()  # another process has taken it for a dead writer's
        return descriptor

    monkeypatch.setattr(os, "open", unlucky)
    write_whole(tmp_path / "file", b"content")
    assert removed
    assert files(tmp_path) == {"file": b"content"}


def test_all_is_on_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    for name in ("write", "fsync", "replace"):
        real = getattr(os, name)

        def noted(*arguments: Any, name: str = name, real: Any = real) -> Any:
            if name == "fsync":
                calls.append("fsync folder" if Path(f"/proc/self/fd/{arguments[0]}").is_dir()
                             else "fsync")
            else:
                calls.append(name)
            return real(*arguments)

        monkeypatch.setattr(os, name, noted)
    write_whole(tmp_path / "file", b"content")
    assert calls == ["write", "fsync", "replace", "fsync folder"]


# Damage

def other_names_hash(content: bytes) -> bytes:
    where = content.index(b'"names_sha256": "') + len(b'"names_sha256": "')
    return content[:where] + b"x" + content[where + 1 :]


def damaged(store: FeatureStore, change: Callable[[bytes], bytes]) -> None:
    """Replace the first shard by a changed one; reading must tell, and recomputing must heal."""
    path, other = shards(store)
    path.write_bytes(change(path.read_bytes()))
    with pytest.warns(StoreWarning, match=path.name) as told:
        assert contents(store.root) == expected([1])
    assert len(told) == 1
    assert sorted(p.name for p in store.folder.iterdir()) == sorted(
        ["recipe.json", other.name, f"{path.name}.corrupt"])
    FeatureStore(store.root, RECIPE).put(shard_of(0), NAMES)
    assert contents(store.root) == expected([0, 1])
    assert [p.name for p in clean_store(store.root)] == [f"{path.name}.corrupt"]
    assert verify_store(store.root) == []


@pytest.mark.parametrize("change", [
    lambda b: b"", lambda b: b[:-1], lambda b: b[:100], lambda b: b + b"\0", lambda b: b[::-1],
    lambda b: b.replace(b'"format": 1', b'"format": 9'), lambda b: b"\0" * len(b),
    lambda b: other_names_hash(b),
], ids=["empty", "shorter", "short", "longer", "reversed", "format", "zeros", "names"])
def test_damage_is_told_and_healed(store: FeatureStore, change: Any) -> None:
    damaged(store, change)


@pytest.fixture
def one_row(tmp_path: Path) -> FeatureStore:
    made = FeatureStore(tmp_path / "store", RECIPE)
    made.put({key(0): StoredRow(np.float32([1, 2]), None, (1, 1))}, ["a", "b"])
    return made


def test_each_flipped_byte_is_found(one_row: FeatureStore) -> None:
    [path] = shards(one_row)
    content = path.read_bytes()
    chance = random.Random(0)
    for i in range(len(content)):
        flipped = bytearray(content)
        flipped[i] ^= 1 << chance.randrange(8)
        path.write_bytes(flipped)
        with pytest.warns(StoreWarning, match=path.name) as told:
            assert FeatureStore(one_row.root, RECIPE).get([key(0)]) == {}
        assert (len(told), path.exists()) == (1, False), i
    path.write_bytes(content)
    assert set(FeatureStore(one_row.root, RECIPE).get([key(0)])) == {key(0)}


def test_each_truncation_is_found(one_row: FeatureStore) -> None:
    [path] = shards(one_row)
    content = path.read_bytes()
    for length in range(0, len(content), 7):
        path.write_bytes(content[:length])
        assert [f.kind for f in verify_store(one_row.root)] == ["damaged"]
        with pytest.warns(StoreWarning, match="damaged"):
            assert FeatureStore(one_row.root, RECIPE, read_only=True).get([key(0)]) == {}


def test_reading_only_and_verifying_change_nothing(store: FeatureStore) -> None:
    path = shards(store)[0]
    path.write_bytes(path.read_bytes()[:-9])
    (store.folder / ".dead.tmp").write_bytes(b"half")
    before = files(store.root)
    assert {(f.kind, f.path.name) for f in verify_store(store.root)} == {
        ("damaged", path.name), ("leftover", ".dead.tmp")}
    [stats] = store_stats(store.root)
    assert (stats.rows, stats.unreadable, stats.leftovers) == (5, 1, 1)
    reader = FeatureStore(store.root, RECIPE, read_only=True)
    with pytest.warns(StoreWarning, match="left where it is") as told:
        assert len(reader.get(key(i) for i in range(10))) == 5
    assert len(told) == 1
    assert len(reader.get(key(i) for i in range(10))) == 5
    assert files(store.root) == before


def test_a_damaged_value_is_found_when_values_are_read(store: FeatureStore) -> None:
    path = shards(store)[0]
    content = bytearray(path.read_bytes())
    content[len(content) // 4] ^= 1
    reader = FeatureStore(store.root, RECIPE)
    reader.get([key(9)])
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert set(reader.get([key(9)])) == {key(9)}
    with pytest.warns(StoreWarning, match=path.name):
        assert set(reader.get([key(0), key(9)])) == {key(9)}


def test_damage_that_looks_like_other_columns_is_told_as_damage(store: FeatureStore) -> None:
    path = shards(store)[1]
    path.write_bytes(other_names_hash(path.read_bytes()))
    with pytest.warns(StoreWarning, match=path.name):
        assert contents(store.root) == expected([0])


def test_another_copy_of_a_damaged_row_is_used(store: FeatureStore) -> None:
    store.put(shard_of(0), NAMES)
    path = shards(store)[0]
    path.write_bytes(b"")
    with pytest.warns(StoreWarning, match=path.name):
        assert contents(store.root) == expected([0, 1])


@pytest.mark.parametrize("where", [0, 1, 2])
def test_merging_around_a_damaged_shard(store: FeatureStore, where: int) -> None:
    store.put(shard_of(2), NAMES)
    path = shards(store)[where]
    content = bytearray(path.read_bytes())
    content[len(content) // 4] ^= 1
    path.write_bytes(content)
    with pytest.warns(StoreWarning, match=path.name):
        assert merge_store(store.root) == 2
    assert contents(store.root) == expected([n for n in range(3) if n != where])
    assert [f.path.name for f in verify_store(store.root)] == [f"{path.name}.corrupt"]


# Other versions and other people's files

def test_a_newer_format_is_refused_and_left_alone(store: FeatureStore) -> None:
    path = store.folder / "recipe.json"
    meta = json.loads(path.read_text())
    path.write_text(json.dumps(meta | {"format": 2, "version": "7.8.9"}))
    before = files(store.root)
    for action in (lambda s: s.get([key(0)]), lambda s: s.put(shard_of(3), NAMES)):
        with pytest.raises(StoreError, match=r"format 2, written by spectral-validator 7\.8\.9; "
                                             r"spectral-validator .* reads formats up to 1"):
            action(FeatureStore(store.root, RECIPE))
    assert files(store.root) == before


def test_a_newer_shard_is_refused_and_left_alone(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("validator.features.store_shards.FORMAT", 2)
    store.put(shard_of(2), NAMES)
    monkeypatch.undo()
    before = files(store.root)
    with pytest.raises(StoreError, match="format 2, written by spectral-validator"):
        contents(store.root)
    assert [f.kind for f in verify_store(store.root)] == ["unreadable"]
    with pytest.raises(StoreError, match="format 2"):
        merge_store(store.root)
    assert files(store.root) == before


@pytest.mark.parametrize("text", [
    "", "{", "[]", "null", '{"format": 1}', '{"format": "x", "recipe": {}}',
    '{"format": 1, "recipe": {"model": "other"}}', '{"format": 1, "recipe": 3}', "\udcff"])
def test_a_recipe_that_is_not_the_folder_s_is_refused(store: FeatureStore, text: str) -> None:
    (store.folder / "recipe.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(StoreError, match=r"recipe\.json"):
        contents(store.root)
    assert [f.path for f in verify_store(store.root)] == [store.folder]
    (store.folder / "recipe.json").unlink()
    assert contents(store.root) == expected([0, 1])
    assert [f.problem for f in verify_store(store.root)] == [
        "recipe.json is missing; the next write makes it anew"]
    FeatureStore(store.root, RECIPE).put(shard_of(2), NAMES)
    assert verify_store(store.root) == []


def test_an_intact_file_that_is_no_shard_is_refused_and_left(store: FeatureStore) -> None:
    from validator.features.store_shards import shard_name

    path = store.folder / shard_name(b"not Parquet", 1)
    path.write_bytes(b"not Parquet")
    with pytest.raises(StoreError, match="undamaged, but cannot be read"):
        contents(store.root)
    assert path.exists()


def test_a_shard_that_points_nowhere_is_as_if_merged_away(store: FeatureStore) -> None:
    path = shards(store)[0]
    path.unlink()
    path.symlink_to("nowhere")
    assert contents(store.root) == expected([1])


# Disks

FAILURES = [("open", errno.EROFS), ("open", errno.EACCES), ("write", errno.ENOSPC),
            ("write", errno.EIO), ("fsync", errno.ENOSPC), ("fsync", errno.EIO),
            ("replace", errno.EIO)]


@pytest.mark.parametrize(("name", "code"), FAILURES, ids=lambda v: str(v))
def test_a_failing_disk_is_a_typed_error(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch, name: str, code: int
) -> None:
    real = getattr(os, name)

    def failing(*arguments: Any) -> Any:
        if name == "open" and not arguments[1] & os.O_CREAT:
            return real(*arguments)
        if name == "write":
            real(arguments[0], arguments[1][:50])
        raise OSError(code, os.strerror(code))

    before = files(store.root)
    monkeypatch.setattr(os, name, failing)
    with pytest.raises(StoreError, match=os.strerror(code)):
        store.put(shard_of(2), NAMES)
    with pytest.raises(StoreError, match=os.strerror(code)):
        merge_store(store.root)
    assert files(store.root) == before
    monkeypatch.undo()
    store.put(shard_of(2), NAMES)
    assert contents(store.root) == expected([0, 1, 2])


def test_short_writes_are_continued(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, rest: real(descriptor, rest[:100]))
    store.put(shard_of(2), NAMES)
    assert contents(store.root) == expected([0, 1, 2])


def test_a_file_that_cannot_be_read_is_a_typed_error_and_left(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, path = Path.open, shards(store)[0]

    def failing(self: Path, *arguments: Any, **options: Any) -> Any:
        if self == path:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(self, *arguments, **options)

    monkeypatch.setattr(Path, "open", failing)
    with pytest.raises(StoreError, match="Check the disk"):
        contents(store.root)
    monkeypatch.undo()
    assert contents(store.root) == expected([0, 1])


def test_a_damaged_shard_that_cannot_be_renamed_is_told_once(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*arguments: Any) -> Any:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "replace", failing)
    shards(store)[0].write_bytes(b"")
    reader = FeatureStore(store.root, RECIPE)
    with pytest.warns(StoreWarning, match="left where it is") as told:
        assert set(reader.get([key(0), key(9)])) == {key(9)}
    assert len(told) == 1
    assert set(reader.get([key(0), key(9)])) == {key(9)}


def test_a_file_size_limit_hit_while_writing(store: FeatureStore) -> None:
    """A real limit of the system, reached after part of the file was written."""
    big = {key(i): StoredRow(np.random.default_rng(i).normal(size=COLUMNS).astype(np.float32),
                             None, (1, 1)) for i in range(100, 400)}
    before = files(store.root)
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, old[1]))
    try:
        with pytest.raises(StoreError, match=os.strerror(errno.EFBIG)):
            store.put(big, NAMES)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert files(store.root) == before


def in_own_mounts(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a shell script in which file systems may be mounted that nobody else sees."""
    return subprocess.run(["unshare", "--user", "--map-root-user", "--mount", "sh", "-ec", script,
                           "sh", *map(str, arguments)], capture_output=True, text=True, timeout=60)


def can_mount() -> bool:
    return bool(shutil.which("unshare")) and in_own_mounts(
        "mount -t tmpfs tmpfs /mnt").returncode == 0


needs_mounts = pytest.mark.skipif(
    not can_mount(), reason="may not mount here; the same failures are simulated above")

FILL = """
import sys; sys.path.insert(0, {tests!r})
import test_store_faults as t
from pathlib import Path
from validator.errors import StoreError
root, done = Path(sys.argv[1]), []
try:
    for n in range(t.ROWS // t.SHARD):
        t.FeatureStore(root, t.RECIPE).put(t.shard_of(n), t.NAMES)
        done.append(n)
except StoreError as error:
    assert {message!r} in str(error), error
    assert t.contents(root) == t.expected(done or {stored!r}) and not t.leftovers(root)
    print("refused after", len(done))
"""


@needs_mounts
def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    code = FILL.format(tests=str(Path(__file__).parent), message="No space left", stored=[])
    done = in_own_mounts('mount -t tmpfs -o size=96k tmpfs "$1"; "$2" -c "$3" "$1/store"',
                         tmp_path, sys.executable, code)
    assert (done.returncode, done.stderr) == (0, "")
    assert int(done.stdout.removeprefix("refused after")) > 2


@needs_mounts
def test_a_folder_that_is_really_read_only(store: FeatureStore) -> None:
    code = FILL.format(tests=str(Path(__file__).parent), message="Read-only", stored=[0, 1])
    (store.folder / ".dead.tmp").write_bytes(b"")
    code = code.replace("not t.leftovers(root)", "len(t.leftovers(root)) == 1")
    script = 'mount --bind "$1" "$1"; mount -o remount,ro,bind "$1"; "$2" -c "$3" "$1"'
    done = in_own_mounts(script, store.root, sys.executable, code)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "refused after 0\n")


if __name__ == "__main__":
    main()
