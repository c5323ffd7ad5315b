"""The schedule of the last phase, on numbers: exact for every number of nodes, with two models sent at most."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgenode.core.topology.allreduce import NAME, Allreduce, Transfer, edges
from edgenode.core.topology.graph import GraphSpec
from edgenode.core.topology.schedule import Schedule

Numbers = NDArray[np.float64]


def phase(n: int, start: int = 0) -> Allreduce:
    return Allreduce(start, tuple(f"n{i:04d}" for i in range(n)))


def transfers(n: int) -> list[Transfer]:
    """What the node of rank 0 sends in each round. Node r sends the same, r parts further on."""
    of = phase(n)
    return [of.transfer(t, of.nodes[0]) for t in range(of.end)]


def averages(n: int, x: Numbers, u: Numbers, parts: NDArray[np.int64]) -> Numbers:
    """z of some parts at every node after the phase, [n, parts]: x and u are what the nodes hold of these parts."""
    x, u, mass = x.copy(), u.copy(), u.sum(axis=0)
    z = np.full(x.shape, np.nan)
    ranks = np.arange(n)[:, None]
    for step, round_edges in zip(transfers(n), edges(n), strict=True):
        hop = (round_edges[0][1] - round_edges[0][0]) % n
        sent = (parts - step.first - ranks) % n < step.count
        if step.reduces:
            for held in (x, u):
                arriving = np.where(sent, held, 0.0)
                held[sent] = 0  # it has left
                np.add(held, np.roll(arriving, hop, axis=0), out=held)
            assert np.isclose(u.sum(axis=0), mass).all(), "u is lost or doubled"
            continue
        owned = parts == ranks
        z[owned] = x[owned] / u[owned]
        assert not np.isnan(z[sent]).any(), "a node sends what it does not have"
        arriving, arrives = np.roll(np.where(sent, z, 0.0), hop, axis=0), np.roll(sent, hop, axis=0)
        assert np.isnan(z[arrives]).all(), "a node receives what it has"
        z[arrives] = arriving[arrives]
    return z


@pytest.mark.parametrize(
    "first", [*range(2, 258, 64), *(pytest.param(n, marks=pytest.mark.slow) for n in range(258, 1025, 64))]
)
def test_every_node_ends_with_the_average_of_all(first: int) -> None:
    for n in range(first, min(first + 64, 1025)):
        rng = np.random.default_rng(n)
        parts = np.unique([0, n - 1, *rng.integers(0, n, 6)])
        x, u = rng.standard_normal((n, len(parts))), rng.uniform(0.1, 2, (n, len(parts)))
        z = averages(n, x, u, parts)
        assert np.abs(z - x.sum(axis=0) / u.sum(axis=0)).max() < 1e-6
        assert (z == z[0]).all(), "to the bit"


@pytest.mark.parametrize("n", range(1, 33))
def test_all_parts_of_a_few_nodes_are_averaged(n: int) -> None:
    rng = np.random.default_rng(n)
    x, u = rng.standard_normal((n, n)), rng.uniform(0.1, 2, (n, n))
    if n > 1:
        assert np.allclose(averages(n, x, u, np.arange(n)), x.sum(axis=0) / u.sum(axis=0), rtol=0, atol=1e-9)


def test_at_most_two_models_are_sent_in_two_log_n_rounds() -> None:
    for n in range(2, 1025):
        sent, of = transfers(n), phase(n, start=7)
        assert sum(step.count for step in sent) == 2 * (n - 1)  # parts, of which a model has n
        assert sum(step.count > 0 for step in sent) == of.confirms_from - 7 == 2 * math.ceil(math.log2(n))
        assert len(sent) == of.end - 7 == 3 * math.ceil(math.log2(n))
        assert [step.begins for step in sent] == [True] + [False] * (len(sent) - 1)


@given(st.integers(2, 1024), st.data())
def test_a_node_sends_what_the_first_does_further_on(n: int, data: st.DataObject) -> None:
    rank, of = data.draw(st.integers(0, n - 1)), phase(n)
    for t, step in enumerate(transfers(n)):
        own = of.transfer(t, of.nodes[rank])
        assert own.first == (step.first + rank) % n
        assert (own.parts, own.count, own.reduces) == (n, step.count, step.reduces)
        inside = [part for begin, end in own.ranges for part in range(begin, end)]
        assert inside == [(own.first + i) % n for i in range(own.count)]


@pytest.mark.parametrize("n", [*range(1, 40), 100, 511, 512, 513, 1024])
def test_who_mixed_the_last_round_has_heard_of_all_that_confirm(n: int) -> None:
    heard = np.eye(n, dtype=bool)
    for step, round_edges in zip(transfers(n), edges(n), strict=n > 1):  # one node has no round
        if not step.count:
            heard |= heard[[sender for sender, _ in sorted(round_edges, key=lambda edge: edge[1])]]
    assert heard.all()


def test_a_schedule_of_1024_nodes_can_be_checked() -> None:
    Schedule((GraphSpec("a"),), 1, last=GraphSpec(NAME), last_from=5).check(phase(1024).nodes)
