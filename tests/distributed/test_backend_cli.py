"""``validator extract`` and ``score`` shard by shard."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shard_helpers import make_traces

from validator.cli.main import main
from validator.features.table import read_features
from validator.training.datasets import write_traces
from validator.types import Trace

TRACES = make_traces(4)


@pytest.fixture
def call(model_folder: Path, tmp_path: Path) -> list[str]:
    write_traces(tmp_path / "t.jsonl", TRACES)
    return ["extract", str(tmp_path / "t.jsonl"), "--model", str(model_folder), "--features",
            "fast", "--threads", "1", "--store", str(tmp_path / "store"), "--shard-size", "5"]


def shown(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_parts_then_the_file(
    call: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for i in range(2):
        assert main([*call, "--shard", f"{i}/2", "--json"]) == 0
        facts = shown(capsys)
        assert (facts["shards"], facts["traces"], facts["quarantined"]) == (1, 6, 0)
        assert facts["batches_computed"] > 0
    output = str(tmp_path / "f.parquet")
    assert main([*call, "--backend", "serial", "-o", output, "--json"]) == 0
    facts = shown(capsys)
    assert (facts["batches_computed"], facts["shards_done_before"], facts["rows"]) == (0, 2, 12)
    call = call[: call.index("--shard-size")]
    assert main([*call, "-o", str(tmp_path / "g.parquet"), "--json"]) == 0  # from the same store
    assert shown(capsys)["rows_from_store"] == 12
    a, b = read_features(output), read_features(tmp_path / "g.parquet")
    np.testing.assert_array_equal(a.values, b.values)
    assert (a.names, a.traces, a.provenance) == (b.names, b.traces, b.provenance)


def test_a_trace_that_cannot_be_read_is_kept_apart(
    call: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_traces(tmp_path / "t.jsonl", [*TRACES, Trace("long", "p", "Q", "x" * 300)])
    call += ["-o", str(tmp_path / "f.parquet"), "--backend", "serial"]
    assert main(call) == 1
    told = " ".join(capsys.readouterr().err.split())
    assert "1 of 13 traces could not be read" in told
    assert "could not be read: long: trace 'long' has 301 tokens" in told
    [line] = (tmp_path / "f.unreadable.jsonl").read_text().splitlines()
    assert (json.loads(line)["id"], json.loads(line)["tries"]) == ("long", 1)
    assert not (tmp_path / "f.parquet").exists()
    assert main([*call, "--skip-bad", "--json"]) == 0
    facts = shown(capsys)
    assert (facts["rows"], facts["quarantined"], facts["batches_computed"]) == (12, 1, 0)
    assert len(read_features(tmp_path / "f.parquet")) == 12
    assert main([*call, "--skip-bad", "--retry-failed", "--json"]) == 0
    facts = shown(capsys)  # found wanting once more, at the cost of no pass
    assert (facts["shards_done_before"], facts["quarantined"], facts["batches_computed"]) == (
        2, 1, 0)


@pytest.mark.parametrize(("options", "told"), [
    ([], "give -o FILE"),
    (["--shard", "0/2", "-o", "f.parquet"], "either -o FILE"),
    (["--backend", "serial"], "either -o FILE"),
    (["--shard", "2/2"], "i from 0 to n-1"),
    (["--shard", "0/2", "--no-store"], "leave out --no-store"),
    (["--backend", "serial", "--num-workers", "2", "-o", "f"], "--num-workers given without"),
    (["--address", "auto", "-o", "f"], "--address given without --backend ray"),
    (["--tries", "2", "--retry-failed", "-o", "f"], "--tries, --retry-failed given without"),
    (["--backend", "serial", "-o", "f", "--steps"], "has no steps"),
    (["--backend", "serial", "-o", "f", "--shard-size", "0"], "at least 1 trace"),
    (["--backend", "serial", "-o", "f", "--tries", "0"], "at least 1 try"),
    (["--store", "nowhere://x", "--shard", "0/1"], "no file system opens nowhere://x"),
])
def test_options_that_do_not_go_together(
    call: list[str], options: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if not {"--backend", "--shard"} & set(options):
        call = call[: call.index("--shard-size")]
    assert main([*call, *options]) == 1
    assert told in " ".join(capsys.readouterr().err.split())


@pytest.mark.slow
def test_scores_are_the_same_through_a_backend(
    call: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    score = ["score", *call[1:4], "--no-classifier", "--threads", "1", "--json", "--store"]
    assert main([*score, str(tmp_path / "a")]) == 0
    plain = json.loads(capsys.readouterr().out)
    assert main([*score, str(tmp_path / "b"), "--backend", "serial"]) == 0
    sharded = json.loads(capsys.readouterr().out)
    assert [s["id"] for s in plain["scores"]] == [s["id"] for s in sharded["scores"]]
    for a, b in zip(plain["scores"], sharded["scores"], strict=True):
        assert a["label_free"] == pytest.approx(b["label_free"], rel=1e-3, abs=1e-4)
    assert main(["store", "stats", "--folder", str(tmp_path / "b"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["rows"] == len(TRACES)


@pytest.mark.slow
def test_the_store_command_reads_urls(
    call: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"memory://{tmp_path.name}"
    call[call.index("--store") + 1] = url
    assert main([*call, "--shard", "0/1"]) == 0
    for action, key, value in (("verify", None, []), ("merge", "shards_replaced", 2),
                               ("gc", "files_removed", 0)):
        capsys.readouterr()
        assert main(["store", action, "--folder", url, "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert (found if key is None else found[key]) == value
    assert main(["store", "stats", "--folder", url, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["rows"] == len(TRACES)
