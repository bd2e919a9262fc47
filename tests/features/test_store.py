"""The feature store: what goes in comes out to the bit, and merging changes no answer."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from validator.errors import ParameterError, StoreError, StoreWarning
from validator.features import store as store_module
from validator.features.store import (
    FeatureStore,
    StoredRow,
    recipe_hash,
    row_key,
)
from validator.features.store_shards import encode_shard, same_row, shard_name
from validator.features.store_upkeep import clean_store, merge_store, store_stats, verify_store

RECIPE = {"model": "tiny", "revision": "ab12", "dtype": "float32", "feature_set": {"version": 2}}
NAMES = ("fiedler_value__layer0", "hfer__layer0", "naïve")


def key(i: int) -> str:
    return row_key([i, 7], 1)


def row(*values: float, reason: str | None = None) -> StoredRow:
    return StoredRow(np.array(values, dtype=np.float32), reason, (3, len(values)))


def bits(stored: StoredRow) -> tuple[list[int], str | None, tuple[int, int]]:
    return stored.values.view(np.uint32).tolist(), stored.reason, stored.lengths


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    return FeatureStore(tmp_path / "store", RECIPE)


def reopened(store: FeatureStore) -> FeatureStore:
    return FeatureStore(store.root, store.recipe)


# Keys and recipes

def test_a_key_is_the_hash_of_plain_json() -> None:
    expected = hashlib.sha256(b"[[1,2,3],2,[[2,3]]]").hexdigest()
    assert row_key([1, 2, 3], 2, [(2, 3)]) == expected
    assert row_key(np.array([1, 2, 3]), np.int64(2), ((2, 3),)) == expected  # type: ignore[arg-type]
    assert row_key((1, 2, 3), 2) == hashlib.sha256(b"[[1,2,3],2,[]]").hexdigest()


ids = st.lists(st.integers(0, 12), max_size=3)
spans = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), max_size=2)
inputs = st.tuples(ids, st.integers(0, 2), spans)


@given(inputs, inputs)
def test_keys_are_equal_only_for_equal_inputs(a: Any, b: Any) -> None:
    assert (row_key(*a) == row_key(*b)) == (a == b)


def test_a_recipe_is_named_by_the_hash_of_canonical_json() -> None:
    text = b'{"a":[1,2.5,null],"b":{"c":true,"d":"x"}}'
    assert recipe_hash({"b": {"d": "x", "c": True}, "a": (1, 2.5, None)}) == hashlib.sha256(
        text).hexdigest()


@pytest.mark.parametrize("bad", [
    {"a": float("nan")}, {"a": {1, 2}}, {1: "a"}, {"a": {2: 0}}, {"a": [{None: 0}]}])
def test_a_recipe_that_json_cannot_hold_is_refused(bad: Any) -> None:
    with pytest.raises(ParameterError, match="recipe"):
        recipe_hash(bad)


# Rows

ODD = np.array([0x7FC00000, 0x7FC00001, 0xFFC12345, 0x7F800001, 0x80000000, 0, 1, 0x80000001,
                0x7F800000, 0xFF800000, 0x3F800000], dtype=np.uint32)
"""NaN of several payloads, quiet, signalling and negative; both zeros; subnormals; infinities."""


def test_odd_bit_patterns_come_back(store: FeatureStore) -> None:
    names = [f"c{i}" for i in range(len(ODD))]
    rows = {key(i): StoredRow(np.roll(ODD, i).view(np.float32), f"odd {i} é", (i, i + 1))
            for i in range(len(ODD))}
    store.put(rows, names)
    found = reopened(store).get(rows)
    assert {k: bits(v) for k, v in found.items()} == {k: bits(v) for k, v in rows.items()}


@settings(deadline=None, max_examples=40)
@given(st.lists(st.lists(st.integers(0, 2**32 - 1), min_size=4, max_size=4), min_size=1,
                max_size=5))
def test_any_bit_pattern_comes_back(patterns: list[list[int]]) -> None:
    rows = {key(i): StoredRow(np.array(p, dtype=np.uint32).view(np.float32), "any", (1, 2**40))
            for i, p in enumerate(patterns)}
    with tempfile.TemporaryDirectory() as root:
        FeatureStore(root, RECIPE).put(rows, "abcd")
        found = FeatureStore(root, RECIPE).get(rows)
    assert {k: bits(v) for k, v in found.items()} == {k: bits(v) for k, v in rows.items()}


def test_only_stored_keys_come_back(store: FeatureStore) -> None:
    assert store.get([key(0)]) == {}
    assert store.names is None
    assert not Path(store.root).exists()
    store.put({key(0): row(1, 2, 3)}, NAMES)
    store.put({}, NAMES)
    assert set(store.get([key(0), key(1), key(0)])) == {key(0)}
    assert reopened(store).names == store.names == NAMES
    assert len(list(store.folder.glob("*.parquet"))) == 1


def test_recipes_are_kept_apart(store: FeatureStore) -> None:
    store.put({key(0): row(1, 2, 3)}, NAMES)
    other = FeatureStore(store.root, RECIPE | {"dtype": "bfloat16"})
    assert (other.get([key(0)]), other.names) == ({}, None)
    other.put({key(0): row(4)}, ["other"])
    assert reopened(store).get([key(0)])[key(0)].values.tolist() == [1, 2, 3]
    assert other.get([key(0)])[key(0)].values.tolist() == [4]


def test_another_writer_s_rows_are_seen(store: FeatureStore) -> None:
    assert store.get([key(0)]) == {}
    reopened(store).put({key(0): row(1, 2, 3)}, NAMES)
    assert set(store.get([key(0)])) == {key(0)}
    assert store.names == NAMES


def test_a_shard_is_plain_parquet_named_by_its_hash(store: FeatureStore) -> None:
    store.put({key(1): row(1, 2, 3), key(0): row(4, 5, np.nan, reason="short")}, NAMES)
    [path] = store.folder.glob("*.parquet")
    assert path.stem.split("-")[2] == hashlib.sha256(path.read_bytes()).hexdigest()
    table = pq.read_table(path).to_pydict()
    order = sorted([key(0), key(1)])
    assert [k.hex() for k in table["key"]] == order
    assert table["nan_reason"] == [{key(0): "short", key(1): None}[k] for k in order]
    where = order.index(key(1))
    assert table["values"][where] == [1, 2, 3]
    assert (table["prompt_length"][where], table["completion_length"][where]) == (3, 3)
    written = json.loads((store.folder / "recipe.json").read_text())
    assert (written["format"], written["recipe"]) == (1, RECIPE)


def test_the_same_rows_give_the_same_bytes() -> None:
    some, others = bytes(32), bytes([1] * 32)
    rows = {some: row(1), others: row(2)}
    forth = encode_shard(rows, ["a"], "r")
    assert forth == encode_shard(dict(reversed(rows.items())), ["a"], "r")
    assert forth != encode_shard(rows, ["b"], "r")


def test_only_new_shards_are_opened(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []
    real = store_module.read_index

    def counted(path: Path, recipe: str) -> Any:
        opened.append(path.name)
        return real(path, recipe)

    monkeypatch.setattr(store_module, "read_index", counted)
    for i in range(3):
        store.put({key(i): row(i, 0, 0)}, NAMES)
    store.get([key(i) for i in range(3)])
    store.get([key(1)])
    assert len(opened) == len(set(opened)) == 3


# What is refused

def test_a_nan_needs_a_reason_and_values_are_single_precision() -> None:
    with pytest.raises(ParameterError, match="1 NaN and no reason"):
        row(1, np.nan)
    for bad in (np.zeros(3), np.zeros((1, 3), np.float32), np.zeros(0, np.float32)):
        with pytest.raises(ParameterError, match="float32 values of shape"):
            StoredRow(bad, None, (1, 1))


def test_malformed_rows_are_refused_before_anything_is_written(store: FeatureStore) -> None:
    for bad in ("", "x", "A" * 64, "a" * 63, "a" * 64 + "\n"):
        with pytest.raises(ParameterError, match="64 hexadecimal"):
            store.put({bad: row(1, 2, 3)}, NAMES)
        with pytest.raises(ParameterError, match="64 hexadecimal"):
            store.get([bad])
    with pytest.raises(ParameterError, match="2 values for 3 column"):
        store.put({key(0): row(1, 2, 3), key(1): row(1, 2)}, NAMES)
    for names in ((), ("a", "a")):
        with pytest.raises(ParameterError):
            store.put({key(0): row(*map(float, range(len(names) or 1)))}, names)
    assert not Path(store.root).exists()


@pytest.mark.parametrize(("names", "told"), [
    (("a", "b", "c"), "'a'"), (NAMES[::-1], "another order"), (NAMES[:2], "naïve")])
def test_other_columns_are_refused(store: FeatureStore, names: tuple[str, ...], told: str) -> None:
    store.put({key(0): row(1, 2, 3)}, NAMES)
    with pytest.raises(StoreError, match=told):
        reopened(store).put({key(1): row(*map(float, range(len(names))))}, names)


def test_a_shard_of_other_columns_is_refused_when_read(store: FeatureStore) -> None:
    store.put({key(0): row(1, 2, 3)}, NAMES)
    content = encode_shard({bytes.fromhex(key(1)): row(1)}, ["z"], recipe_hash(RECIPE))
    path = store.folder / shard_name(content, 2 * 10**18)
    path.write_bytes(content)
    with pytest.raises(StoreError, match="first that differs"):
        reopened(store).get([key(0)])
    assert path.exists()
    assert [f.kind for f in verify_store(store.root)] == ["unreadable"]


def test_a_shard_in_another_recipe_s_folder_is_refused(store: FeatureStore) -> None:
    store.put({key(0): row(1, 2, 3)}, NAMES)
    content = encode_shard({bytes.fromhex(key(1)): row(1, 2, 3)}, NAMES, "f" * 64)
    (store.folder / shard_name(content, 5)).write_bytes(content)
    with pytest.raises(StoreError, match="move it to the folder fff"):
        reopened(store).get([key(0)])


def test_a_store_opened_read_only_is_not_written(store: FeatureStore) -> None:
    store.put({key(0): row(1, 2, 3)}, NAMES)
    reader = FeatureStore(store.root, RECIPE, read_only=True)
    with pytest.raises(StoreError, match="read_only=False"):
        reader.put({key(1): row(1, 2, 3)}, NAMES)
    assert set(reader.get([key(0), key(1)])) == {key(0)}


# The same key twice

def test_the_row_written_first_counts(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put({key(0): row(1, 2, 3)}, NAMES)
    monkeypatch.setattr(store_module.time, "time_ns", lambda: 0)  # a clock that is behind
    for value in (4, 5, 6):
        reopened(store).put({key(0): row(value, 2, 3), key(value): row(0, 0, 0)}, NAMES)
    with pytest.warns(StoreWarning, match=f"3 rows .*{key(0)}"):
        found = reopened(store).get([key(0), key(6)])
    assert found[key(0)].values.tolist() == [1, 2, 3]
    kinds = [f.kind for f in verify_store(store.root)]
    assert kinds == ["conflict"] * 3


def test_equal_rows_twice_are_no_matter(store: FeatureStore) -> None:
    odd = {key(0): StoredRow(ODD.view(np.float32), "odd", (1, 1))}
    names = [f"c{i}" for i in range(len(ODD))]
    store.put(odd, names)
    store.put(odd, names)
    assert bits(store.get(odd)[key(0)]) == bits(odd[key(0)])
    [stats] = store_stats(store.root)
    assert (stats.rows, stats.duplicates, stats.shards) == (1, 1, 2)
    assert verify_store(store.root) == []


@pytest.mark.parametrize("other", [
    StoredRow(np.array([-0.0], np.float32), None, (1, 1)),
    StoredRow(np.array([0.0], np.float32), "r", (1, 1)),
    StoredRow(np.array([0.0], np.float32), None, (1, 2)),
])
def test_any_difference_counts(other: StoredRow) -> None:
    same = StoredRow(np.array([0.0], np.float32), None, (1, 1))
    assert same_row(same, StoredRow(np.array([0.0], np.float32), None, (1, 1)))
    assert not same_row(same, other)


# A store as a whole

@contextmanager
def expected_conflicts() -> Iterator[None]:
    """Conflicts are part of the property below, so that their warnings are no errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", StoreWarning)
        yield


shard_lists = st.lists(st.dictionaries(st.integers(0, 5), st.integers(0, 1), min_size=1,
                                       max_size=5), min_size=1, max_size=7)


@settings(deadline=None, max_examples=40)
@given(shard_lists, st.integers(1, 12))
def test_merging_changes_no_answer(shards: list[dict[int, int]], most: int) -> None:
    expected: dict[str, int] = {}  # the first value of each key
    for shard in shards:
        for i, value in shard.items():
            expected.setdefault(key(i), value)
    with tempfile.TemporaryDirectory() as root, expected_conflicts():
        writer = FeatureStore(root, RECIPE)
        for shard in shards:
            writer.put({key(i): row(v) for i, v in shard.items()}, ["v"])
        before = store_stats(root)[0]
        assert before.rows == len(expected)
        assert before.rows + before.duplicates == sum(map(len, shards))
        replaced = merge_store(root, rows=most)
        after = store_stats(root)[0]
        assert (after.rows, after.leftovers, after.unreadable) == (before.rows, 0, 0)
        assert before.shards - after.shards <= replaced
        sizes = [pq.read_metadata(p).num_rows for p in writer.folder.glob("*.parquet")]
        assert max(sizes) <= max(most, *map(len, shards), 0)
        for reader in (writer, FeatureStore(root, RECIPE)):
            found = {k: int(r.values[0]) for k, r in reader.get(map(key, range(6))).items()}
            assert found == expected


def test_merging_everything_leaves_one_shard(store: FeatureStore) -> None:
    for i in range(10):
        store.put({key(i): row(i, 0, 0)}, NAMES)
    assert merge_store(store.root, rows=4) == 10
    assert [s.shards for s in store_stats(store.root)] == [3]
    assert merge_store(store.root) == 3
    assert merge_store(store.root) == 0
    [stats] = store_stats(store.root)
    [path] = store.folder.glob("*.parquet")
    assert (stats.shards, stats.rows, stats.columns, stats.size, stats.recipe) == (
        1, 10, 3, path.stat().st_size, RECIPE)
    assert {k: v.values[0] for k, v in store.get(map(key, range(10))).items()} == {
        key(i): i for i in range(10)}


def test_a_large_shard_keeps_its_place_between_small_ones(store: FeatureStore) -> None:
    """Were the outer two merged, the values of key 9 that count would change."""
    for shard in ({0: 1}, {1: 1, 2: 1, 3: 1, 9: 1}, {4: 1, 9: 2}):
        store.put({key(i): row(value) for i, value in shard.items()}, ["v"])
    assert merge_store(store.root, rows=4) == 0
    with expected_conflicts():
        assert store.get([key(9)])[key(9)].values.tolist() == [1]


def test_shards_merged_away_while_they_are_read_are_found_again(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(3):
        store.put({key(i): row(i)}, ["v"])
    real = store_module.read_rows

    def late(shard: Any, keys: Any) -> Any:
        merge_store(store.root)
        return real(shard, keys)

    monkeypatch.setattr(store_module, "read_rows", late)
    found = store.get([key(i) for i in range(3)])
    assert {k: r.values[0] for k, r in found.items()} == {key(i): i for i in range(3)}


def test_a_folder_that_is_no_store_is_named(tmp_path: Path) -> None:
    for action in (store_stats, verify_store, clean_store, merge_store):
        with pytest.raises(StoreError, match="nowhere"):
            action(tmp_path / "nowhere")
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="file"):
        FeatureStore(tmp_path / "file", RECIPE).get([key(0)])
    with pytest.raises(StoreError, match="file"):
        FeatureStore(tmp_path / "file", RECIPE).put({key(0): row(1, 2, 3)}, NAMES)
    assert store_stats(tmp_path) == verify_store(tmp_path) == clean_store(tmp_path) == []


def test_importing_the_store_imports_no_torch() -> None:
    code = ("import sys, validator.features.store, validator.features.store_upkeep; "
            "assert 'torch' not in sys.modules")
    subprocess.run([sys.executable, "-c", code], check=True)
