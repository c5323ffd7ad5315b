"""The learner: what it tells an update rule of a round, and messages of several vectors."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgenode.core.algorithm.algorithm_spec import UNCOMPRESSED, AlgorithmSpec
from edgenode.core.algorithm.compression import Compressor, Floats, Layout, TopK, as_float32, keep_all
from edgenode.core.algorithm.learner import VectorLearner
from edgenode.core.algorithm.rounding import as_bfloat16, as_int8
from edgenode.core.algorithm.sparse_push import (
    LocalUpdate,
    State,
    compress_with_feedback,
    descend,
    mix_contributions,
)
from edgenode.core.algorithm.update_rules import SPARSE_PUSH, UpdateRule
from edgenode.core.topology.graph import Digraph, GraphSpec
from edgenode.errors import RemoteProtocolError

LAYOUT = Layout((3, 5))
STEP = LocalUpdate(np.ones(LAYOUT.size, np.float32), is_difference=True)


def test_rule_knows_the_round_of_each_part_of_it() -> None:
    """Two rounds are pushed before the first is mixed, as with an overlap. A round exchanges one block of four."""
    calls: list[tuple[str, int]] = []

    def noted(name, function):  # type: ignore[no-untyped-def]
        def part(state, *arguments):  # type: ignore[no-untyped-def]
            calls.append((name, state.round))
            return function(state, *arguments)

        return part

    rule = replace(
        SPARSE_PUSH,
        apply_update=noted("update", descend),
        compress=noted("compress", compress_with_feedback),
        mix=noted("mix", mix_contributions),
    )
    spec = AlgorithmSpec(UNCOMPRESSED, 1.0, 9, blocks=4, rule=rule)
    learner = VectorLearner(spec, LAYOUT, spec.initial(np.zeros(LAYOUT.size, np.float32)), 0, "a")
    for t in (5, 6):
        learner.start()
        learner.compress_update(t, STEP)
    learner.mix_round(0.5, [])
    learner.mix_round(0.5, [])
    pushed = [(name, t) for t in (5, 6) for name in ("update", "compress")]
    assert calls == [*pushed, ("mix", 5), ("mix", 6)]


# --- messages of several vectors


def track(state: State, step: Floats) -> None:
    state.kept["tracker"] += step
    state.x += state.kept["tracker"]


TRACKED = replace(SPARSE_PUSH, keeps=("error", "tracker"), sends=("x", "tracker"), apply_update=track)
COMPRESSORS = st.builds(
    Compressor, st.sampled_from([keep_all, TopK(0.3)]), st.sampled_from([as_float32, as_bfloat16, as_int8])
)


def learners_of(compressor: Compressor, blocks: int = 1, rule: UpdateRule = TRACKED) -> dict[str, VectorLearner]:
    rate = 1.0 if compressor.select is keep_all else 0.05
    spec = AlgorithmSpec(compressor, rate, 50, blocks=blocks, rule=rule)
    model = np.random.default_rng(0).standard_normal(LAYOUT.size).astype(np.float32)
    return {name: VectorLearner(spec, LAYOUT, spec.initial(model), 0, name) for name in "abcd"}


def masses(learners: dict[str, VectorLearner]) -> np.ndarray:
    """The sums of x, tracker and u over all nodes."""
    states = [learner.state for learner in learners.values()]
    return np.sum([np.concatenate([s.x, s.kept["tracker"], s.u], dtype=np.float64) for s in states], axis=0)


def play(learners: dict[str, VectorLearner], graph: Digraph, t: int, handed: str = "") -> None:
    """A round in which the nodes do not train. The node ``handed`` leaves, and a gets all that it has."""
    pushed = {name: learner.compress_update(t, None, handoff=name == handed) for name, learner in learners.items()}
    for name in sorted(set(learners) - {handed}):
        weights = {s: graph.weight(s, name) for s in graph.in_neighbours(name) if s != handed}
        if handed and name == "a":
            weights[handed] = 1.0
        received = [learners[name].read(t, weight, pushed[s][1], pushed[s][0]) for s, weight in weights.items()]
        learners[name].mix_round(graph.weight(name), received)


@settings(deadline=None, max_examples=40)
@given(COMPRESSORS, st.sampled_from([1, 3]), st.integers(0, 99))
def test_mixing_moves_each_vector_without_losing_any(compressor: Compressor, blocks: int, seed: int) -> None:
    """On an unbalanced graph. At the end a node leaves, and what the others sent to it is undone."""
    learners, rng = learners_of(compressor, blocks), np.random.default_rng(seed)
    (graph,) = GraphSpec("chord").period(tuple(learners))
    for learner in learners.values():
        learner.state.x += rng.standard_normal(LAYOUT.size).astype(np.float32)
        learner.state.kept["tracker"] += rng.standard_normal(LAYOUT.size).astype(np.float32)
    before = masses(learners)
    for t in range(5):
        play(learners, graph, t)
        assert masses(learners) == pytest.approx(before, abs=1e-4)
    play(learners, graph, 5, handed="d")
    del learners["d"]
    for sender in graph.in_neighbours("d"):
        learners[sender].undo_push(5, graph.weight(sender, "d"))
    assert masses(learners) == pytest.approx(before, abs=1e-4)


@pytest.mark.parametrize("compressor", [UNCOMPRESSED, Compressor(TopK(0.5), as_int8)])
def test_nodes_come_to_agree_on_both_vectors(compressor: Compressor) -> None:
    """What compression leaves out of each is part of its next message."""
    learners, (graph,) = learners_of(compressor), GraphSpec("two-way").period(tuple("abcd"))
    for number, learner in enumerate(learners.values()):
        learner.state.kept["tracker"][:] = number
    for t in range(60):
        play(learners, graph, t)
    trackers = [learner.state.kept["tracker"] for learner in learners.values()]
    assert np.mean(trackers, axis=0) == pytest.approx(np.full(LAYOUT.size, 1.5), abs=1e-4)
    assert np.ptp(trackers, axis=0).max() < 1  # it was 3


@pytest.mark.parametrize("compressor", [UNCOMPRESSED, Compressor(TopK(0.5), as_int8)])
def test_message_that_does_not_fit_the_number_of_vectors_is_refused(compressor: Compressor) -> None:
    alone = learners_of(compressor, rule=SPARSE_PUSH)["a"]
    both = learners_of(compressor)["b"]
    one, u = alone.compress_update(0, None)
    two, _ = both.compress_update(0, None)
    assert len(one) < len(two) <= both.max_bytes
    assert both.max_bytes > alone.max_bytes
    with pytest.raises(RemoteProtocolError):
        alone.read(0, 0.5, u, two)
    if compressor is UNCOMPRESSED:
        with pytest.raises(RemoteProtocolError, match="values of 16"):
            both.read(0, 0.5, u, one)


@pytest.mark.parametrize("sends", [(), ("x", "other"), ("x", "error")])
def test_rule_sends_only_vectors_that_it_has(sends: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="but it has x, tracker"):
        replace(TRACKED, sends=sends)
