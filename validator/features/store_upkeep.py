"""Looking after a feature store as a whole: what is in it, is it sound, fewer and larger shards."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from validator.errors import DamagedShardError, StoreError
from validator.features.store import warn_of_conflicts
from validator.features.store_files import (
    dead_temporaries,
    remove_dead_temporaries,
    set_aside,
    set_aside_files,
    write_whole,
)
from validator.features.store_place import Place, RemotePath, store_place
from validator.features.store_recipe import read_recipe
from validator.features.store_shards import (
    Shard,
    StoredRow,
    encode_shard,
    read_index,
    read_rows,
    same_row,
    shard_files,
    shard_name,
    shard_stamp,
)

__all__ = ["Finding", "RecipeStats", "clean_store", "merge_store", "store_stats", "verify_store"]

_FOLDER = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class RecipeStats:
    """What a store holds for one recipe."""

    folder: Place
    recipe: Mapping[str, Any] | None
    """None while none is written, which is before the first row."""
    columns: int
    """F, or 0 without a shard."""
    rows: int
    """Rows of distinct keys."""
    duplicates: int
    """Further rows of the same keys, which merging drops."""
    shards: int
    size: int
    """Bytes of these shards."""
    unreadable: int
    """Further shards, which cannot be read or were renamed to ``*.corrupt``."""
    leftovers: int
    """Temporary files of writers that died."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something in a store that is not as it should be."""

    kind: Literal["damaged", "unreadable", "conflict", "leftover"]
    """``damaged``: bytes that were not written; ``unreadable``: another format, recipe or columns;
    ``conflict``: a key with two different values; ``leftover``: what can be removed."""
    path: Place
    problem: str


def store_stats(root: str | Path | RemotePath) -> list[RecipeStats]:
    """Counts for each recipe, without reading values.

    Raises:
        StoreError: there is no such folder, or a recipe in it is damaged or of a newer format.
    """
    return [_folder_stats(folder) for folder in _recipe_folders(root)]


def verify_store(root: str | Path | RemotePath) -> list[Finding]:
    """Read every byte and change nothing; no finding means all is well.

    Raises:
        StoreError: there is no such folder.
    """
    return [finding for folder in _recipe_folders(root) for finding in _verify_folder(folder)]


def clean_store(root: str | Path | RemotePath) -> list[Place]:
    """Remove damaged shards that were set aside and what dead writers left; which files they were.

    Raises:
        StoreError: there is no such folder, or it cannot be written to.
    """
    removed: list[Place] = []
    for folder in _recipe_folders(root):
        removed += remove_dead_temporaries(folder)
        for path in set_aside_files(folder):
            _remove(path)
            removed.append(path)
    return removed


def merge_store(root: str | Path | RemotePath, *, rows: int = 1024) -> int:
    """Write neighbouring small shards into one; values and which of two counts stay as they are.

    The merged shard is on disk before those it replaces are removed, so it may be killed at any
    moment, and others may read, write and merge meanwhile.

    Args:
        root: the store.
        rows: most rows of a merged shard.

    Returns:
        The number of shards that were replaced.

    Warns:
        StoreWarning: damaged shards, which are set aside; keys with different values.

    Raises:
        StoreError: there is no such folder, or it cannot be read or written to.
    """
    return sum(_merge_run(run, folder) for folder in _recipe_folders(root)
               for run in _runs(_sound_shards(folder), rows))


def _recipe_folders(root: str | Path | RemotePath) -> list[Place]:
    try:
        found = sorted(p for p in store_place(root).iterdir()
                       if _FOLDER.fullmatch(p.name) and p.is_dir())
    except OSError as error:
        raise StoreError(f"expected a feature store at {root}: {error}; give a folder that "
                         "features were stored in") from error
    return found


def _folder_stats(folder: Place) -> RecipeStats:
    found = [_index_or_finding(path) for path in shard_files(folder)]
    shards = [s for s in found if isinstance(s, Shard)]
    seen = Counter(key for shard in shards for key in shard.places)
    return RecipeStats(
        folder, read_recipe(folder), len(shards[0].names()) if shards else 0, len(seen),
        seen.total() - len(seen), len(shards), sum(shard.size for shard in shards),
        sum(isinstance(f, Finding) for f in found) + len(set_aside_files(folder)),
        len(dead_temporaries(folder)))


def _index_or_finding(path: Place) -> Shard | Finding | None:
    """None where another process has just merged the shard into another."""
    try:
        shard = read_index(path, path.parent.name)
        shard.names()
    except FileNotFoundError:
        return None
    except StoreError as error:
        return _finding(path, error)
    return shard


def _finding(path: Place, error: StoreError) -> Finding:
    kind: Literal["damaged", "unreadable"] = (
        "damaged" if isinstance(error, DamagedShardError) else "unreadable")
    return Finding(kind, path, str(error))


def _verify_folder(folder: Place) -> Iterator[Finding]:
    try:
        recipe = read_recipe(folder)
    except StoreError as error:
        yield _finding(folder, error)
    else:
        if recipe is None and shard_files(folder):
            yield Finding("damaged", folder, "recipe.json is missing; the next write makes it anew")
    yield from _verify_shards(folder)
    for path in set_aside_files(folder):
        yield Finding("leftover", path, "a damaged shard that was set aside; it can be removed")
    for path in dead_temporaries(folder):
        yield Finding("leftover", path, "left by a writer that was killed; it can be removed")


def _verify_shards(folder: Place) -> Iterator[Finding]:
    digests: dict[bytes, bytes] = {}
    columns: str | None = None
    for path in shard_files(folder):
        shard = _index_or_finding(path)
        if isinstance(shard, Shard):
            columns = columns or shard.names_hash
            yield from _verify_shard(shard, columns, digests)
        elif shard is not None:
            yield shard


def _verify_shard(
    shard: Shard, columns: str, digests: dict[bytes, bytes]
) -> Iterator[Finding]:
    """Findings of one shard; ``digests`` learns the rows it is the first to hold."""
    try:
        rows = read_rows(shard, shard.places)
    except FileNotFoundError:
        return
    except StoreError as error:
        yield _finding(shard.path, error)
        return
    if shard.names_hash != columns:
        yield Finding("unreadable", shard.path, "its columns are not those of the first shard")
        return
    for key, row in rows.items():
        digest = _digest(row)
        if digests.setdefault(key, digest) != digest:
            yield Finding("conflict", shard.path,
                          f"key {key.hex()} has other values than in an earlier shard, which count")


def _digest(row: StoredRow) -> bytes:
    """Equal for two rows if and only if they are equal to the bit."""
    return hashlib.sha256(
        repr((row.lengths, row.reason)).encode() + row.values.tobytes()).digest()


def _remove(path: Place) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(f"cannot remove {path}: {error}; check the permissions of its folder"
                         ) from error


def _sound_shards(folder: Place) -> list[Shard]:
    read_recipe(folder)
    shards = []
    for path in shard_files(folder):
        found = _index_or_finding(path)
        if isinstance(found, Shard):
            shards.append(found)
        elif found is not None and found.kind == "damaged":
            set_aside(path, DamagedShardError(found.problem), move=True)
        elif found is not None:
            raise StoreError(found.problem)
    return shards


def _runs(shards: Sequence[Shard], most: int) -> Iterator[list[Shard]]:
    """Neighbours in order of writing that have at most so many rows together; two at least.

    Only neighbours: were a shard left standing between two that are merged, it could become the
    first to hold a key, and the values that count would change.
    """
    run: list[Shard] = []
    for shard in shards:
        fits = sum(len(s.places) for s in run) + len(shard.places) <= most
        if run and not (fits and shard.names_hash == run[0].names_hash):
            if len(run) > 1:
                yield run
            run = []
        run.append(shard)
    if len(run) > 1:
        yield run


def _merge_run(run: Sequence[Shard], folder: Place) -> int:
    """Replace these shards by one; how many it replaced."""
    rows: dict[bytes, StoredRow] = {}
    sound, conflicts = [], []
    for shard in run:
        try:
            own = read_rows(shard, shard.places)
        except FileNotFoundError:
            return 0  # another process is merging the same shards
        except DamagedShardError as error:
            set_aside(shard.path, error, move=True)
            continue
        sound.append(shard)
        conflicts += [key.hex() for key, row in own.items()
                      if not same_row(rows.setdefault(key, row), row)]
    warn_of_conflicts(conflicts, folder)
    if len(sound) < 2:
        return 0
    _replace(sound, encode_shard(rows, sound[0].names(), folder.name))
    return len(sound)


def _replace(run: Sequence[Shard], content: bytes) -> None:
    merged = run[0].path.parent / shard_name(content, shard_stamp(run[0].path.name))
    try:
        write_whole(merged, content)
    except OSError as error:
        raise StoreError(f"cannot merge shards in {merged.parent}: {error}. All rows are as they "
                         "were; free space there and try again.") from error
    for shard in run:
        if shard.path != merged:
            _remove(shard.path)
