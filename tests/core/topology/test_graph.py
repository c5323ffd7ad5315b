"""Digraphs, presets and edge lists."""

from __future__ import annotations

from collections.abc import Callable

import networkx as nx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgenode.core.topology.graph import PRESETS, Digraph, GraphSpec, Preset, describe_unreachable
from edgenode.errors import GraphError

FOUR = ("0", "1", "2", "3")


def members(n: int) -> tuple[str, ...]:
    return tuple(f"n{i:02d}" for i in range(n))


def edges(name: str, nodes: tuple[str, ...] = FOUR) -> list[set[str]]:
    return [{a + b for a, b in graph.edges} for graph in GraphSpec(name).period(nodes)]


@st.composite
def digraphs(draw: st.DrawFn) -> Digraph:
    nodes = members(draw(st.integers(1, 7)))
    pairs = [(a, b) for a in nodes for b in nodes if a != b]
    chosen = draw(st.sets(st.sampled_from(pairs))) if pairs else set()
    return Digraph(nodes, frozenset(chosen))


@pytest.mark.parametrize(
    ("name", "rounds"),
    [
        ("a", [{"01", "12", "23", "30"}]),
        ("b", [{"03", "32", "21", "10"}]),
        ("c", [{"02", "21", "13", "30"}]),
        ("chord", [{"01", "12", "23", "30", "02"}]),
        ("exponential", [{"01", "12", "23", "30", "02", "13", "20", "31"}]),
        ("one-peer-exponential", [{"01", "12", "23", "30"}, {"02", "13", "20", "31"}]),
        ("halving", [{"02", "13", "20", "31"}, {"01", "10", "23", "32"}]),
        ("complete", [{a + b for a in FOUR for b in FOUR if a != b}]),
    ],
)
def test_presets_on_four_nodes(name: str, rounds: list[set[str]]) -> None:
    assert edges(name) == rounds


def test_exponential_hops_are_the_powers_of_two_below_n() -> None:
    assert edges("exponential", tuple("abcdef"))[0] >= {"ab", "ac", "ae"}
    assert len(edges("one-peer-exponential", tuple("abcdef"))) == 3
    assert len(edges("one-peer-exponential", tuple("abcdefgh"))) == 3
    assert len(edges("one-peer-exponential", tuple("abcdefghi"))) == 4


@pytest.mark.parametrize("n", range(1, 13))
@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_strongly_connected_over_its_period(name: str, n: int) -> None:
    first, *others = GraphSpec(name).period(members(n))
    for other in others:
        first = first.union(other)
    assert first.unreachable_pairs() == []


@pytest.mark.parametrize("n", range(1, 13))
@pytest.mark.parametrize("name", ["a", "b", "c"])
def test_each_ring_is_a_hamiltonian_cycle(name: str, n: int) -> None:
    (graph,) = GraphSpec(name).period(members(n))
    assert len(graph.edges) == (n if n > 1 else 0)
    assert all(len(graph.in_neighbours(m)) == len(graph.out_neighbours(m)) == min(1, n - 1) for m in graph.nodes)


@pytest.mark.parametrize("n", range(4, 13))
def test_three_rings_differ(n: int) -> None:
    assert len({GraphSpec(name).period(members(n)) for name in "abc"}) == 3


@pytest.mark.parametrize("n", range(3, 13))
def test_chord_is_unbalanced(n: int) -> None:
    (graph,) = GraphSpec("chord").period(members(n))
    assert graph.mixing_matrix().sum(axis=1) != pytest.approx(np.ones(n))


@pytest.mark.parametrize("n", range(2, 13))
def test_each_phase_of_the_one_peer_exponential_is_a_permutation(n: int) -> None:
    for graph in GraphSpec("one-peer-exponential").period(members(n)):
        assert {s for s, _ in graph.edges} == {r for _, r in graph.edges} == set(graph.nodes)
        assert len(graph.edges) == n


def test_halving_of_an_odd_number_pushes_twice_to_one_node() -> None:
    assert edges("halving", tuple("01234")) == [
        {"03", "14", "23", "30", "41"}, {"02", "12", "20", "34", "43"}, {"01", "10"}
    ]  # fmt: skip


@pytest.mark.parametrize("n", [*range(1, 101), 127, 128, 129])
def test_halving_averages_exactly_with_one_push_a_round(n: int) -> None:
    """All weights are powers of two, so that float64 holds x and u without an error."""
    x = np.random.default_rng(n).integers(-1000, 1000, (n, 3)).astype(float)
    u = np.random.default_rng(n + 1).integers(1, 9, n).astype(float)
    mean = x.sum(axis=0) / u.sum()
    graphs = GraphSpec("halving").period(members(n))
    assert len(graphs) == max(1, (n - 1).bit_length())
    for graph in graphs:
        assert all(len(graph.out_neighbours(node)) <= 1 and len(graph.in_neighbours(node)) <= 2 for node in graph.nodes)
        x, u = graph.mixing_matrix() @ x, graph.mixing_matrix() @ u
    assert (x / u[:, None] == mean).all()


@pytest.mark.parametrize("n", range(1, 130))
def test_halving_never_leaves_a_node_with_little_weight(n: int) -> None:
    u = np.ones(n)
    for graph in GraphSpec("halving").period(members(n)):
        u = graph.mixing_matrix() @ u
        assert u.min() > 0.25
    assert 0.5 < u.min() <= u.max() < 2


def test_presets_adapt_to_the_members() -> None:
    assert edges("a", ("x", "y", "z")) == [{"xy", "yz", "zx"}]
    assert edges("a", ("x", "z")) == [{"xz", "zx"}]


@given(digraphs())
def test_columns_of_the_mixing_matrix_sum_to_one(graph: Digraph) -> None:
    matrix = graph.mixing_matrix()
    assert (matrix >= 0).all()
    assert matrix.sum(axis=0) == pytest.approx(np.ones(len(graph.nodes)), abs=1e-15)


@given(digraphs())
def test_sender_weighs_itself_and_every_receiver_equally(graph: Digraph) -> None:
    matrix = graph.mixing_matrix()
    for j, sender in enumerate(graph.nodes):
        for i, receiver in enumerate(graph.nodes):
            pushes = sender == receiver or (sender, receiver) in graph.edges
            assert matrix[i, j] == (graph.weight(sender) if pushes else 0)


@given(digraphs())
def test_neighbours_are_the_edges_sorted(graph: Digraph) -> None:
    for node in graph.nodes:
        assert graph.out_neighbours(node) == tuple(sorted(r for s, r in graph.edges if s == node))
        assert graph.in_neighbours(node) == tuple(sorted(s for s, r in graph.edges if r == node))


def test_unknown_node_has_no_neighbours() -> None:
    graph = Digraph(("a",), frozenset())
    assert graph.in_neighbours("x") == graph.out_neighbours("x") == ()


@given(digraphs())
def test_unreachable_pairs_are_those_without_a_path(graph: Digraph) -> None:
    reference = nx.DiGraph(list(graph.edges))
    reference.add_nodes_from(graph.nodes)
    expected = [(a, b) for a in graph.nodes for b in graph.nodes if not nx.has_path(reference, a, b)]
    assert graph.unreachable_pairs() == expected


def test_unreachable_pairs_of_no_nodes_are_none() -> None:
    assert Digraph((), frozenset()).unreachable_pairs() == []


def test_unreachable_pairs_are_named_and_the_many_counted() -> None:
    assert describe_unreachable([("a", "b"), ("a", "c")]) == "a->b, a->c"
    pairs = Digraph(members(4), frozenset()).unreachable_pairs()
    assert describe_unreachable(pairs, limit=2) == "n00->n01, n00->n02 and 10 more"


def test_union_has_the_edges_of_both() -> None:
    one, two = Digraph(("a", "b"), frozenset({("a", "b")})), Digraph(("a", "b"), frozenset({("b", "a")}))
    assert one.union(two) == Digraph(("a", "b"), frozenset({("a", "b"), ("b", "a")}))


def test_edge_to_an_unknown_node_is_named() -> None:
    with pytest.raises(GraphError, match="edge a->x names an unknown node 'x'"):
        Digraph(("a", "b"), frozenset({("a", "x")}))
    with pytest.raises(GraphError, match="edge x->a names an unknown node 'x'"):
        GraphSpec("mine", (("x", "a"),)).period(("a", "b"))


def test_all_wrong_edges_are_named_at_once() -> None:
    edges = (("a", "x"), ("b", "b"), ("y", "x"), ("a", "b"))
    with pytest.raises(GraphError) as refused:
        GraphSpec("mine", edges).period(("a", "b"))
    assert str(refused.value) == (
        "edge a->x names an unknown node 'x'; edge b->b is a self-loop; every node has one already; "
        "edge y->x names an unknown node 'y' and 'x'"
    )


def test_self_loop_is_refused() -> None:
    with pytest.raises(GraphError, match="edge a->a is a self-loop"):
        Digraph(("a", "b"), frozenset({("a", "a")}))


def test_duplicate_edge_is_named() -> None:
    with pytest.raises(GraphError, match="graph 'mine' lists the edge a->b twice"):
        GraphSpec("mine", (("a", "b"), ("b", "a"), ("a", "b")))


def test_unknown_preset_is_refused_with_suggestions() -> None:
    with pytest.raises(GraphError, match="no graph named 'chrod'; did you mean 'chord'") as refused:
        GraphSpec("chrod")
    assert all(name in str(refused.value) for name in PRESETS)
    with pytest.raises(GraphError, match="no graph named 'zzz'; presets are a, b, c"):
        GraphSpec("zzz")


def test_four_presets_change_each_round() -> None:
    changing = [name for name in PRESETS if len(GraphSpec(name).period(members(8))) > 1]
    assert changing == ["one-peer-exponential", "halving", "doubling", "allreduce"]


# --- presets of extensions


@pytest.mark.parametrize(
    ("edges", "reason"),
    [
        (lambda n: [[(0, n)]], r"graph odd cannot be made for 3 nodes: KeyError: 3"),
        (lambda n: [[(0, -1)]], r"graph odd cannot be made for 3 nodes: KeyError: -1"),
        (lambda n: [], r"graph odd cannot be made for 3 nodes: ValueError: its period has no round"),
        (lambda n: 1 / 0, r"graph odd cannot be made for 3 nodes: ZeroDivisionError: division by zero"),
        (lambda n: [[(0, 0)]], r"edge x->x is a self-loop"),
    ],
)
def test_preset_that_gives_no_graph_is_refused(
    monkeypatch: pytest.MonkeyPatch, edges: Callable[[int], list[list[tuple[int, int]]]], reason: str
) -> None:
    monkeypatch.setitem(PRESETS, "odd", Preset(edges, "of a test"))
    with pytest.raises(GraphError, match=reason):
        GraphSpec("odd").period(("x", "y", "z"))
