"""Recursive doubling, on exact numbers: the mean of all for every n, and no change lost by what messages leave out."""

from __future__ import annotations

from fractions import Fraction

import pytest

from edgenode.core.topology.doubling import NAME, edges, weights
from edgenode.core.topology.graph import GraphSpec

SIZES = [*range(1, 34), 63, 64, 65, 127, 1000, 1024]


def members(n: int) -> tuple[str, ...]:
    return tuple(f"n{i:04d}" for i in range(n))


@pytest.mark.parametrize("n", SIZES)
def test_an_exchange_takes_the_fewest_rounds_with_a_message_to_each_node(n: int) -> None:
    rounds = edges(n)
    assert len(rounds) == max(1, (n - 1).bit_length())
    for t, pairs in enumerate(rounds):
        receivers = [receiver for _, receiver in pairs]
        assert len(receivers) == len(set(receivers)), "a node receives two messages"
        assert n == 1 or t == 0 or len(receivers) == n, "a node waits after the first round"
        sent = [sum(sender == node for sender, _ in pairs) for node in range(n)]
        assert max(sent) <= 2


@pytest.mark.parametrize("n", SIZES)
def test_all_nodes_end_with_the_mean_whatever_messages_leave_out(n: int) -> None:
    """Nodes that hold one number send the same part of it. What they leave out counts 1 / n for each of them."""
    held = {i: Fraction(i * i + 1) for i in range(n)}
    mean, left_out = sum(held.values()) / n, Fraction(0)
    for pairs, weight in zip(edges(n), weights(n), strict=True):
        counted = {i: Fraction(w).limit_denominator(2 * n) for i, w in weight.items()}
        sent = {i: held[i] - Fraction(hash(held[i]) % 7, 7) for i in held}
        left_out += sum(held[i] - sent[i] for i in held) / n
        arrived = {receiver: sender for sender, receiver in pairs}
        held = {
            i: sent[i] * counted.get(i, 1) + (sent[arrived[i]] * counted[arrived[i]] if i in arrived else 0)
            for i in held
        }
    assert len(set(held.values())) == 1
    assert held[0] + left_out == mean


@pytest.mark.parametrize("n", [1, 2, 4, 8, 16, 64, 1024])
def test_powers_of_two_use_the_graphs_of_halving(n: int) -> None:
    assert GraphSpec(NAME).period(members(n)) == GraphSpec("halving").period(members(n))


def test_uneven_groups_count_as_their_nodes_do() -> None:
    first, second = GraphSpec(NAME).period(("a", "b", "c"))
    assert first.edges == {("a", "c"), ("c", "a")}
    assert [first.weight(node) for node in "abc"] == [0.5, 1.0, 0.5]
    assert second.edges == {("b", "a"), ("b", "c"), ("a", "b")}
    assert [second.weight(node) for node in "abc"] == [2 / 3, 1 / 3, 2 / 3]
