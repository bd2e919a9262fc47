"""Stores behind URLs: the same answers as in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.fs
import pytest

from validator.errors import StoreError, StoreWarning
from validator.features.store import FeatureStore, StoredRow, row_key
from validator.features.store_place import RemotePath, store_place
from validator.features.store_upkeep import clean_store, merge_store, store_stats, verify_store

RECIPE = {"model": "fake"}


@pytest.fixture(params=["memory", "pyarrow", "folder"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """A place that fsspec opens, one that pyarrow does, and a folder."""
    if request.param == "memory":
        return f"memory://{tmp_path.name}/store"
    if request.param == "pyarrow":
        return RemotePath(pyarrow.fs.LocalFileSystem(), str(tmp_path / "s"), "mock://bucket/s")
    return str(tmp_path / "store")


def rows(*numbers: int) -> dict[str, StoredRow]:
    return {row_key([i], 1): StoredRow(np.float32([i, -i]), None, (1, i)) for i in numbers}


def values(store: FeatureStore, *numbers: int) -> dict[str, list[float]]:
    return {k: row.values.tolist() for k, row in store.get(rows(*numbers)).items()}


def test_a_store_works_wherever_it_is(root: Any) -> None:
    store = FeatureStore(root, RECIPE)
    assert store.get(rows(1)) == {}
    store.put(rows(1, 2), ["a", "b"])
    FeatureStore(root, RECIPE).put(rows(3), ["a", "b"])
    right = {k: row.values.tolist() for k, row in rows(1, 2, 3).items()}
    assert values(store, 1, 2, 3, 4) == right
    assert verify_store(root) == []
    assert [(s.rows, s.shards, s.columns) for s in store_stats(root)] == [(3, 2, 2)]
    assert merge_store(root) == 2
    assert values(store, 1, 2, 3) == values(FeatureStore(root, RECIPE), 1, 2, 3) == right
    assert [(s.rows, s.shards) for s in store_stats(root)] == [(3, 1)]


def test_damage_is_set_aside_wherever_it_is(root: Any) -> None:
    store = FeatureStore(root, RECIPE)
    store.put(rows(1), ["a", "b"])
    store.put(rows(2), ["a", "b"])
    path = min(store.folder.glob("rows-*"))
    path.write_bytes(path.read_bytes()[:-3])
    assert [f.kind for f in verify_store(root)] == ["damaged"]
    with pytest.warns(StoreWarning, match="now called"):
        assert len(FeatureStore(root, RECIPE).get(rows(1, 2))) == 1
    assert [p.name for p in clean_store(root)] == [f"{path.name}.corrupt"]
    assert verify_store(root) == []


def test_no_store_there(root: Any) -> None:
    with pytest.raises(StoreError, match="expected a feature store at"):
        verify_store(root)


def test_what_a_place_is(tmp_path: Path) -> None:
    assert store_place("a/b") == store_place(Path("a/b")) == Path("a/b")
    assert store_place(f"file://{tmp_path}") == tmp_path
    place = store_place("memory://bucket/x")
    assert isinstance(place, RemotePath)
    assert store_place(place) is place
    assert (str(place / "y"), (place / "y").name) == ("memory://bucket/x/y", "y")
    assert (place / "y").parent == place
    assert len({place, (place / "y").parent}) == 1
    assert not (place / "y").exists()
    with pytest.raises(FileNotFoundError):
        (place / "y").unlink()
    (place / "y").unlink(missing_ok=True)
    with pytest.raises(ValueError, match="mode 'rb'"):
        place.open("w")
    with pytest.raises(StoreError, match="no file system opens what://x"):
        store_place("what://x")
