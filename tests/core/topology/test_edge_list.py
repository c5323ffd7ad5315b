"""Lists of edges: names, numbers and weights, and every error at once."""

from __future__ import annotations

import pytest

from edgenode.core.topology.edge_list import parse_edges
from edgenode.core.topology.graph import GraphSpec
from edgenode.errors import GraphError


def test_edge_list_has_the_name_and_edges_of_its_file() -> None:
    text = "# my graph\n\na b   # the first\nb -> c\nc->a\na, c\n"
    spec = parse_edges("mine.txt", text)
    assert spec == GraphSpec("mine.txt", (("a", "b"), ("b", "c"), ("c", "a"), ("a", "c")))
    (graph,) = spec.period(("a", "b", "c"))
    assert graph.out_neighbours("a") == ("b", "c")


def test_number_is_a_node_of_simulations_and_dashes_are_both_directions() -> None:
    spec = parse_edges("mine", "0 -- 1\n10 -> 1\n1 cam-2\ncam-2 -> 10")
    names = [
        ("node-0", "node-1"),
        ("node-1", "node-0"),
        ("node-10", "node-1"),
        ("node-1", "cam-2"),
        ("cam-2", "node-10"),
    ]
    assert spec.edges == tuple(names)


def test_third_column_is_the_weight_of_an_edge() -> None:
    spec = parse_edges("mine", "a -- b 0.25\nb -- c 0.5", "metropolis")
    assert (spec.rule, spec.given) == ("out-degree", (0.25, 0.25, 0.5, 0.5))
    (graph,) = spec.period(("a", "b", "c"))
    assert [graph.weight(node) for node in "abc"] == [0.75, 0.25, 0.5]
    assert graph.weight("b", "c") == 0.5


@pytest.mark.parametrize("line", ["a", "a b c", "a -> b -> c", "a ->", "a -- b -- c", "a b 0.1 0.2", "-- a b"])
def test_malformed_line_is_refused_with_its_number(line: str) -> None:
    with pytest.raises(GraphError, match=rf"mine.txt has 1 error:\n  line 3: expected .* got '{line}'"):
        parse_edges("mine.txt", f"# head\na b\n  {line}  \n")


def test_all_errors_are_named_at_once() -> None:
    with pytest.raises(GraphError) as refused:
        parse_edges("mine.txt", "a -- b 0.2\nc\nb -> a 0.3\nd d 0.1\nb c\n")
    assert str(refused.value).splitlines() == [
        "mine.txt has 4 errors:",
        "  line 2: expected 'sender receiver' or 'a -- b', and maybe a weight, got 'c'",
        "  line 5: no weight, and other edges have one",
        "  line 3: b->a is in line 1 already",
        "  line 4: d->d is a self-loop; every node has one already",
    ]


def test_long_list_of_errors_is_cut() -> None:
    with pytest.raises(GraphError, match=r"mine has 30 errors:(?s:.*)and 10 more\Z"):
        parse_edges("mine", "a\n" * 30)


def test_empty_list_and_weights_that_a_node_cannot_give_are_refused() -> None:
    with pytest.raises(GraphError, match=r"mine\.txt lists no edge"):
        parse_edges("mine.txt", "# nothing\n")
    with pytest.raises(GraphError, match=r"a node keeps a part: a gives 1\.1 in all"):
        parse_edges("mine", "a b 0.5\na c 0.6\nb a 0.5\nc a 0.5")
    with pytest.raises(GraphError, match=r"a->b has weight 1, c->a has weight nan"):
        parse_edges("mine", "a b 1\nb a 0.5\nc a nan")
