"""A cache of feature rows on disk that survives kills, full disks and flipped bits.

A store is a folder with one sub-folder for each recipe, which is all that decides the values
besides a trace's tokens; the sub-folder's name is the SHA-256 of the recipe. A recipe's rows lie in
shards, files that are never changed. Nothing is locked: writers add shards, and where two computed
the same row, the one written first counts.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from validator.errors import DamagedShardError, ParameterError, StoreError, StoreWarning
from validator.features.store_files import (
    make_folder,
    remove_dead_temporaries,
    set_aside,
    write_whole,
)
from validator.features.store_place import Place, RemotePath, store_place
from validator.features.store_recipe import RECIPE, encode_recipe, read_recipe, recipe_hash
from validator.features.store_shards import (
    Shard,
    StoredRow,
    encode_shard,
    hash_names,
    read_index,
    read_rows,
    same_row,
    shard_name,
    shard_names,
    shard_stamp,
)

__all__ = [
    "FeatureStore",
    "StoredRow",
    "recipe_hash",
    "row_key",
    "warn_of_conflicts",
]

_KEY = re.compile(r"[0-9a-f]{64}")


def row_key(
    ids: Sequence[int], prompt_length: int, spans: Sequence[tuple[int, int]] = ()
) -> str:
    """Name of what the model reads, whatever the trace is called: 64 hexadecimal digits.

    SHA-256 of the JSON ``[ids, prompt_length, spans]``, written without spaces.

    Args:
        ids: token ids, those of the prompt first.
        prompt_length: tokens of the prompt.
        spans: first token, and the one after the last, of each step.
    """
    parts = [[int(i) for i in ids], int(prompt_length), [[int(a), int(b)] for a, b in spans]]
    return hashlib.sha256(json.dumps(parts, separators=(",", ":")).encode()).hexdigest()


class FeatureStore:
    """The rows of one recipe. Any number of processes may read and write it at once.

    An object of this class is for one thread. Rows that others write are seen by the next ``get``.

    Args:
        root: folder of the store, or its URL (see :func:`validator.features.store_place.
            store_place`); made by the first ``put``.
        recipe: all that decides the values besides the tokens, as JSON values: model revision,
            tokenizer, dtype, feature set, solver, ...; not the batch size.
        read_only: never change anything, not even to clean up.
    """

    def __init__(
        self, root: str | Path | RemotePath, recipe: Mapping[str, Any], *, read_only: bool = False
    ) -> None:
        self.root = root
        self.recipe = recipe
        self.read_only = read_only
        self._folder: Place | None = None
        self._shards: dict[str, Shard] = {}
        self._damaged: set[str] = set()
        self._latest = 0
        self._names: tuple[str, ...] | None = None
        self._names_hash = ""

    @property
    def folder(self) -> Place:
        """Where this recipe's shards are."""
        return store_place(self.root) / recipe_hash(self.recipe)

    @property
    def names(self) -> tuple[str, ...] | None:
        """(F,) column names of the recipe; None while the store has no row of it."""
        if self._names is None:
            self._refresh()
        return self._names

    def get(self, keys: Iterable[str]) -> dict[str, StoredRow]:
        """The rows of those keys that are stored.

        Warns:
            StoreWarning: a damaged shard, which is renamed to ``*.corrupt`` and whose rows are not
                among those returned; rows that were stored twice with different values.

        Raises:
            ParameterError: a key that :func:`row_key` cannot have made.
            StoreError: another format, another recipe, other columns, or an unreadable disk.
        """
        wanted = {_binary(key): key for key in keys}
        while True:
            self._refresh()
            try:
                found, conflicts = self._collect(wanted)
            except FileNotFoundError:
                continue  # merged into another shard by another process: list them again
            warn_of_conflicts(conflicts, self.folder)
            return {wanted[key]: row for key, row in found.items()}

    def put(self, rows: Mapping[str, StoredRow], names: Sequence[str]) -> None:
        """Add one shard, which is on disk when this returns.

        Args:
            rows: key -> its row of F values; without any, nothing is written.
            names: (F,) column names, always the same for one recipe.

        Raises:
            ParameterError: a malformed key, or a row that does not have F values.
            StoreError: read-only, disk full or failing, or other column names than are stored; what
                was stored before is as it was.
        """
        if self.read_only:
            raise StoreError(f"the feature store {self.root} was opened to be read only; open it "
                             "with read_only=False, or give another folder")
        coded = {_binary(key): row for key, row in rows.items()}
        _require_columns(rows, len(names))
        self._refresh()
        self._require_names(names)
        if coded:
            self._write(encode_shard(coded, names, recipe_hash(self.recipe)))

    def _refresh(self) -> None:
        """Learn which shards there are now; only those that are new are opened."""
        if self._folder is None:
            self._open()
        folder, present = self.folder, shard_names(self.folder)
        self._latest = max([self._latest, *map(shard_stamp, present[-1:])])
        known = {name: self._shards.get(name) or self._admit(folder / name) for name in present
                 if name not in self._damaged}
        self._shards = {name: shard for name, shard in known.items() if shard is not None}

    def _open(self) -> None:
        folder = self.folder
        read_recipe(folder)
        if not self.read_only:
            remove_dead_temporaries(folder)
        self._folder = folder

    def _admit(self, path: Place) -> Shard | None:
        """Keys of a shard that was not known; None if it is damaged or gone."""
        try:
            shard = read_index(path, path.parent.name)
            if self._names is None:
                self._names, self._names_hash = shard.names(), shard.names_hash
            if shard.names_hash != self._names_hash:
                names = shard.names()  # raises if it is damage that made them others
                raise _other_columns(self._names, names, path)
        except FileNotFoundError:
            return None
        except DamagedShardError as error:
            self._set_aside(path, error)
            return None
        return shard

    def _collect(
        self, wanted: Mapping[bytes, str]
    ) -> tuple[dict[bytes, StoredRow], list[str]]:
        """Rows of the wanted keys, and the keys for which shards differ."""
        found: dict[bytes, StoredRow] = {}
        conflicts = []
        for shard in self._shards.values():
            try:
                rows = _read(shard, wanted)
            except DamagedShardError as error:
                self._set_aside(shard.path, error)
                continue
            conflicts += [wanted[key] for key, row in rows.items()
                          if not same_row(found.setdefault(key, row), row)]
        return found, conflicts

    def _set_aside(self, path: Place, error: Exception) -> None:
        self._damaged.add(path.name)
        set_aside(path, error, move=not self.read_only)

    def _require_names(self, names: Sequence[str]) -> None:
        if len(set(names)) != len(names) or not names:
            raise ParameterError(f"expected distinct column names, at least one, got {len(names)} "
                                 f"of which {len(set(names))} are distinct")
        if self._names is not None and hash_names(names) != self._names_hash:
            raise _other_columns(self._names, tuple(names), self.folder)

    def _write(self, content: bytes) -> None:
        # Later than all that is there, also where the clocks of two machines differ.
        stamp = max(time.time_ns(), self._latest + 1)
        try:
            make_folder(self.folder)
            if not (self.folder / RECIPE).exists():
                write_whole(self.folder / RECIPE, encode_recipe(self.recipe))
            write_whole(self.folder / shard_name(content, stamp), content)
        except OSError as error:
            raise StoreError(
                f"cannot write to the feature store {self.root}: {error}. Rows stored before are "
                "safe; free or attach space there, or give another folder.") from error
        self._latest = stamp


def warn_of_conflicts(keys: Sequence[str], folder: Place) -> None:
    """Warn that shards hold different rows for the same keys.

    This is no error: another batch size may change the last bits of a value, so two processes that
    compute the same row at once are both right. Which of the two counts never changes.
    """
    if keys:
        warnings.warn(
            f"{len(keys)} rows of {folder} were stored twice with different values, first: key "
            f"{keys[0]}; the values stored first are used", StoreWarning, stacklevel=3)


def _read(shard: Shard, wanted: Mapping[bytes, str]) -> dict[bytes, StoredRow]:
    keys = wanted.keys() & shard.places.keys()
    return read_rows(shard, keys) if keys else {}


def _binary(key: str) -> bytes:
    if not _KEY.fullmatch(key):
        raise ParameterError(f"{key!r} is not the key of a row, which has 64 hexadecimal digits; "
                             "make keys with `row_key`")
    return bytes.fromhex(key)


def _require_columns(rows: Mapping[str, StoredRow], count: int) -> None:
    for key, row in rows.items():
        if len(row.values) != count:
            raise ParameterError(f"key {key} has {len(row.values)} values for {count} column "
                                 "names; give one value for each name")


def _other_columns(stored: tuple[str, ...], got: tuple[str, ...], where: Place) -> StoreError:
    odd = sorted(set(stored) ^ set(got))
    difference = f"first that differs: {odd[0]!r}" if odd else "the same ones in another order"
    return StoreError(
        f"{where}: expected the {len(stored)} columns that are stored, got {len(got)}; "
        f"{difference}. The recipe leaves out something that decides the columns: add it, or "
        "delete the folder.")
