"""What a node takes, and what it refuses, of the result of an allreduce."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgenode.core.algorithm.compression import Compressor, Floats, Layout, Payload, Values, as_float32, keep_all
from edgenode.core.algorithm.partial_sums import LastPhase, PhaseResult
from edgenode.core.algorithm.phase_judgement import COMMON_TEST, OWN_DATA, judge, share_lost
from edgenode.core.algorithm.sparse_push import State, Weights
from edgenode.core.topology.allreduce import Allreduce, edges

SIZE = 600
LAYOUT = Layout((400, 150, 50))
DENSE = Compressor(keep_all, as_float32)
INITIAL = np.random.default_rng(0).standard_normal(SIZE, dtype=np.float32)
LIAR = 1
Lie = Callable[[Floats], Floats]


def phase(n: int, apart: float, seed: int = 0, lie: Lie | None = None) -> list[PhaseResult]:
    """The results of n nodes whose models went one way, and are so far from each other, as a share of the way.

    A liar changes the sums that it sends.
    """
    rng = np.random.default_rng(seed)
    way = rng.standard_normal(SIZE)
    models = [INITIAL + way + apart * rng.standard_normal(SIZE) for _ in range(n)]
    rates = rng.uniform(0.5, 2, n)
    states = [State((u * z).astype(np.float32), u=np.array([u])) for u, z in zip(rates, models, strict=True)]
    names = tuple(f"n{i}" for i in range(n))
    nodes, plan = [LastPhase(state, LAYOUT, n, DENSE) for state in states], Allreduce(0, names)
    for t, pairs in zip(range(plan.end), edges(n), strict=True):
        transfers = [plan.transfer(t, name) for name in names]
        sent = [travelled(*node.send(transfer, rng)) for node, transfer in zip(nodes, transfers, strict=True)]
        if lie is not None and transfers[LIAR].reduces:
            payload, u = sent[LIAR]
            sent[LIAR] = Payload(payload.counts, None, Values(lie(payload.numbers))), u
        for sender, receiver in pairs:
            nodes[receiver].mix(transfers[receiver], [(transfers[sender], *sent[sender])])
    results = [node.result for node in nodes]
    assert all(results)
    return [result for result in results if result is not None]


def travelled(payload: Payload, u: Weights) -> tuple[Payload, Weights]:
    """A message as its receiver has it, which shares no memory with the sender."""
    return Payload(payload.counts, None, Values(payload.numbers.copy())), u


def honest(results: list[PhaseResult]) -> list[PhaseResult]:
    return [result for node, result in enumerate(results) if node != LIAR]


@given(st.integers(3, 9), st.sampled_from([1e-3, 0.1, 0.3, 1.0, 10.0]), st.integers(0, 99))
@settings(max_examples=12)
def test_honest_average_is_never_far_away(n: int, apart: float, seed: int) -> None:
    for result in phase(n, apart, seed):
        assert judge(result, INITIAL, COMMON_TEST.lost, COMMON_TEST) is None
        assert judge(result, INITIAL, OWN_DATA.lost, OWN_DATA) is None
        assert judge(result, INITIAL, None, OWN_DATA) is None


def test_average_of_models_far_apart_is_worse_and_not_suspicious() -> None:
    for result in phase(4, apart=10.0):
        refusal = judge(result, INITIAL, 0.9, COMMON_TEST)
        assert refusal is not None and not refusal.is_suspicious
        assert refusal.reason.endswith("the models seem to be too far apart")


def test_loss_that_no_distance_explains_is_suspicious() -> None:
    for result in phase(4, apart=0.1):
        refusal = judge(result, INITIAL, 0.9, COMMON_TEST)
        assert refusal is not None and refusal.is_suspicious


@pytest.mark.parametrize("n", [3, 4, 5, 8, 13])
@pytest.mark.parametrize("factor", [-3.0, -1.0, 30.0, 1e12])
def test_one_liar_is_noticed_by_all_others(n: int, factor: float) -> None:
    """Whatever parts of the model its sums reach: a small loss is enough where the distance is not explained."""
    results = honest(phase(n, apart=0.05, lie=lambda x: (factor * x).astype(np.float32)))
    for result in results:
        refusal = judge(result, INITIAL, 0.15, COMMON_TEST)
        assert refusal is not None and refusal.is_suspicious
        assert judge(result, INITIAL, 0.05, COMMON_TEST) is None  # it did no harm


def test_liar_cannot_make_the_spread_larger() -> None:
    """Each other node receives a message that the liar has no part in."""
    of_truth, of_lies = phase(8, apart=0.2), phase(8, apart=0.2, lie=lambda x: np.full_like(x, 1e11))
    for node in range(8):
        if node != LIAR:
            told = [others.distance for others in of_lies[node].others]
            true = [others.distance for others in of_truth[node].others]
            assert sum(one == other for one, other in zip(told, true, strict=True)) == len(true) - 1
            assert max(told) > 1e6 * max(true)


def test_of_two_nodes_the_loss_decides() -> None:
    """The only message may be a lie, so it shows no spread."""
    result = phase(2, apart=0.1)[0]
    assert judge(result, INITIAL, 0.15, COMMON_TEST) is None
    refusal = judge(result, INITIAL, 0.3, COMMON_TEST)
    assert refusal is not None and not refusal.is_suspicious
    far = judge(replace(result, average=-3 * result.before), INITIAL, 0.15, COMMON_TEST)
    assert far is not None and far.is_suspicious


def test_good_average_may_lose_much_on_data_of_one_node() -> None:
    for result in phase(4, apart=0.3):
        assert judge(result, INITIAL, 3.0, OWN_DATA) is None
        assert judge(result, INITIAL, 5.0, OWN_DATA) is not None


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_average_that_is_not_finite_is_refused(number: float) -> None:
    result = phase(4, apart=0.1)[0]
    average = result.average.copy()
    average[7] = number
    for lost in (None, 0.0):
        refusal = judge(replace(result, average=average), INITIAL, lost, OWN_DATA)
        assert refusal is not None and refusal.is_suspicious


def test_without_a_loss_only_what_is_beyond_all_models_is_refused() -> None:
    result = phase(4, apart=0.1)[0]
    assert judge(replace(result, average=-3 * result.average), None, None, OWN_DATA) is not None
    assert judge(replace(result, average=0.5 * result.average), None, None, OWN_DATA) is None


def test_model_that_training_has_not_moved_is_judged() -> None:
    result = phase(4, apart=0.0)[0]
    assert judge(replace(result, average=result.before), result.before, None, COMMON_TEST) is None
    assert judge(replace(result, average=2 * result.before), result.before, None, COMMON_TEST) is not None


def test_share_lost_is_a_share_of_what_training_gained() -> None:
    assert share_lost(1.0, 0.2, 0.6) == pytest.approx(0.5)
    assert share_lost(1.0, 0.2, 0.1) == pytest.approx(-0.125)
    assert share_lost(1.0, 1.0, 0.5) is None
    assert share_lost(1.0, 0.2, float("nan")) == float("inf")
