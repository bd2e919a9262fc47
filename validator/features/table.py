"""A feature matrix as one Parquet file: the traces, their features, and where both come from."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from validator import __version__
from validator.errors import FeatureMismatchError, ValidatorError
from validator.trace_json import trace_from_json, trace_to_json
from validator.types import FeatureMatrix, Provenance
from validator.whole_file import replacing

__all__ = ["features_table", "file_metadata", "read_features", "write_features"]

KEY = b"spectral-validator"
FORMAT = 1


def write_features(path: str | Path, features: FeatureMatrix) -> None:
    """Write a Parquet file, whole or not at all.

    Columns: ``id``, ``problem_id``, ``label``, ``trace`` (its JSON), ``prompt_length``,
    ``completion_length``, ``nan_reason``, and ``features``, a list of F float32 per row whose
    names stand in the file's metadata.

    Raises:
        ValidatorError: the folder cannot be written to.
    """
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as partial:
            pq.write_table(features_table(features), partial, compression="zstd")
    except OSError as error:
        raise ValidatorError(f"cannot write {target}: {error}") from error


def read_features(path: str | Path) -> FeatureMatrix:
    """Read a file written by :func:`write_features`.

    Raises:
        FeatureMismatchError: not such a file, damaged, or written by a newer version.
    """
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise FeatureMismatchError(
            f"cannot read {path} as a feature file: {error}. Feature files are written by "
            "`validator extract`.") from error
    meta = file_metadata(table, path)
    names = tuple(meta["names"])
    flat = table["features"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    reasons = zip(table["id"].to_pylist(), table["nan_reason"].to_pylist(), strict=True)
    lengths = [table[c].to_numpy() for c in ("prompt_length", "completion_length")]
    return FeatureMatrix(
        values=flat.reshape(table.num_rows, len(names)),
        names=names,
        traces=tuple(trace_from_json(json.loads(t)) for t in table["trace"].to_pylist()),
        lengths=np.stack(lengths, axis=1),
        provenance=Provenance(**meta["provenance"]),
        nan_reasons={i: reason for i, reason in reasons if reason is not None},
    )


def features_table(features: FeatureMatrix) -> Any:
    """The matrix as a pyarrow table with its metadata."""
    values = pa.array(features.values.reshape(-1), type=pa.float32())
    table = pa.table({
        "id": pa.array(features.trace_ids),
        "problem_id": pa.array([t.problem_id for t in features.traces]),
        "label": pa.array([t.label for t in features.traces], type=pa.int8()),
        "trace": pa.array([json.dumps(trace_to_json(t)) for t in features.traces]),
        "prompt_length": pa.array(features.lengths[:, 0]),
        "completion_length": pa.array(features.lengths[:, 1]),
        "nan_reason": pa.array([features.nan_reasons.get(i) for i in features.trace_ids],
                               type=pa.string()),
        "features": pa.FixedSizeListArray.from_arrays(values, len(features.names)),
    })
    meta = {"format": FORMAT, "names": features.names, "version": __version__,
            "provenance": dataclasses.asdict(features.provenance)}
    return table.replace_schema_metadata({KEY: json.dumps(meta)})


def file_metadata(table: Any, path: str | Path) -> dict[str, Any]:
    """What :func:`write_features` has put into a table's metadata; raises FeatureMismatchError."""
    raw = (table.schema.metadata or {}).get(KEY)
    if raw is None:
        raise FeatureMismatchError(
            f"{path} is a Parquet file, but not a feature file; those are written by "
            "`validator extract`")
    meta: dict[str, Any] = json.loads(raw)
    if meta["format"] > FORMAT:
        raise FeatureMismatchError(
            f"{path} was written by spectral-validator {meta['version']}, in a newer format than "
            "this version reads; upgrade spectral-validator")
    return meta
