"""Shards computed in this process: the same bits however they are shared out, and nothing lost."""

from __future__ import annotations

import errno
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from shard_helpers import (
    POISON,
    SIZE,
    DyingWorker,
    RaisingWorker,
    collected,
    job_of,
    make_traces,
    poisoned,
    shards_of,
)

from validator.errors import ModelError, ParameterError, StoreError, StoreWarning
from validator.features.extractor import SpectralFeatureExtractor
from validator.features.shard_ledger import FailedTrace, ShardLedger, ShardRecord
from validator.features.shard_run import extract_shards, run_shards, serially
from validator.features.shard_worker import ExtractionJob, ShardWorker
from validator.features.shards import Part, TraceShard, cut_shards
from validator.features.store_upkeep import merge_store, store_stats, verify_store
from validator.features.table import read_features
from validator.types import FeatureMatrix, Provenance, Trace

TRACES = make_traces()


@pytest.fixture(scope="module")
def whole(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> ExtractionJob:
    """A run of one worker over all traces."""
    job = job_of(tmp_path_factory.mktemp("whole") / "store", model_folder)
    assert run_shards(job, shards_of(TRACES)).forward_passes > 0
    return job


@pytest.fixture
def done(whole: ExtractionJob, model_folder: Path, tmp_path: Path) -> ExtractionJob:
    """A copy of that run's store that may be harmed."""
    shutil.copytree(whole.root, tmp_path / "copy")
    return job_of(tmp_path / "copy", model_folder)


def bits(features: FeatureMatrix) -> list[bytes]:
    return [row.tobytes() for row in features.values]


def direct(job: ExtractionJob, traces: list[Trace]) -> SpectralFeatureExtractor:
    return SpectralFeatureExtractor(job.model, **job.options).fit()


def test_rows_are_those_of_the_extractor(whole: ExtractionJob) -> None:
    extractor = direct(whole, TRACES)
    found = collected(whole, TRACES)
    for shard in shards_of(TRACES):
        right = extractor.transform(shard.traces)
        assert [found[t.id][0] for t in shard.traces] == bits(right)
        assert [found[t.id][1] for t in shard.traces] == [tuple(n) for n in right.lengths]
    right = extractor.transform(TRACES)
    values = np.stack([np.frombuffer(found[t.id][0], np.float32) for t in TRACES])
    np.testing.assert_allclose(values, right.values, rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize("order", [[2, 0, 1]])
def test_tasks_that_share_a_folder_give_the_bits_of_one(
    whole: ExtractionJob, model_folder: Path, tmp_path: Path, order: list[int]
) -> None:
    job = job_of(tmp_path, model_folder)
    for i in order:
        part = Part(i, 3)
        run_shards(job, (s for s in shards_of(TRACES) if part.has(s)))
    assert collected(job, TRACES) == collected(whole, TRACES)
    assert run_shards(job, shards_of(TRACES)).forward_passes == 0
    assert [(s.rows, s.duplicates) for s in store_stats(tmp_path)] == [(len(TRACES), 0)]


def test_a_finished_run_loads_no_model(
    whole: ExtractionJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("validator.features.extractor.load_model", refuse)
    done = extract_shards(whole, lambda: cut_shards(TRACES, SIZE), tmp_path / "f.parquet")
    assert (done.totals.forward_passes, done.totals.done_before, done.rows) == (0, 4, len(TRACES))
    found = read_features(tmp_path / "f.parquet")
    assert found.trace_ids == tuple(t.id for t in TRACES)
    assert found.traces == tuple(TRACES)
    assert bits(found) == [collected(whole, TRACES)[t.id][0] for t in TRACES]


def test_more_traces_cost_only_themselves(whole: ExtractionJob, tmp_path: Path) -> None:
    more = [*TRACES, *(replace(t, id=f"n{t.id}", problem_id=f"n{t.problem_id}",
                               prompt=f"New. {t.prompt}") for t in TRACES[:SIZE])]
    totals = run_shards(whole, shards_of(more))
    assert (totals.done_before, totals.shards) == (4, 5)


def test_other_settings_are_other_shards(whole: ExtractionJob, model_folder: Path) -> None:
    for options in ({"max_batch_tokens": 64}, {"layers": [0]}, {"by_step": True}):
        other = job_of(whole.root, model_folder, **options)
        assert other.ledger().folder != whole.ledger().folder
    for options in ({"device": "cpu"}, {"tries": 9}):
        assert job_of(whole.root, model_folder, **options).ledger().folder == (
            whole.ledger().folder)


@pytest.mark.slow
def test_rows_of_a_plain_extraction_are_used(model_folder: Path, tmp_path: Path) -> None:
    job = job_of(tmp_path, model_folder)
    SpectralFeatureExtractor(job.model, **job.options, store=tmp_path).fit_transform(TRACES)
    assert run_shards(job, shards_of(TRACES)).forward_passes == 0
    assert len(collected(job, TRACES)) == len(TRACES)


@pytest.mark.slow
def test_a_text_that_occurs_again_is_computed_once(model_folder: Path, tmp_path: Path) -> None:
    again = [replace(t, id=f"again-{t.id}", problem_id=f"again-{t.problem_id}")
             for t in TRACES[:SIZE]]
    job = job_of(tmp_path, model_folder)
    run_shards(job, shards_of([*TRACES, *again]))
    found = collected(job, [*TRACES, *again])
    assert all(found[f"again-{t.id}"] == found[t.id] for t in TRACES[:SIZE])
    assert [(s.rows, s.duplicates) for s in store_stats(tmp_path)] == [(len(TRACES), 0)]


def test_rows_of_steps(model_folder: Path, tmp_path: Path) -> None:
    traces = [replace(t, steps=((0, 4), (4, 8)), step_labels=(1, 0)) for t in TRACES[:SIZE]]
    job = job_of(tmp_path, model_folder, by_step=True)
    run_shards(job, shards_of(traces))
    found, right = collected(job, traces), direct(job, traces).transform_steps(traces)
    assert list(found) == list(right.trace_ids)
    assert [row[0] for row in found.values()] == bits(right)


# Traces that cannot be read

def test_a_trace_that_names_its_error_is_given_up_at_once(
    whole: ExtractionJob, tmp_path: Path
) -> None:
    traces = [*TRACES, Trace("long", "p9", "Q", "x" * 400), Trace("ok", "p9", "Q", "fine")]
    output = tmp_path / "f.parquet"
    done = extract_shards(whole, lambda: cut_shards(traces, SIZE), output)
    [failed] = done.failed
    assert (failed.id, failed.tries, done.rows) == ("long", 1, len(traces) - 1)
    assert "401 tokens, the model has positions for 256" in failed.error
    assert not output.exists()
    extract_shards(whole, lambda: cut_shards(traces, SIZE), output, skip_failed=True)
    assert read_features(output).trace_ids == tuple(t.id for t in traces if t.id != "long")


def test_a_trace_that_breaks_the_worker_is_found_and_named(
    whole: ExtractionJob, model_folder: Path, tmp_path: Path
) -> None:
    traces, job = poisoned(TRACES, 8), job_of(tmp_path, model_folder, tries=2)
    for _ in range(2):  # it is not tried again
        [outcome] = [o for o in map(RaisingWorker(job), shards_of(traces)) if o.failed]
        assert outcome.failed == (FailedTrace("bad", "RuntimeError: the device is lost", 2),)
    found = collected(job, traces)
    assert set(found) == {t.id for t in TRACES}
    alone = direct(job, []).transform([t for t in shards_of(traces)[1].traces if t.id != "bad"])
    assert [found[t][0] for t in alone.trace_ids] == bits(alone)  # the others together again
    assert list(job.ledger().tries.iterdir()) == []


@pytest.mark.slow
def test_a_shard_that_breaks_as_a_whole_is_read_trace_by_trace(
    model_folder: Path, tmp_path: Path
) -> None:
    class Small(ShardWorker):
        def _attempt(self, shard: TraceShard, unit: str, todo: object) -> object:
            with self.ledger.attempt(shard.digest, unit):
                if len(todo) > 1:
                    raise MemoryError
            return super()._attempt(shard, unit, todo)

    job = job_of(tmp_path, model_folder)
    outcomes = list(map(Small(job), shards_of(TRACES[:SIZE])))
    assert [o.failed for o in outcomes] == [()]
    extractor, found = direct(job, []), collected(job, TRACES[:SIZE])
    for trace in TRACES[:SIZE]:
        assert [found[trace.id][0]] == bits(extractor.transform([trace]))
    assert [s.shards for s in store_stats(tmp_path)] == [1]


def test_where_no_trace_can_be_read_none_is_given_up(model_folder: Path, tmp_path: Path) -> None:
    traces = [replace(t, completion=f"{t.completion} {POISON}") for t in TRACES[:SIZE]]
    job = job_of(tmp_path, model_folder)
    with pytest.raises(ModelError, match="none of 6 traces can be read, first: RuntimeError"):
        run_shards(job, shards_of(traces), lambda j, s: map(RaisingWorker(j), s))
    assert job.ledger().done() == frozenset()


def in_child(work: Callable[[], object]) -> int:
    """Exit status of a process that does it; negative for the signal it died of."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.slow
def test_a_trace_that_kills_the_process_is_given_up_after_its_tries(
    whole: ExtractionJob, model_folder: Path, tmp_path: Path
) -> None:
    traces, job = poisoned(TRACES[:SIZE], 2), job_of(tmp_path, model_folder, tries=2)
    statuses = []
    while not statuses or statuses[-1]:
        statuses.append(in_child(lambda: run_shards(
            job, shards_of(traces), lambda j, s: map(DyingWorker(j), s))))
        assert len(statuses) < 9
    assert statuses == [-signal.SIGKILL] * 4 + [0]  # 2 of the shard, 2 of the trace
    [record] = [job.ledger().read(s.digest) for s in shards_of(traces)]
    assert record.failed == (FailedTrace("bad", "the process that read it died", 2),)
    assert collected(job, traces) == {k: v for k, v in collected(whole, TRACES).items()
                                      if k in {t.id for t in TRACES[:SIZE]}}


def test_a_try_under_way_elsewhere_is_no_failure(tmp_path: Path) -> None:
    ledger = ShardLedger(tmp_path, {"a": 1})
    ledger.prepare()
    ready, go = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        with ledger.attempt("0" * 64, "all-0"):
            os.write(ready[1], b"x")
            os.read(go[0], 1)
        os._exit(0)
    os.read(ready[0], 1)
    assert ledger.failures("0" * 64, "all-0") == []
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert ledger.failures("0" * 64, "all-0") == ["the process that read it died"]
    with pytest.raises(KeyboardInterrupt), ledger.attempt("1" * 64, "all-0"):
        raise KeyboardInterrupt
    with pytest.raises(StoreError), ledger.attempt("1" * 64, "all-0", (StoreError,)):
        raise StoreError("disk full")
    assert ledger.failures("1" * 64, "all-0") == []


# Disks and damage

def test_what_dead_processes_left_of_done_shards_is_removed(tmp_path: Path) -> None:
    ledger, (done, other) = ShardLedger(tmp_path, {"a": 1}), shards_of(TRACES)[:2]
    ledger.prepare()
    ledger.write(done.digest, ShardRecord("recipe", Provenance("m", "r", "f", 1), ()))
    for shard in (done, other):
        ledger.write_traces(shard)
        (ledger.tries / f"{shard.digest}.all-0.dead").write_bytes(b"")
    ledger.prepare()
    assert [p.name for p in ledger.tries.iterdir()] == [f"{other.digest}.all-0.dead"]
    assert ledger.read_traces(done.digest) is None
    assert ledger.read_traces(other.digest) == other
    assert ledger.done() == {done.digest}


@pytest.mark.parametrize("code", [
    errno.ENOSPC, *(pytest.param(c, marks=pytest.mark.slow) for c in (errno.EIO, errno.EROFS))])
def test_a_failing_disk_ends_the_run_and_blames_no_trace(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    job = job_of(tmp_path, model_folder)
    run_shards(job, shards_of(TRACES)[:1])
    real = os.fsync

    def failing(descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(StoreError, match=os.strerror(code)):
        run_shards(job, shards_of(TRACES))
    monkeypatch.setattr(os, "fsync", real)
    assert list(job.ledger().tries.iterdir()) == []
    assert run_shards(job, shards_of(TRACES)).done_before == 1
    assert len(collected(job, TRACES)) == len(TRACES)


def test_damaged_rows_are_computed_again(
    whole: ExtractionJob, done: ExtractionJob, tmp_path: Path
) -> None:
    [folder] = [s.folder for s in store_stats(done.root)]
    shard = sorted(folder.glob("*.parquet"))[1]
    shard.write_bytes(shard.read_bytes()[:-7])
    with pytest.warns(StoreWarning, match="damaged"):
        found = extract_shards(done, lambda: cut_shards(TRACES, SIZE), tmp_path / "f.parquet")
    assert (found.rows, found.totals.done_before, found.failed) == (len(TRACES), 3, ())
    assert collected(done, TRACES) == collected(whole, TRACES)


def test_a_damaged_record_is_as_if_there_were_none(done: ExtractionJob, tmp_path: Path) -> None:
    path = done.ledger().folder / f"{shards_of(TRACES)[2].digest}.json"
    path.write_bytes(path.read_bytes()[:40])
    found = extract_shards(done, lambda: cut_shards(TRACES, SIZE), tmp_path / "f.parquet")
    assert (found.rows, found.totals.done_before, found.totals.forward_passes) == (24, 3, 0)


def test_merging_leaves_done_shards_done(done: ExtractionJob) -> None:
    before = collected(done, TRACES)
    assert merge_store(done.root) >= 4
    assert collected(done, TRACES) == before
    assert verify_store(done.root) == []
    assert run_shards(done, shards_of(TRACES)).done_before == 4


@pytest.mark.slow
def test_a_clock_that_runs_back_changes_nothing(
    whole: ExtractionJob, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_of(tmp_path, model_folder)
    for i, shard in enumerate(shards_of(TRACES)):
        monkeypatch.setattr("time.time_ns", lambda i=i: 10**18 - i * 10**15)
        run_shards(job, [shard])
    monkeypatch.undo()
    assert collected(job, TRACES) == collected(whole, TRACES)
    assert run_shards(job, shards_of(TRACES)).done_before == 4


@pytest.mark.slow
def test_a_store_behind_a_url(whole: ExtractionJob, model_folder: Path, tmp_path: Path) -> None:
    job = job_of(f"memory://{tmp_path.name}/store", model_folder)
    assert run_shards(job, shards_of(TRACES)).shards == 4
    done = extract_shards(job, lambda: cut_shards(TRACES, SIZE),
                          f"memory://{tmp_path.name}/f.parquet")
    assert (done.totals.forward_passes, done.rows) == (0, len(TRACES))
    assert collected(job, TRACES) == collected(whole, TRACES)


def test_a_worker_s_job_is_checked(model_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="at least 1 try"):
        job_of(tmp_path, model_folder, tries=0)
    assert list(serially(job_of(tmp_path, model_folder), [])) == []
