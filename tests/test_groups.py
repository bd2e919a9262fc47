"""Joined ids are the connected components of the pairs."""

from __future__ import annotations

import networkx as nx
from hypothesis import given
from hypothesis import strategies as st

from validator.groups import joined_ids

names = st.sampled_from("abcdefg")


@given(st.lists(names, min_size=1), st.lists(st.tuples(names, names)))
def test_ids_of_a_component_are_its_first(ids: list[str], pairs: list[tuple[str, str]]) -> None:
    graph = nx.Graph(pairs)
    graph.add_nodes_from(ids)
    expected = {}
    for component in nx.connected_components(graph):
        first = next((i for i in ids if i in component), None)
        expected |= dict.fromkeys(component, first)
    assert joined_ids(ids, pairs) == tuple(expected[i] for i in ids)
