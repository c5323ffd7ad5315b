"""Averaging rates and the steps of SP and SCSP."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgenode.core.algorithm.algorithm_spec import (
    UNCOMPRESSED,
    AlgorithmSpec,
    RateSchedule,
    RoundStep,
    gossip_rounds_needed,
)
from edgenode.core.algorithm.compression import Compressor, Layout, TopK, keep_all
from edgenode.core.algorithm.rounding import as_int8
from edgenode.core.algorithm.update_rules import SPARSE_PUSH, default_averaging_rate
from edgenode.core.topology.graph import GraphSpec
from edgenode.errors import ConfigError

COMPRESSED = Compressor(TopK(0.01), as_int8)
TABLE_5 = {1.0: 1.0, 0.5: 0.08, 0.1: 0.01, 0.01: 0.005, 0.001: 0.001}


@pytest.mark.parametrize(("share", "rate"), TABLE_5.items())
def test_default_averaging_rates_are_those_of_table_5(share: float, rate: float) -> None:
    assert default_averaging_rate(share) == pytest.approx(rate, rel=1e-14, abs=0)


def test_default_rate_is_log_interpolated_in_table_5() -> None:
    assert default_averaging_rate(math.sqrt(0.1 * 0.01)) == pytest.approx(math.sqrt(0.01 * 0.005))


@given(st.tuples(st.floats(1e-6, 1.0), st.floats(1e-6, 1.0)))
def test_default_rate_grows_with_the_kept_share(shares: tuple[float, float]) -> None:
    low, high = map(default_averaging_rate, sorted(shares))
    assert 0 < low <= high * (1 + 1e-12)


@given(st.floats(1e-6, 1.0))
def test_default_rate_never_exceeds_the_kept_share(share: float) -> None:
    assert default_averaging_rate(share) <= share * (1 + 1e-12)


def test_sparse_push_trains_in_every_round() -> None:
    algorithm_spec = AlgorithmSpec(COMPRESSED, 0.005, training_rounds=3)
    assert algorithm_spec.rounds == 3
    assert [algorithm_spec.step(t) for t in range(3)] == [RoundStep(True, COMPRESSED, 0.005)] * 3


def rates(algorithm_spec: AlgorithmSpec) -> list[float]:
    return [algorithm_spec.step(t).averaging_rate for t in range(algorithm_spec.rounds)]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (RateSchedule(), [0.5, 0.5, 0.5, 0.5, 0.5]),
        (RateSchedule(warmup=2), [0.25, 0.5, 0.5, 0.5, 0.5]),
        (RateSchedule(decay=1.0), [0.5, 0.25, 0.5 / 3, 0.125, 0.1]),
        (RateSchedule(warmup=2, decay=0.5), [0.25, 0.5, 0.5, 0.5 / math.sqrt(2), 0.5 / math.sqrt(3)]),
    ],
)
def test_averaging_rate_follows_its_schedule(schedule: RateSchedule, expected: list[float]) -> None:
    assert rates(AlgorithmSpec(COMPRESSED, 0.5, 5, rates=schedule)) == pytest.approx(expected)
    longer = rates(AlgorithmSpec(COMPRESSED, 0.5, 9, rates=schedule))
    assert longer[:5] == pytest.approx(expected)


def test_rule_may_have_a_schedule_of_its_own() -> None:
    rule = replace(SPARSE_PUSH, rate_at=lambda rate, t: rate / 2**t)
    spec = AlgorithmSpec(COMPRESSED, 1.0, 3, 1, rule=rule, rates=RateSchedule(warmup=2))
    assert rates(spec) == [0.5, 0.5, 0.25, 1.0]  # the last phase averages fully


def test_scsp_drops_the_error_and_gossips_uncompressed() -> None:
    algorithm_spec = AlgorithmSpec(COMPRESSED, 0.005, training_rounds=2, gossip_rounds=3)
    assert algorithm_spec.rounds == 5
    assert [algorithm_spec.step(t) for t in range(5)] == [
        RoundStep(True, COMPRESSED, 0.005),
        RoundStep(True, COMPRESSED, 0.005),
        RoundStep(False, UNCOMPRESSED, 1.0, drops_error=True),
        RoundStep(False, UNCOMPRESSED, 1.0),
        RoundStep(False, UNCOMPRESSED, 1.0),
    ]


def test_gossip_in_few_bits_begins_every_round_without_an_error() -> None:
    in_bytes = Compressor(keep_all, as_int8)
    algorithm_spec = AlgorithmSpec(COMPRESSED, 0.005, 1, gossip_rounds=2, gossip_compressor=in_bytes)
    assert [algorithm_spec.step(t) for t in (1, 2)] == [RoundStep(False, in_bytes, 1.0, drops_error=True)] * 2


def test_uncompressed_is_the_identity() -> None:
    vector = np.array([1, -0.5, 0], dtype=np.float32)
    payload = UNCOMPRESSED(vector, Layout((1, 2)), np.random.default_rng(0))
    assert payload.indices is None
    assert np.array_equal(payload.dense(3), vector)


@pytest.mark.parametrize(("nodes", "rounds"), [(4, 21), (8, 97), (16, 391)])
def test_gossip_rounds_needed_on_a_ring(nodes: int, rounds: int) -> None:
    assert gossip_rounds_needed(GraphSpec("a"), nodes, 1e-3) == rounds


@pytest.mark.parametrize("spec", ["a", "chord", "one-peer-exponential"])
def test_gossip_rounds_needed_are_the_least_that_suffice(spec: str) -> None:
    """The worst vectors are the unit vectors. For one of them one round fewer is not enough."""
    nodes, tolerance = 6, 1e-2
    graphs = GraphSpec(spec).period(tuple("abcdef"))

    def worst(rounds: int) -> float:
        x, u = np.eye(nodes), np.ones(nodes)
        for _, graph in zip(range(rounds), itertools.cycle(graphs), strict=False):
            x, u = graph.mixing_matrix() @ x, graph.mixing_matrix() @ u
        return float(np.abs(x / u[:, None] * nodes - 1).max())

    needed = gossip_rounds_needed(GraphSpec(spec), nodes, tolerance)
    assert worst(needed) <= tolerance < worst(needed - 1)


@pytest.mark.parametrize("nodes", [1, 2, 4, 8, 16])
def test_one_peer_exponential_averages_a_power_of_two_exactly(nodes: int) -> None:
    assert gossip_rounds_needed(GraphSpec("one-peer-exponential"), nodes, 0.0) == math.log2(nodes)


@pytest.mark.parametrize("nodes", [1, 2, 3, 5, 6, 7, 12, 100])
def test_halving_averages_every_number_of_nodes_exactly(nodes: int) -> None:
    assert gossip_rounds_needed(GraphSpec("halving"), nodes, 0.0) == (nodes - 1).bit_length()


def test_tolerance_beyond_float64_is_refused() -> None:
    with pytest.raises(ConfigError, match="graph a does not reach a consensus of 1e-18 on 5 nodes"):
        gossip_rounds_needed(GraphSpec("a"), 5, 1e-18)
