"""Feature files: exact round trip, typed errors for what is not one of ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from validator.errors import FeatureMismatchError, ValidatorError
from validator.features.extractor import SpectralFeatureExtractor
from validator.features.table import KEY, read_features, write_features
from validator.types import FeatureMatrix, Trace


@pytest.fixture
def features(tiny: Any, traces: list[Trace]) -> FeatureMatrix:
    short = Trace("short", "p9", "Q: 7", "7", None, ((0, 1),), (1,), "me", "7", "truncated",
                  {"target": "é"})
    return SpectralFeatureExtractor(tiny).fit_transform([*traces, short])


def test_round_trip_is_exact(features: FeatureMatrix, tmp_path: Path) -> None:
    write_features(tmp_path / "new" / "f.parquet", features)
    found = read_features(tmp_path / "new" / "f.parquet")
    np.testing.assert_array_equal(found.values, features.values)
    np.testing.assert_array_equal(found.lengths, features.lengths)
    assert (found.names, found.traces) == (features.names, features.traces)
    assert (found.provenance, found.nan_reasons) == (features.provenance, features.nan_reasons)
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["f.parquet"]


def test_other_files_are_refused(features: FeatureMatrix, tmp_path: Path) -> None:
    with pytest.raises(FeatureMismatchError, match="cannot read"):
        read_features(tmp_path / "none.parquet")
    (tmp_path / "text.parquet").write_text("hello")
    with pytest.raises(FeatureMismatchError, match="cannot read"):
        read_features(tmp_path / "text.parquet")
    pq.write_table(pa.table({"x": [1]}), tmp_path / "x.parquet")
    with pytest.raises(FeatureMismatchError, match="not a feature file"):
        read_features(tmp_path / "x.parquet")
    newer = pa.table({"x": [1]}).replace_schema_metadata(
        {KEY: '{"format": 99, "version": "9.0"}'})
    pq.write_table(newer, tmp_path / "newer.parquet")
    with pytest.raises(FeatureMismatchError, match="newer format"):
        read_features(tmp_path / "newer.parquet")


def test_a_truncated_file_is_refused(features: FeatureMatrix, tmp_path: Path) -> None:
    file = tmp_path / "f.parquet"
    write_features(file, features)
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(FeatureMismatchError, match="cannot read"):
        read_features(file)


def test_an_unwritable_place_is_a_typed_error(features: FeatureMatrix, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValidatorError, match="cannot write"):
        write_features(tmp_path / "file" / "f.parquet", features)
