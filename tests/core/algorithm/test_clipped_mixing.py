"""Clipped mixing: the papers' rules where messages are whole models, and a limit for liars where they are not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgenode.core.algorithm.algorithm_spec import AlgorithmSpec
from edgenode.core.algorithm.clipped_mixing import ClippedMixing, clipped
from edgenode.core.algorithm.compression import Compressor, Layout, Payload, TopK, Values, as_float32, keep_all
from edgenode.core.algorithm.learner import VectorLearner
from edgenode.core.algorithm.poison_alarm import PoisonAlarm
from edgenode.core.algorithm.rounding import as_int8
from edgenode.core.algorithm.sparse_push import Contribution, LocalUpdate
from tests.algorithm_references import balance_accepts, clipped_gossip

SIZE, NODES = 400, 5
LAYOUT = Layout((300, 100))
MODEL = np.random.default_rng(0).normal(size=SIZE).astype(np.float32)
DENSE = AlgorithmSpec(Compressor(keep_all, as_float32), 1.0, 100)
SPARSE = AlgorithmSpec(Compressor(TopK(0.05), as_int8), 0.025, 400)
ROLLING = AlgorithmSpec(Compressor(keep_all, as_float32), 1.0, 100, blocks=4)
Lie = Callable[[Contribution], Contribution]


def whole(model: NDArray[np.float32], u: float = 1.0, weight: float = 0.2) -> Contribution:
    return Contribution(weight, np.array([u]), Payload(np.array([300, 100]), None, Values(model)))


def a_learner(spec: AlgorithmSpec = DENSE, model: NDArray[np.float32] = MODEL) -> VectorLearner:
    learner = VectorLearner(spec, LAYOUT, spec.initial(model), 1, "n0")
    learner.compress_update(0, None)
    return learner


class Complete:
    """Nodes on the complete graph, each of which trains a little at random. The last one may lie."""

    def __init__(self, spec: AlgorithmSpec, liars: int, nodes: int = NODES) -> None:
        self.rng, self.round = np.random.default_rng(3), 0
        self.learners = [VectorLearner(spec, LAYOUT, spec.initial(MODEL), 1, f"n{i}") for i in range(nodes)]
        self.alarms = [PoisonAlarm(learner, liars=liars) for learner in self.learners]

    def step(self, lie: Lie = lambda sent: sent) -> None:
        weight = 1 / len(self.learners)
        sent = []
        for learner in self.learners:
            update = LocalUpdate(self.rng.normal(scale=0.02, size=SIZE).astype(np.float32), is_difference=True)
            sent.append(learner.compress_update(self.round, update))
        for i, (learner, alarm) in enumerate(zip(self.learners, self.alarms, strict=True)):
            received = [(j, learner.read(self.round, weight, u, data)) for j, (data, u) in enumerate(sent) if j != i]
            told = [(f"n{j}", 0, lie(c) if j == len(sent) - 1 else c) for j, c in received]
            learner.mix_round(weight, alarm.inspect(told, len(sent))[0])
        self.round += 1

    @property
    def drift(self) -> float:
        """How far the honest nodes are from where they began, as a multiple of its length."""
        mean = np.mean([learner.model() for learner in self.learners[:-1]], axis=0)
        return float(np.linalg.norm(mean - MODEL) / np.linalg.norm(MODEL))


def scaled(factor: float) -> Lie:
    def lie(sent: Contribution) -> Contribution:
        numbers = (np.float32(factor) * sent.payload.numbers).astype(np.float32)
        return Contribution(sent.weight, sent.u, Payload(sent.payload.counts, sent.payload.indices, Values(numbers)))

    return lie


@given(
    seed=st.integers(0, 10_000), spread=st.lists(st.floats(0.01, 3), min_size=3, max_size=8), liars=st.integers(1, 3)
)
def test_whole_models_are_mixed_as_the_papers_do(seed: int, spread: list[float], liars: int) -> None:
    rng = np.random.default_rng(seed)
    others = [MODEL + (s * rng.normal(size=SIZE)).astype(np.float32) for s in spread]
    weight = 1 / (len(others) + 1)
    learner = a_learner()
    received = [(f"m{i}", 0, whole(model, weight=weight)) for i, model in enumerate(others)]
    learner.mix_round(weight, PoisonAlarm(learner, liars=liars).inspect(received, 9)[0])

    own, models = MODEL.astype(np.float64), np.array(others, dtype=np.float64)
    radius = sorted(np.linalg.norm(models - own, axis=1))[max(0, len(models) - 1 - liars)]
    accepted = balance_accepts(own, models, gamma=1.25 * (1 + 1e-6) * radius / float(np.linalg.norm(own)))
    expected = clipped_gossip(own, models[accepted], np.full(int(accepted.sum()), weight), radius)
    assert learner.model() == pytest.approx(expected, rel=1e-3, abs=1e-3)


@given(st.integers(1, 4).flatmap(lambda f: st.tuples(
    st.lists(st.floats(1e-3, 1e3), min_size=f + 1, max_size=9), st.lists(st.floats(0, 1e9), min_size=f, max_size=f)
)))  # fmt: skip
def test_no_lie_moves_the_radius_out_of_the_honest_distances(distances: tuple[list[float], list[float]]) -> None:
    honest, lies = distances
    shares = clipped([*honest, *lies], len(lies))
    moved = [share * distance for share, distance in zip(shares, [*honest, *lies], strict=True)]
    assert max(moved) <= max(honest) * (1 + 1e-9)
    assert all(share == 1 for share, d in zip(shares, honest, strict=False) if d <= min(honest))


def test_messages_of_equal_nodes_are_mixed_as_they_are() -> None:
    learner = a_learner()
    received = [(f"m{i}", 0, whole(MODEL, u=1 + i * 1e-15)) for i in range(4)]
    mixed, _ = PoisonAlarm(learner, liars=1).inspect(received, 5)
    assert mixed == [contribution for _, _, contribution in received]


@pytest.mark.parametrize("spec", [DENSE, SPARSE, ROLLING], ids=["dense", "sparse", "rolling"])
def test_sum_of_u_is_conserved_and_honest_nodes_learn_the_same(spec: AlgorithmSpec) -> None:
    plain, limited = Complete(spec, 0), Complete(spec, 1)
    for _ in range(40):
        plain.step()
        limited.step()
    for learner in limited.learners:
        assert learner.state.u == pytest.approx(np.ones_like(learner.state.u), abs=1e-12)
    one, other = (np.mean([node.model() for node in run.learners], axis=0) for run in (plain, limited))
    assert np.linalg.norm(one - other) < 0.02 * np.linalg.norm(one)


@pytest.mark.slow
@pytest.mark.parametrize("factor", [-3.9, 0.0])
def test_liar_below_the_alarm_leads_nobody_away(factor: float) -> None:
    honest, plain, limited = Complete(SPARSE, 0), Complete(SPARSE, 0), Complete(SPARSE, 1)
    for _ in range(120):
        honest.step()
        plain.step(scaled(factor))
        limited.step(scaled(factor))
    assert plain.drift > 2 * honest.drift
    assert limited.drift < 1.3 * honest.drift


@pytest.mark.parametrize("u", [0.26, 2.0, 15.0])
def test_false_u_changes_no_u(u: float) -> None:
    learner = a_learner()
    received = [("m0", 0, whole(MODEL)), ("m1", 0, whole(MODEL)), ("m2", 0, whole(np.float32(u) * MODEL, u=u))]
    assert ClippedMixing(learner, 1).shares(received) == [1, 1, 0]


def test_unbalanced_u_of_honest_nodes_is_mixed() -> None:
    learner = a_learner()
    received = [(f"m{i}", 0, whole(np.float32(u) * MODEL, u=u)) for i, u in enumerate((0.8, 1.1, 1.3, 0.7))]
    assert min(ClippedMixing(learner, 1).shares(received)) == 1


def test_echo_does_not_isolate_a_node() -> None:
    rng = np.random.default_rng(1)
    others = [MODEL + rng.normal(size=SIZE).astype(np.float32) for _ in range(2)]
    learner = a_learner()
    received = [(f"m{i}", 0, whole(model)) for i, model in enumerate([*others, MODEL])]
    assert min(ClippedMixing(learner, 1).shares(received)) > 0.8


def test_handoff_is_left_out() -> None:
    learner = a_learner()
    alarm = PoisonAlarm(learner, liars=1)
    assert alarm.inspect([("m0", 0, whole(MODEL, weight=1.0))], 4) == ([], [])


def test_neighbour_that_is_not_heard_or_joins_again_begins_anew() -> None:
    learner = a_learner()
    mixing = ClippedMixing(learner, 1)
    mixing.shares([("m0", 0, whole(MODEL)), ("m1", 0, whole(MODEL))])
    mixing.shares([("m0", 1, whole(MODEL)), ("m2", 0, whole(MODEL))])
    assert set(learner.snapshot(0).vectors) == {"x", "away.m0.1", "away.m2.0"}
