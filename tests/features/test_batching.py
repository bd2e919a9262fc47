"""Every trace runs exactly once, in budget, after tokens it really begins with."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from validator.features.batching import MAX_SHARED, MIN_SHARED, plan_batches
from validator.features.encoding import EncodedTrace, common_prefix
from validator.types import Trace

TRACE = Trace("t", "p", "x", "y")
prompts = st.lists(st.sampled_from(["a" * 20, "a" * 20 + "b" * 18, "a" * 20 + "c" * 30, "d" * 9]),
                   min_size=1, max_size=12)


@given(prompts, st.lists(st.integers(1, 40), min_size=12, max_size=12), st.integers(1, 200))
def test_plan_is_a_partition_in_budget(texts: list[str], tails: list[int], budget: int) -> None:
    traces = [EncodedTrace(TRACE, (*text.encode(), *range(n)), len(text))
              for text, n in zip(texts, tails, strict=False)]
    batches = list(plan_batches(traces, budget))
    assert sorted(i for b in batches for i in b.members) == list(range(len(traces)))
    for batch in batches:
        before = batch.prefixes[-1] if batch.prefixes else 0
        longest = max(len(traces[i].ids) for i in batch.members) - before
        assert len(batch.members) == 1 or len(batch.members) * longest <= budget
        assert list(batch.prefixes) == sorted(set(batch.prefixes))
        for length in batch.prefixes:
            assert MIN_SHARED <= length <= MAX_SHARED
            assert len({traces[i].ids[:length] for i in batch.members}) == 1
            assert all(length < traces[i].prompt_length for i in batch.members)


@given(st.lists(st.lists(st.integers(0, 2), max_size=6), min_size=1, max_size=5))
def test_common_prefix_is_the_longest(sequences: list[list[int]]) -> None:
    n = common_prefix(sequences)
    assert len({tuple(s[:n]) for s in sequences}) == 1
    shortest = min(len(s) for s in sequences)
    assert n == shortest or len({s[n] for s in sequences}) > 1


def test_common_prefix_of_nothing() -> None:
    assert common_prefix([]) == 0
