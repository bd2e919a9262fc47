"""Column names parse back into their recipe."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from validator.columns import Column
from validator.errors import FeatureMismatchError

columns = st.builds(
    Column,
    descriptor=st.sampled_from(["fiedler_value", "hfer", "eigenvalue_quantile"]),
    layer=st.integers(0, 99),
    head=st.none() | st.integers(0, 63),
    span=st.sampled_from(["whole", "completion"]),
    signal=st.sampled_from(["", "hidden", "surprisal"]),
    parameter=st.none() | st.sampled_from([0.0, 0.05, 0.5, 1.0, 2.0]),
    parameter_key=st.just("q"),
)


states = st.builds(
    Column,
    descriptor=st.sampled_from(["state_mean", "state_last"]),
    layer=st.integers(0, 99),
    span=st.sampled_from(["whole", "completion"]),
    parameter=st.integers(0, 9999).map(float),
    parameter_key=st.just("d"),
)


@given(columns | states)
def test_round_trip(column: Column) -> None:
    assert Column.parse(str(column)) == column


def test_examples() -> None:
    name = "fiedler_value__layer12__head_mean__completion"
    assert Column.parse(name) == Column("fiedler_value", 12, None, "completion")
    assert Column.parse("hfer_c0.5__layer3__head2__whole__hidden") == Column(
        "hfer", 3, 2, "whole", "hidden", 0.5, "c")
    assert Column.parse("mean_logprob__baseline").is_baseline
    state = Column.parse("state_mean_d17__layer3__residual__completion")
    assert state == Column("state_mean", 3, None, "completion", "", 17, "d")
    assert state.is_state


@pytest.mark.parametrize("name", ["", "x", "x__layer1", "x__y__head1__whole", "a__layer1__b__c",
                                  "fiedler_value__layer1__residual__completion",
                                  "state_mean_d1__layer1__head_mean__completion"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(FeatureMismatchError, match="is not"):
        Column.parse(name)
