"""Graphs that know the networks of their nodes: the same presets, with fewer edges between networks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgenode.core.topology.graph import PRESETS, GraphSpec
from edgenode.core.topology.networks import grouped, networks_of
from edgenode.errors import GraphError

HOMES = tuple(sorted(f"{home}-{i}" for home in ("berlin", "paris") for i in range(4)))
NAMED = "berlin:paris"
LETTERS = st.lists(st.sampled_from("abc"), min_size=1, max_size=24)


def mixed_up(name: str) -> str:
    """The name of the same board, where names do not sort by home: 0-berlin, 0-paris, 1-berlin, ..."""
    return "-".join(reversed(name.split("-")))


def across(graph: str, members: tuple[str, ...]) -> int:
    """The messages of a period that go from one home to another."""
    home = {member: next(word for word in member.split("-") if not word.isdecimal()) for member in members}
    return sum(home[s] != home[r] for digraph in GraphSpec(graph).period(members) for s, r in digraph.edges)


def test_ring_leaves_each_network_once() -> None:
    assert across(f"a@{NAMED}", HOMES) == across(f"b@{NAMED}", HOMES) == across(f"c@{NAMED}", HOMES) == 2
    by_number = tuple(sorted(map(mixed_up, HOMES)))  # whose names do not sort by home
    of_berlin, of_paris = ("+".join(name for name in by_number if home in name) for home in ("berlin", "paris"))
    assert (across("a", by_number), across(f"a@{of_berlin}:{of_paris}", by_number)) == (8, 2)
    assert across("two-way@berlin:paris", HOMES) == 4


def test_exchange_crosses_in_its_last_round_only() -> None:
    """The others stay inside: one-peer-exponential crosses with 8 messages of 24, and not with 14."""
    assert across("one-peer-exponential", HOMES) == 14
    assert across(f"one-peer-exponential@{NAMED}", HOMES) == 8
    rounds = GraphSpec(f"one-peer-exponential@{NAMED}").period(HOMES)
    crossing = [sum(s.split("-")[0] != r.split("-")[0] for s, r in digraph.edges) for digraph in rounds]
    assert crossing == [8, 0, 0]


@given(LETTERS, st.sampled_from(sorted(PRESETS)))
def test_graph_is_the_preset_over_members_in_another_order(letters: list[str], preset: str) -> None:
    members = tuple(sorted(f"{letter}{i}" for i, letter in enumerate(letters)))
    plain, named = GraphSpec(preset), GraphSpec(f"{preset}@a:b")
    place = dict(zip(members, named.positions(members), strict=True))
    assert sorted(place.values()) == list(members)
    for before, after in zip(plain.period(members), named.period(members), strict=True):
        assert {(place[s], place[r]) for s, r in before.edges} == after.edges
        assert {(place[node], weight) for node, weight in before.counts} == set(after.counts)


@given(LETTERS, st.sampled_from(["a", "b"]))
def test_ring_has_as_few_edges_between_networks_as_possible(letters: list[str], preset: str) -> None:
    """Strong connectivity takes one edge out of each network, if there are several. Ring c may need more."""
    members = tuple(sorted(f"{letter}{i}" for i, letter in enumerate(letters)))
    (digraph,) = GraphSpec(f"{preset}@a:b:c").period(members)
    between = [edge for edge in digraph.edges if edge[0][0] != edge[1][0]]
    assert digraph.unreachable_pairs() == []
    assert len(between) == (len(set(letters)) if len(set(letters)) > 1 else 0)


def test_members_without_a_network_share_one() -> None:
    networks = networks_of("a@a+d1:ab")
    assert networks == (("a", "d1"), ("ab",))
    assert grouped(["a1", "b1", "ab1", "c1", "d1", "d2"], networks) == [["a1", "d1"], ["ab1"], ["b1", "c1", "d2"]]


@pytest.mark.parametrize(
    "wrong",
    ["a@", "a@b:", "a@b:b", "a@b c", "a@b*", "a@b@c", "a@b+b", "a@b++c", "a@" + ":".join(f"n{i}" for i in range(257))],
)
def test_malformed_networks_are_refused(wrong: str) -> None:
    with pytest.raises(GraphError, match=r"as in a@pi-1\+pi-4:pi-2\+pi-3"):
        GraphSpec(wrong)


def test_unknown_preset_is_refused_with_networks_too() -> None:
    with pytest.raises(GraphError, match="no graph named 'aa@x'; did you mean 'a'"):
        GraphSpec("aa@x")


def test_list_of_edges_may_have_the_name_of_a_file() -> None:
    spec = GraphSpec("a@b@c", (("n0", "n1"), ("n1", "n0")))
    assert (spec.preset, networks_of("a")) == ("", ())
    assert spec.period(("n0", "n1"))[0].edges == {("n0", "n1"), ("n1", "n0")}
