"""A reference as one small Parquet file; the one that ships for the default model."""

from __future__ import annotations

import dataclasses
import json
import os
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from validator.errors import FeatureMismatchError
from validator.explain.reference import Reference
from validator.trace_json import trace_from_json, trace_to_json
from validator.types import Provenance

__all__ = ["is_reference", "read_reference", "shipped_reference", "write_reference"]

KEY = b"spectral-validator-reference"
FORMAT = 1


def write_reference(path: str | Path, reference: Reference, command: str = "") -> None:
    """Write a file that :func:`read_reference` reads, whole or not at all.

    Columns: ``trace`` (its JSON), ``baselines`` (5 float32) and ``grid`` (R x L float32, row by
    row); names, layers and provenance stand in the metadata.

    Args:
        path: the file; its folder is made.
        reference: what is written.
        command: what makes the file again, kept in it.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    table = pa.table({
        "trace": pa.array([json.dumps(trace_to_json(t)) for t in reference.traces]),
        "baselines": _lists(reference.baselines),
        "grid": _lists(reference.grid.reshape(len(reference), -1)),
    }).replace_schema_metadata({KEY: json.dumps({
        "format": FORMAT, "name": reference.name, "rows": reference.rows, "command": command,
        "layers": reference.layers, "provenance": dataclasses.asdict(reference.provenance)})})
    try:
        pq.write_table(table, partial, compression="zstd", compression_level=15,
                       use_dictionary=False, column_encoding={
                           "grid.list.element": "BYTE_STREAM_SPLIT",
                           "baselines.list.element": "BYTE_STREAM_SPLIT", "trace": "PLAIN"})
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def is_reference(path: str | Path) -> bool:
    """Whether the file is a Parquet file that :func:`write_reference` wrote."""
    try:
        return KEY in (pq.read_schema(path).metadata or {})
    except (OSError, pa.ArrowInvalid):
        return False


def read_reference(path: str | Path) -> Reference:
    """Read a file written by :func:`write_reference`.

    Raises:
        FeatureMismatchError: not such a file, damaged, or of a newer format.
    """
    try:
        table = pq.read_table(path)
        meta: dict[str, Any] = json.loads((table.schema.metadata or {})[KEY])
    except (OSError, pa.ArrowInvalid, KeyError) as error:
        raise FeatureMismatchError(
            f"cannot read {path} as a reference: {error}. References are written by "
            "`validator explain --save-reference`.") from error
    if meta["format"] > FORMAT:
        raise FeatureMismatchError(f"{path} was written by a newer version; upgrade "
                                   "spectral-validator")
    shape = (table.num_rows, len(meta["rows"]), len(meta["layers"]))
    return Reference(
        meta["name"], tuple(trace_from_json(json.loads(t)) for t in table["trace"].to_pylist()),
        tuple(meta["rows"]), tuple(meta["layers"]), _values(table["grid"]).reshape(shape),
        _values(table["baselines"]).reshape(table.num_rows, -1), Provenance(**meta["provenance"]))


def shipped_reference(model: str) -> Reference | None:
    """The reference that ships for a known model, or None."""
    folder = Path(str(files("validator.data").joinpath("references")))
    found = next((f for f in folder.glob("*.parquet") if f.stem == model), None)
    return None if found is None else read_reference(found)


def _lists(values: np.ndarray[Any, np.dtype[np.float32]]) -> Any:
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])


def _values(column: Any) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.asarray(column.combine_chunks().flatten().to_numpy(zero_copy_only=False))
