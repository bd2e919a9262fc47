"""A feature file written piece by piece, so that no more than a piece of it is in memory."""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from validator.errors import FeatureMismatchError, ValidatorError
from validator.features.store_place import Place, RemotePath, store_place
from validator.features.table import features_table
from validator.types import FeatureMatrix
from validator.whole_file import PartialFile

__all__ = ["FeatureFile"]

ROWS = 1024
"""Rows of a row group."""


class FeatureFile:
    """A file as :func:`validator.features.table.write_features` writes it, from many matrices.

    A context manager: :meth:`publish` puts the file in its place, whole; without it nothing is
    left. Behind a URL the file is written here first and then copied.

    Args:
        target: path or URL of the file.
    """

    def __init__(self, target: str | Path) -> None:
        self.target = target
        self.rows = 0
        self._waiting: list[Any] = []
        self._first: FeatureMatrix | None = None
        self._writer: Any = None
        self._scratch: TemporaryDirectory[str] | None = None
        self._whole: PartialFile | None = None
        self._partial = Path()
        self._place: Place = Path()

    def __enter__(self) -> FeatureFile:
        self._place = store_place(self.target)
        try:
            if isinstance(self._place, RemotePath):
                self._scratch = TemporaryDirectory()
                self._partial = Path(self._scratch.name) / "features.parquet"
            else:
                self._place.parent.mkdir(parents=True, exist_ok=True)
                self._whole = PartialFile(self._place)
                self._partial = self._whole.path
        except OSError as error:
            raise self._refused(error) from error
        return self

    def add(self, features: FeatureMatrix) -> None:
        """Append the rows of a matrix.

        Raises:
            FeatureMismatchError: other columns or another provenance than the first had.
            ValidatorError: the file cannot be written.
        """
        if self._first is None:
            self._first = features
        self._first.provenance.require_equal(features.provenance, "shards of one feature file")
        if features.names != self._first.names:
            raise FeatureMismatchError("shards of one feature file have different columns; "
                                       "remove their records and compute them again")
        self._waiting.append(features_table(features))
        self.rows += len(features)
        if sum(table.num_rows for table in self._waiting) >= ROWS:
            self._write()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with suppress(OSError):  # of a file that is given up, or closed already
            if self._writer is not None:
                self._writer.close()
        if self._whole is not None:
            self._whole.discard()
        if self._scratch is not None:
            self._scratch.cleanup()

    def _write(self) -> None:
        try:
            if self._waiting and self._writer is None:
                self._writer = pq.ParquetWriter(
                    self._partial, self._waiting[0].schema, compression="zstd")
            if self._waiting:
                self._writer.write_table(pa.concat_tables(self._waiting))
        except OSError as error:
            raise self._refused(error) from error
        self._waiting = []

    def publish(self) -> None:
        """Put the file in its place. Raises ValidatorError if it cannot be written."""
        self._write()
        try:
            self._writer.close()
            if isinstance(self._place, RemotePath):
                with self._partial.open("rb") as source, self._place.open_write() as sink:
                    shutil.copyfileobj(source, sink, 2**24)
            elif self._whole is not None:
                whole, self._whole = self._whole, None
                whole.publish()
        except OSError as error:
            raise self._refused(error) from error

    def _refused(self, error: OSError) -> ValidatorError:
        return ValidatorError(f"cannot write {self.target}: {error}. What was computed is in the "
                              "store; give another file")

