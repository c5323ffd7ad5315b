"""In every order of delivery and with every change of plan: the numbers of the matrix form, and no mass lost.

Run as a script, it prints the digest of the transcript of one run, which must not depend on the hash seed.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgenode.core.algorithm.algorithm_spec import AlgorithmSpec
from edgenode.core.algorithm.compression import Compressor, Quantise, TopK, as_float32, keep_all
from edgenode.core.algorithm.rounding import Random, as_int8
from edgenode.core.algorithm.sparse_push import State
from edgenode.core.protocol.events import Extend, Rotate, Stop
from edgenode.core.protocol.plan.lag import Lag
from edgenode.core.protocol.plan.run_spec import RunSpec
from edgenode.core.topology.graph import Digraph, GraphSpec
from edgenode.core.topology.period import Period
from edgenode.core.topology.schedule import ScheduleSpec
from edgenode.errors import LocalProtocolError
from tests.simulation.cluster_sim import ClusterSim
from tests.simulation.exact_learner import ExactLearner
from tests.simulation.learners import TrackedVectorLearner
from tests.simulation.matrix_form import (
    LAYOUT,
    coarse_gradient,
    dense_reference,
    exact_reference,
    gradient,
    node_names,
)
from tests.simulation.scenario import Disturbance, Kill, LeaveRequest, LinkBreak, Scenario, Start

PRESETS = ("a", "b", "c", "chord", "exponential", "one-peer-exponential", "complete")
bounded = settings(derandomize=True, deadline=None, database=None)
few_and_many = pytest.mark.parametrize("examples", [12, pytest.param(100, marks=pytest.mark.slow)])


# --- strategies -------------------------------------------------------------------------------------


@st.composite
def rotations(draw: st.DrawFn, n: int) -> tuple[GraphSpec, ...]:
    """A rotation of presets; or the edges of a random strongly connected digraph, dealt to one or more graphs."""
    if draw(st.booleans()):
        return tuple(map(GraphSpec, draw(st.lists(st.sampled_from(PRESETS), min_size=1, max_size=3))))
    order = draw(st.permutations(node_names(n)))
    cycle = [(a, b) for a, b in zip(order, [*order[1:], order[0]], strict=True) if a != b]
    more = [(a, b) for a in node_names(n) for b in node_names(n) if a != b]
    edges = sorted({*cycle, *(draw(st.lists(st.sampled_from(more), max_size=4)) if more else [])})
    parts = draw(st.integers(1, 3))
    return tuple(GraphSpec(f"part{i}", tuple(edges[i::parts])) for i in range(parts))


@st.composite
def scenario(draw: st.DrawFn, n: int) -> Scenario:
    slow = draw(st.sampled_from([None, *node_names(n)]))
    return Scenario(
        seed=draw(st.integers(0, 2**32)),
        latency_s=(0.001, draw(st.sampled_from([0.01, 0.1, 1.0]))),
        lose=draw(st.sampled_from([0.0, 0.1, 0.4])),
        duplicate=draw(st.sampled_from([0.0, 0.3])),
        retry_s=draw(st.sampled_from([0.1, 1.0])),
        slow={slow: (0.3, 0.9)} if slow else {},
        window=draw(st.sampled_from([1, 2, 8])),
    )


@st.composite
def runs(draw: st.DrawFn, rounds: int) -> tuple[RunSpec, Scenario]:
    n = draw(st.integers(2, 6))
    schedule = ScheduleSpec(draw(rotations(n)), Period(draw(st.integers(1, 3))))
    return RunSpec("test", n, "digest", schedule, rounds), draw(scenario(n))


@st.composite
def overlapping(draw: st.DrawFn, run_spec: RunSpec, scenario: Scenario) -> tuple[RunSpec, Scenario]:
    """The run with an overlap, and with a window that may be as small as that allows."""
    lag = Lag(draw(st.integers(1, 4)), draw(st.sampled_from([0, 0, 3])))
    window = scenario.window + lag.overlap
    return replace(run_spec, lag=lag), replace(scenario, window=window, checkpoint_every=lag.drain_every)


@st.composite
def disturbed_runs(draw: st.DrawFn, rounds: int = 40) -> tuple[RunSpec, Scenario]:
    """Changes of plan at any time, broken links, and a controller that crashes and perhaps restarts."""
    run_spec, undisturbed = draw(runs(rounds))
    when = st.floats(2.5, 8)
    disturbances: list[tuple[float, Any]] = []
    for request_id in range(draw(st.integers(1, 6))):
        graphs, every = draw(rotations(run_spec.nodes)), draw(st.integers(1, 3))
        change: Disturbance = Rotate(request_id, graphs, Period(every))
        match draw(st.integers(0, 9)):
            case 0:
                change = Stop(request_id)
            case 1 | 2:
                change = Extend(request_id, rounds + draw(st.integers(1, 20)))
        disturbances.append((draw(when), change))
    broken = draw(st.lists(st.sampled_from(node_names(run_spec.nodes)), max_size=3))
    disturbances.extend((draw(when), LinkBreak(name)) for name in broken)
    crash = draw(st.sampled_from(["never", "at an offer", "any time"]))
    return run_spec, replace(
        undisturbed,
        disturbances=tuple(disturbances),
        crash_s=draw(when) if crash == "any time" else None,
        crash_at_offer=draw(st.integers(1, 3)) if crash == "at an offer" else None,
        back_s=draw(st.sampled_from([None, 0.01, 1.0])),
    )


def exact_run(run_spec: RunSpec, scenario: Scenario, eta: Any = 1, grain: Any = 0) -> ClusterSim:
    learners = {
        name: ExactLearner(run_spec.rounds, Fraction(i), Fraction(eta), Fraction(grain))
        for i, name in enumerate(node_names(run_spec.nodes))
    }
    return ClusterSim(run_spec, learners, coarse_gradient, scenario).run()


# --- the matrix form --------------------------------------------------------------------------------


COMPRESSORS = [
    (Compressor(keep_all, as_float32), 1.0),
    (Compressor(TopK(0.3), as_float32), 0.2),
    (Compressor(TopK(0.3), as_int8), 0.1),
    (Compressor(keep_all, Random(2)), 0.3),
]


@pytest.mark.slow
@few_and_many
def test_any_delivery_order_equals_the_matrix_form_to_the_bit(examples: int) -> None:
    @settings(bounded, max_examples=examples)
    @given(st.data())
    def check(data: st.DataObject) -> None:
        compressor, eta = data.draw(st.sampled_from(COMPRESSORS))
        algorithm_spec = AlgorithmSpec(
            compressor, eta, training_rounds=9, gossip_rounds=data.draw(st.sampled_from([0, 3]))
        )
        run_spec, scenario = data.draw(runs(algorithm_spec.rounds))
        run_spec = replace(run_spec, gossip_rounds=algorithm_spec.gossip_rounds)
        if data.draw(st.booleans()):
            run_spec, scenario = data.draw(overlapping(run_spec, scenario))
        learners = {
            name: TrackedVectorLearner(algorithm_spec, LAYOUT, State.initial(np.zeros(LAYOUT.size)), 5, name)
            for name in node_names(run_spec.nodes)
        }
        sim = ClusterSim(run_spec, learners, gradient, scenario).run()
        x, error, u = dense_reference(sim, algorithm_spec, 5)
        assert len(sim.graphs) == algorithm_spec.rounds
        for i, learner in enumerate(learners.values()):
            assert np.array_equal(learner.state.x, x[i])
            assert np.array_equal(learner.state.error, error[i])
            assert learner.u == u[i]

    check()


@few_and_many
def test_any_delivery_order_equals_the_matrix_form_exactly(examples: int) -> None:
    @settings(bounded, max_examples=examples)
    @given(
        run=runs(12),
        eta=st.sampled_from([Fraction(1), Fraction(1, 3)]),
        grain=st.sampled_from([0, Fraction(1, 4)]),
    )
    def check(run: tuple[RunSpec, Scenario], eta: Fraction, grain: Fraction) -> None:
        sim = exact_run(*run, eta, grain)
        expected = exact_reference(sim, eta, Fraction(grain))
        assert {name: tuple(learner.mass()) for name, learner in sim.learners.items()} == expected

    check()


@few_and_many
def test_any_order_with_an_overlap_equals_the_matrix_form_with_a_delay(examples: int) -> None:
    @settings(bounded, max_examples=examples)
    @given(
        run=runs(12).flatmap(lambda run: overlapping(*run)),
        eta=st.sampled_from([Fraction(1), Fraction(1, 3)]),
        grain=st.sampled_from([0, Fraction(1, 4)]),
    )
    def check(run: tuple[RunSpec, Scenario], eta: Fraction, grain: Fraction) -> None:
        sim = exact_run(*run, eta, grain)
        expected = exact_reference(sim, eta, Fraction(grain))
        assert {name: tuple(learner.mass()) for name, learner in sim.learners.items()} == expected

    check()


@pytest.mark.parametrize("overlap", [0, 2])
@pytest.mark.parametrize("blocks", [1, 3, 20])
def test_real_learner_keeps_its_mass_while_members_change(blocks: int, overlap: int) -> None:
    """In every block. 20 blocks are more than there are parameters. A push is taken back from its own block, and the
    record of the eviction may arrive between the push of a round and its mix.
    """
    algorithm_spec = AlgorithmSpec(
        Compressor(keep_all, as_int8), 1.0, training_rounds=60, gossip_rounds=3, blocks=blocks
    )

    def new_learner(z: Any) -> TrackedVectorLearner:
        return TrackedVectorLearner(algorithm_spec, LAYOUT, algorithm_spec.initial(z), 5, "n5")

    learners = {
        name: TrackedVectorLearner(algorithm_spec, LAYOUT, algorithm_spec.initial(np.zeros(LAYOUT.size)), 5, name)
        for name in node_names(5)
    }
    disturbances = ((0.5, Kill("n1")), (1.0, LeaveRequest("n3")), (1.5, Start("n5")))
    scenario = Scenario(seed=1, lose=0.1, disturbances=disturbances, evict_s=1.0, patience_s=200)
    schedule, rounds = ScheduleSpec((GraphSpec("chord"),)), algorithm_spec.rounds
    run_spec = RunSpec("test", 5, "digest", schedule, rounds, lag=Lag(overlap), gossip_rounds=3)
    sim = ClusterSim(run_spec, learners, gradient, scenario, new_learner).run()
    assert {kind: sim.happened[kind] for kind in ("evicted", "leave", "joined")} == {
        "evicted": 1,
        "leave": 1,
        "joined": 1,
    }
    assert {len(learner.state.u) for learner in sim.learners.values()} == {blocks}


@pytest.mark.parametrize("overlap", [0, 2])
@pytest.mark.parametrize("dies_s", [0.5, 0.8, 1.1, 1.4, 1.7])
@pytest.mark.parametrize(("values", "blocks"), [(as_float32, 1), (as_int8, 3)])
def test_real_learners_end_a_last_phase_with_one_model(
    values: Quantise, blocks: int, dies_s: float, overlap: int
) -> None:
    """To the bit, although a member dies before the phase or in it, and u is not 1."""
    compressor, last = Compressor(keep_all, as_int8), GraphSpec("allreduce")
    algorithm_spec = AlgorithmSpec(compressor, 1.0, 4, 9, blocks, gossip_compressor=Compressor(keep_all, values))
    learners = {
        name: TrackedVectorLearner(algorithm_spec, LAYOUT, algorithm_spec.initial(np.zeros(LAYOUT.size)), 5, name)
        for name in node_names(5)
    }
    for learner in learners.values():
        learner.tolerance = 0.05 if values is as_int8 else 1e-3  # of the average, too
    scenario = Scenario(seed=2, lose=0.1, disturbances=((dies_s, Kill("n1")),), evict_s=1.0, patience_s=200)
    schedule = ScheduleSpec((GraphSpec("chord"),), last=last, last_from=4)
    run_spec = RunSpec("test", 5, "digest", schedule, 13, lag=Lag(overlap), gossip_rounds=9)
    sim = ClusterSim(run_spec, learners, gradient, scenario).run()
    models = [finish.z.tobytes() for name, finish in sim.finished.items() if name != "n1"]
    assert len(models) == 4
    assert len(set(models)) == 1


def test_overlap_hides_latency_and_stragglers_behind_training() -> None:
    """A message takes four local steps. With an overlap of 4 a round takes no longer than a step."""
    slow = Scenario(latency_s=(0.2, 0.2), training_s=(0.05, 0.05), window=16)
    ends = []
    for overlap in (0, 4):
        sim = exact_run(replace(ring(), lag=Lag(overlap)), slow)
        ends.append(float(sim.transcript.lines[-1].split()[0]))
    assert ends[1] < 0.4 * ends[0]


# --- changes of plan --------------------------------------------------------------------------------


@pytest.mark.slow
@few_and_many
def test_change_takes_effect_at_one_round_at_every_node(examples: int) -> None:
    @settings(bounded, max_examples=examples)
    @given(disturbed_runs())
    def check(run: tuple[RunSpec, Scenario]) -> None:
        sim = exact_run(*run, grain=Fraction(1, 4))
        plans = {node.state.plan for node in sim.nodes.values()}
        assert len(plans) == 1
        (plan,) = plans
        starts = {record.start for record in plan.records}
        for reply in sim.replies.values():
            assert reply.start in starts or reply.error or reply.waits_for
        for t, graph in sim.graphs.items():
            assert graph == plan.graph(t)
        assert {name: tuple(x.mass()) for name, x in sim.learners.items()} == exact_reference(
            sim, Fraction(1), Fraction(1, 4)
        )

    check()


def rotate(request_id: int, *graphs: str) -> Rotate:
    return Rotate(request_id, tuple(map(GraphSpec, graphs)), Period(1))


def ring(nodes: int = 4, rounds: int = 60) -> RunSpec:
    return RunSpec("test", nodes, "digest", ScheduleSpec((GraphSpec("a"),)), rounds)


def test_change_needs_no_controller_after_its_offer() -> None:
    sim = exact_run(ring(), Scenario(crash_at_offer=1, disturbances=((1.0, rotate(1, "b")),)))
    assert sim.cluster is None
    assert sim.replies == {}
    (plan,) = {node.state.plan for node in sim.nodes.values()}
    assert plan.latest.schedule.graphs == (GraphSpec("b"),)
    ring_b = Digraph(plan.latest.names, frozenset({("n1", "n0"), ("n2", "n1"), ("n3", "n2"), ("n0", "n3")}))
    assert [sim.graphs[t] == ring_b for t in range(60)] == [t >= plan.latest.start for t in range(60)]


@pytest.mark.parametrize("seeds", [3, pytest.param(12, marks=pytest.mark.slow)])
def test_restarted_controller_does_not_fork_the_plan(seeds: int) -> None:
    """A regression: it offered another record of the same number to a node that did not know the first one yet."""
    for seed in range(seeds):
        disturbances = tuple((1.0 + 0.1 * i, rotate(i, "abc"[i % 3])) for i in range(20))
        exact_run(
            ring(6), Scenario(seed, (0.001, 0.3), crash_at_offer=1, back_s=0.001, disturbances=disturbances, window=3)
        )


def test_newest_queued_rotation_takes_effect_after_the_pending_one() -> None:
    disturbances = ((1.0, rotate(1, "b")), (1.01, rotate(2, "c")), (1.02, rotate(3, "a", "b")))
    sim = exact_run(ring(), Scenario(disturbances=disturbances))
    (plan,) = {node.state.plan for node in sim.nodes.values()}
    assert len(plan.records) == 3
    assert [sim.replies[i].start for i in (1, 2, 3)] == [plan.records[1].start, None, None]
    assert plan.latest.start >= (sim.replies[3].earliest or 0)
    assert sim.replies[3].replaces == "graph c"
    assert [s.name for s in plan.latest.schedule.graphs] == ["a", "b"]


def test_stop_ends_all_nodes_at_one_round() -> None:
    sim = exact_run(ring(rounds=500), Scenario(lose=0.2, disturbances=((1.0, Stop(1)),)))
    assert {f.round for f in sim.finished.values()} == {sim.replies[1].start}
    assert not any(f.complete for f in sim.finished.values())


@pytest.mark.slow
def test_run_grows_from_two_nodes_to_two_dozen() -> None:
    newcomers = [f"x{i:02}" for i in range(22)]
    disturbances = tuple((0.5 + 0.1 * i, Start(name)) for i, name in enumerate(newcomers))
    run_spec = ring(nodes=2, rounds=200)
    learners = {name: ExactLearner(run_spec.rounds, Fraction(i)) for i, name in enumerate(node_names(2))}
    scenario = Scenario(disturbances=disturbances, latency_s=(0.001, 0.01))
    sim = ClusterSim(run_spec, learners, coarse_gradient, scenario, lambda z: ExactLearner(run_spec.rounds, z[0])).run()
    assert sim.happened["joined"] == len(newcomers)
    assert sim.graphs[run_spec.rounds - 1].nodes == tuple(sorted([*node_names(2), *newcomers]))
    assert set(sim.finished) == {*node_names(2), *newcomers}


def test_change_requested_after_the_end_is_refused() -> None:
    sim = exact_run(ring(rounds=5), Scenario(disturbances=((500.0, rotate(1, "b")),)))
    assert sim.replies[1].error == "the run is over: its members completed all 5 rounds"


def test_welcome_lost_with_its_link_is_sent_again() -> None:
    """A regression: the node was refused because the run had started, and all others waited for it."""
    for seed in range(20):
        exact_run(ring(rounds=5), Scenario(seed, disturbances=tuple((0.02 * i, LinkBreak("n1")) for i in range(8))))


@pytest.mark.parametrize("seeds", [10, pytest.param(40, marks=pytest.mark.slow)])
def test_single_node_ends_at_the_round_of_its_stop(seeds: int) -> None:
    """A regression: the record arrived while the node trained that round."""
    for seed in range(seeds):
        quick = Scenario(seed, training_s=(0.001, 0.02), disturbances=((1.0, Stop(1)),))
        sim = exact_run(ring(1, rounds=400), quick)
        assert sim.finished["n0"].round == sim.replies[1].start


# --- the simulator itself ---------------------------------------------------------------------------


def eventful() -> ClusterSim:
    disturbances = (
        (1.0, rotate(1, "chord", "b")),
        (1.2, LinkBreak("n2")),
        (2.5, rotate(2, "complete")),
        (4.0, Stop(3)),
    )
    noisy = Scenario(3, lose=0.2, duplicate=0.2, slow={"n1": (0.1, 0.3)}, window=2, crash_s=2.0, back_s=0.3)
    return exact_run(ring(5), replace(noisy, disturbances=disturbances), Fraction(1, 3), Fraction(1, 4))


def test_equal_seeds_give_equal_transcripts() -> None:
    first = eventful()
    assert first.transcript.lines == eventful().transcript.lines
    assert len(first.nodes["n0"].state.plan.records) >= 3
    assert first.transcript.digest != exact_run(ring(5), Scenario(4)).transcript.digest


@pytest.mark.slow
def test_transcript_does_not_depend_on_the_hash_seed() -> None:
    digests = {
        subprocess.run(
            [sys.executable, "-m", "tests.simulation.test_cluster_sim"],
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=Path(__file__).parents[2],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert digests == {eventful().transcript.digest + "\n"}


class Leaky(ExactLearner):
    """A learner that debits x-hat instead of its compressed message, which breaks conservation."""

    def mix_round(self, self_weight: float, received: Any, place: int = 0) -> None:
        t = self._unmixed[0]
        self._sent[t] = replace(self._sent[t], x=self.x.copy())
        super().mix_round(self_weight, received, place)


def test_missing_mass_is_detected() -> None:
    learners = {name: Leaky(9, Fraction(i, 3), grain=Fraction(1, 4)) for i, name in enumerate(node_names(3))}
    with pytest.raises(LocalProtocolError, match="mass is off by"):
        ClusterSim(ring(3, rounds=9), learners, coarse_gradient, Scenario()).run()


def test_deadlock_is_detected_and_names_what_each_node_waits_for() -> None:
    with pytest.raises(LocalProtocolError, match=r"deadlock: .*n0 in round 0 waits for \('n3',\)"):
        exact_run(ring(), Scenario(lose=1.0))


if __name__ == "__main__":
    print(eventful().transcript.digest)
