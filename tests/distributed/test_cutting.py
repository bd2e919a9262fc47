"""Cutting traces into shards: each once, neighbours together, the same for everyone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shard_helpers import make_traces

from validator.errors import ParameterError, TraceError
from validator.features.shards import Part, cut_shards, decode_shard, encode_shard_traces
from validator.types import Trace

few = settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow])


@few
@given(st.lists(st.integers(1, 9), max_size=12), st.integers(1, 7))
def test_every_trace_is_in_one_shard_in_order(groups: list[int], size: int) -> None:
    traces = [Trace(f"{p}-{k}", f"p{p}", "Q", f"{p} {k}") for p, n in enumerate(groups)
              for k in range(n)]
    shards = list(cut_shards(traces, size))
    assert [t for s in shards for t in s.traces] == traces
    assert [s.index for s in shards] == list(range(len(shards)))
    assert all(size <= len(s.traces) <= 4 * size for s in shards[:-1])
    for one, other in pairwise(shards):  # only a full shard parts a problem
        if one.traces[-1].problem_id == other.traces[0].problem_id:
            assert len(one.traces) == 4 * size


def test_the_cut_depends_on_the_text_and_nothing_else() -> None:
    traces = make_traces()
    digests = [s.digest for s in cut_shards(traces, 5)]
    assert digests == [s.digest for s in cut_shards([replace(t, label=None) for t in traces], 5)]
    changed = [*traces[:-1], replace(traces[-1], completion="other")]
    assert [s.digest for s in cut_shards(changed, 5)][:-1] == digests[:-1]
    assert [s.digest for s in cut_shards(changed, 5)][-1] != digests[-1]


def test_a_text_is_computed_in_the_first_shard_that_has_it() -> None:
    traces = [Trace(f"t{i}", f"p{i}", "Q", str(i % 4)) for i in range(8)]
    shards = list(cut_shards([*traces, replace(traces[7], id="again", problem_id="new")], 4))
    assert [sorted(s.repeated) for s in shards] == [[], ["t4", "t5", "t6", "t7"], ["again"]]
    assert [len(s.repeated) for s in cut_shards(traces, 8)] == [0]  # within one, nothing is left


@few
@given(st.integers(1, 20), st.integers(0, 60))
def test_parts_share_the_shards_out(count: int, shards: int) -> None:
    traces = [Trace(str(i), str(i), "Q", str(i)) for i in range(shards)]
    parts = [Part.parse(f"{i}/{count}") for i in range(count)]
    found = [[s.index for s in cut_shards(traces, 1) if part.has(s)] for part in parts]
    assert sorted(i for own in found for i in own) == list(range(shards))
    assert max(map(len, found)) - min(map(len, found)) <= 1


@pytest.mark.parametrize("text", ["", "3", "3/3", "-1/4", "1/0", "a/b", "1/2/3"])
def test_a_part_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ParameterError, match=r"i/n|for 4 tasks"):
        Part.parse(text)


def test_bad_traces_and_sizes_are_refused() -> None:
    twice = [Trace("a", "p", "Q", "1"), Trace("a", "q", "Q", "2")]
    with pytest.raises(TraceError, match="'a' occurs twice"):
        list(cut_shards(twice))
    with pytest.raises(ParameterError, match="at least 1 trace"):
        list(cut_shards(twice, 0))


def test_cutting_takes_traces_one_by_one() -> None:
    asked = []

    def endless() -> Iterator[Trace]:
        for i in range(10**9):
            asked.append(i)
            yield Trace(str(i), str(i), "Q", str(i))

    assert len(next(cut_shards(endless(), 10)).traces) == 10
    assert len(asked) == 11  # the first of the next problem


def test_a_shard_travels_as_json() -> None:
    for shard in cut_shards([*make_traces(), Trace("x", "y", "Question", "é\ud800")], 5):
        content = encode_shard_traces(shard)
        assert decode_shard(content) == shard
        for damaged in (content[:-1], content.replace(b"Question", b"question"), b"[]"):
            with pytest.raises(TraceError, match="run again"):
                decode_shard(damaged)
        assert json.loads(content)["digest"] == shard.digest
