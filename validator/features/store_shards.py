"""A shard: rows of features in one Parquet file that is never changed once it has its name.

The name says when the shard was written and the SHA-256 of its bytes. Columns: ``key`` (32 bytes),
``prompt_length``, ``completion_length``, ``nan_reason`` and ``values``, a list of F float32. The
file's metadata holds the format, the hashes of the recipe and of the keys, and the F column names.
The keys have a hash of their own because they are read without the rest of the file.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import sys
import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from validator import __version__
from validator.errors import DamagedShardError, ParameterError, StoreError
from validator.features.store_place import Place, RemotePath

__all__ = [
    "FORMAT",
    "Shard",
    "StoredRow",
    "encode_shard",
    "hash_names",
    "read_index",
    "read_rows",
    "require_readable_format",
    "same_row",
    "shard_files",
    "shard_name",
    "shard_names",
    "shard_stamp",
]

FORMAT = 1
METADATA = b"spectral-validator store"

_NAME = re.compile(r"rows-([0-9]{20})-([0-9a-f]{64})\.parquet")
_UNREADABLE = (pa.ArrowException, OSError, ValueError, KeyError, TypeError, zlib.error, MemoryError)
"""What reading damaged bytes as Parquet and JSON may raise."""


@dataclass(frozen=True, slots=True, eq=False)
class StoredRow:
    """One row of features, kept to the bit.

    Raises:
        ParameterError: values that are not (F,) float32 with F >= 1, or a NaN without a reason.
    """

    values: NDArray[np.float32]
    """(F,) float32; any bit pattern, NaN only beside a :attr:`reason`."""
    reason: str | None
    """Why the row holds a NaN."""
    lengths: tuple[int, int]
    """Tokens of the prompt and of the completion."""

    def __post_init__(self) -> None:
        values = self.values
        if values.dtype != np.float32 or values.ndim != 1 or not len(values):
            raise ParameterError("a stored row needs float32 values of shape (F,), F >= 1, got "
                                 f"{values.dtype} {values.shape}; convert them first")
        if self.reason is None and np.isnan(values).any():
            raise ParameterError(f"a stored row has {np.isnan(values).sum()} NaN and no reason; "
                                 "say why the values are missing")


@dataclass(frozen=True, slots=True)
class Shard:
    """What is known of a shard without its values."""

    path: Place
    places: Mapping[bytes, int]
    """key -> index of its row."""
    names_hash: str
    packed_names: str
    size: int
    """Bytes of the file."""

    def names(self) -> tuple[str, ...]:
        """(F,) column names. Raises DamagedShardError if they are not those that were written."""
        try:
            names = tuple(json.loads(zlib.decompress(base64.b64decode(self.packed_names))))
        except _UNREADABLE as error:
            raise _damaged(self.path) from error
        if hash_names(names) != self.names_hash:
            raise _damaged(self.path)
        return names


def same_row(a: StoredRow, b: StoredRow) -> bool:
    """Whether two rows are equal to the bit, so that NaN equals NaN and 0 is not -0."""
    return (a.lengths, a.reason, a.values.tobytes()) == (b.lengths, b.reason, b.values.tobytes())


def hash_names(names: Sequence[str]) -> str:
    """SHA-256 of column names in their order, as hexadecimal digits."""
    return hashlib.sha256(json.dumps(list(names)).encode()).hexdigest()


def shard_name(content: bytes, stamp: int) -> str:
    """File name of a shard with these bytes.

    Args:
        content: all bytes of the file.
        stamp: nanoseconds since 1970; in order of names, the shard written first comes first.
    """
    return f"rows-{stamp:020d}-{hashlib.sha256(content).hexdigest()}.parquet"


def shard_stamp(name: str) -> int:
    """When the shard of this name was written, in nanoseconds since 1970."""
    found = _NAME.fullmatch(name)
    if found is None:
        raise StoreError(f"{name} is not the name of a shard; leave the files of a store as named")
    return int(found[1])


def shard_names(folder: Place) -> list[str]:
    """Shards of a folder in the order they were written; none where there is no folder."""
    try:
        if isinstance(folder, RemotePath):
            return sorted(filter(_NAME.fullmatch, (path.name for path in folder.iterdir())))
        return sorted(filter(_NAME.fullmatch, os.listdir(folder)))  # noqa: PTH208  ten times faster
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StoreError(f"cannot list the feature store {folder}: {error}") from error


def shard_files(folder: Place) -> list[Place]:
    """The same as paths."""
    return [folder / name for name in shard_names(folder)]


def encode_shard(rows: Mapping[bytes, StoredRow], names: Sequence[str], recipe: str) -> bytes:
    """All bytes of a shard; the same rows give the same bytes.

    Args:
        rows: key of 32 bytes -> its row of F values; at least one.
        names: (F,) column names.
        recipe: hash of the recipe.
    """
    keys = sorted(rows)
    ordered = [rows[key] for key in keys]
    values = np.concatenate([row.values for row in ordered])
    table = pa.table({
        "key": pa.array(keys, type=pa.binary(32)),
        "prompt_length": pa.array([row.lengths[0] for row in ordered], type=pa.int64()),
        "completion_length": pa.array([row.lengths[1] for row in ordered], type=pa.int64()),
        "nan_reason": pa.array([row.reason for row in ordered], type=pa.string()),
        "values": pa.FixedSizeListArray.from_arrays(pa.array(values), len(names)),
    })
    packed = base64.b64encode(zlib.compress(json.dumps(list(names)).encode())).decode()
    meta = {"format": FORMAT, "version": __version__, "recipe": recipe,
            "keys_sha256": _hash_keys(keys), "names_sha256": hash_names(names), "names": packed}
    return _parquet_bytes(table, json.dumps(meta))


def _parquet_bytes(table: Any, metadata: str) -> bytes:
    sink = pa.BufferOutputStream()
    # No dictionary and no statistics: keys and values hardly ever repeat and are never searched. No
    # Arrow schema: it adds nothing to what Parquet knows of these types.
    with pq.ParquetWriter(
        sink, table.schema, compression="zstd", use_dictionary=False, write_statistics=False,
        store_schema=False,
        column_encoding={"values.list.element": "BYTE_STREAM_SPLIT"},
    ) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({METADATA: metadata})
    content: bytes = sink.getvalue().to_pybytes()
    return content


def read_index(path: Place, recipe: str) -> Shard:
    """Keys and columns of a shard; the values are not read.

    Raises:
        FileNotFoundError: no such file; another process may have merged it into another.
        DamagedShardError: the bytes are not those that were written.
        StoreError: a newer format, another recipe, or a file that the system cannot read.
    """
    try:
        return _parse_index(path, recipe)
    except FileNotFoundError:
        raise
    except (*_UNREADABLE, StoreError) as error:
        # Damage can look like anything, a newer format included, so it is looked for first.
        _intact_bytes(path)
        if isinstance(error, StoreError):
            raise
        raise StoreError(
            f"{path} is undamaged, but cannot be read with pyarrow {pa.__version__}: {error}. "
            "Upgrade pyarrow, or delete the file to have its rows computed again.") from error


def read_rows(shard: Shard, keys: Collection[bytes]) -> dict[bytes, StoredRow]:
    """The rows of some keys, after all bytes of the shard were found to be those written.

    Raises:
        FileNotFoundError, DamagedShardError, StoreError: as :func:`read_index`.
    """
    table = pq.read_table(pa.BufferReader(_intact_bytes(shard.path)), use_threads=False)
    values = table["values"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    matrix = values.reshape(table.num_rows, -1)
    lengths = [table[name].to_pylist() for name in ("prompt_length", "completion_length")]
    reasons = table["nan_reason"].to_pylist()
    where = [(key, shard.places[key]) for key in keys]
    # Copied, so that one row does not keep a whole shard in memory.
    return {key: StoredRow(matrix[i].copy(), reasons[i], (lengths[0][i], lengths[1][i]))
            for key, i in where}


def require_readable_format(meta: Mapping[str, Any], what: Place) -> None:
    """Raise StoreError for what a newer version of this package has written."""
    if meta["format"] > FORMAT:
        raise StoreError(
            f"{what} has format {meta['format']}, written by spectral-validator {meta['version']}; "
            f"spectral-validator {__version__} reads formats up to {FORMAT}. Upgrade it, or use "
            "another folder as store.")


def _parse_index(path: Place, recipe: str) -> Shard:
    with path.open("rb") as file, pq.ParquetFile(file, pre_buffer=False) as parquet:
        meta = json.loads(parquet.metadata.metadata[METADATA])
        require_readable_format(meta, path)
        keys = parquet.read(["key"], use_threads=False)["key"].to_pylist()
        size = file.seek(0, os.SEEK_END)
    if meta["recipe"] != recipe:
        raise StoreError(f"{path} holds rows of recipe {meta['recipe'][:12]}..., not of the folder "
                         f"it is in; move it to the folder {meta['recipe']}, or delete it")
    if _hash_keys(keys) != meta["keys_sha256"]:
        raise ValueError("the keys do not have the SHA-256 beside them")
    # Interned, because thousands of shards carry the same names.
    return Shard(path, {key: i for i, key in enumerate(keys)}, sys.intern(meta["names_sha256"]),
                 sys.intern(meta["names"]), size)


def _hash_keys(keys: Sequence[bytes]) -> str:
    return hashlib.sha256(b"".join(keys)).hexdigest()


def _intact_bytes(path: Place) -> bytes:
    """All bytes of a shard, if their SHA-256 is the one in its name."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error}. Check the disk and the file's permissions; "
                         "if the file is lost, delete it and its rows are computed again."
                         ) from error
    if shard_name(content, shard_stamp(path.name)) != path.name:
        raise _damaged(path)
    return content


def _damaged(path: Place) -> DamagedShardError:
    return DamagedShardError(f"the shard {path} is damaged: its bytes do not have the SHA-256 in "
                             "its name")
