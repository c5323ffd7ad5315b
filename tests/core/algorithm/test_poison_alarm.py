"""The poison alarm: silent in honest runs, and a name and a reason for what they do not explain."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgenode.core.algorithm.algorithm_spec import AlgorithmSpec
from edgenode.core.algorithm.compression import Compressor, Layout, Payload, TopK, Values, as_float32, keep_all
from edgenode.core.algorithm.learner import VectorLearner
from edgenode.core.algorithm.poison_alarm import EvaluationWatch, PoisonAlarm, Suspicion
from edgenode.core.algorithm.rounding import as_int8
from edgenode.core.algorithm.sparse_push import Contribution, LocalUpdate
from edgenode.core.algorithm.update_rules import DIFFERENCE

SIZE = 2000
LAYOUT = Layout((1500, 500))
MODEL = np.random.default_rng(0).normal(size=SIZE).astype(np.float32)
TOP = Compressor(TopK(0.01), as_int8)
DENSE = Compressor(keep_all, as_float32)
SPECS = {
    "top-1%": AlgorithmSpec(TOP, 0.005, 300, gossip_rounds=20),
    "top-0.1%": AlgorithmSpec(Compressor(TopK(0.001), as_int8), 0.001, 300, gossip_rounds=20),
    "dense": AlgorithmSpec(DENSE, 1.0, 100),
    "rolling": AlgorithmSpec(Compressor(keep_all, as_int8), 1.0, 200, blocks=50),
    "choco": AlgorithmSpec(TOP, 0.02, 300, rule=DIFFERENCE),
}


class Ring:
    """Nodes in a directed ring: each inspects what it receives from the one before."""

    def __init__(self, spec: AlgorithmSpec, nodes: int = 4, seed: int = 1, **alarm: object) -> None:
        self.spec, self.rng, self.round = spec, np.random.default_rng(seed), 0
        self.names = [f"n{i}" for i in range(nodes)]
        self.learners = {n: VectorLearner(spec, LAYOUT, spec.initial(MODEL), 1, n) for n in self.names}
        self.alarms = {n: PoisonAlarm(learner, **alarm) for n, learner in self.learners.items()}  # type: ignore[arg-type]

    def join(self, name: str, **alarm: object) -> None:
        """A newcomer with the model of the first node, and without its error."""
        state = self.spec.initial(self.learners[self.names[0]].model())
        self.learners[name] = VectorLearner(self.spec, LAYOUT, state, 1, name)
        self.alarms[name] = PoisonAlarm(self.learners[name], newcomer=True, **alarm)  # type: ignore[arg-type]
        self.names.append(name)

    def step(self, **faulty: Contribution) -> list[tuple[str, Suspicion]]:
        """One round, with these contributions in place of a member's own. Return who suspects whom."""
        pushed = {}
        for name in self.names:
            trains = self.learners[name].trains(self.round)
            update = LocalUpdate(self.rng.normal(scale=0.02, size=SIZE).astype(np.float32), is_difference=True)
            pushed[name] = self.learners[name].compress_update(self.round, update if trains else None)
        suspicions = []
        for i, name in enumerate(self.names):
            sender, learner = self.names[i - 1], self.learners[name]
            data, u = pushed[sender]
            received = faulty.get(sender) or learner.read(self.round, 0.5, u, data)
            mixed, found = self.alarms[name].inspect([(sender, 0, received)], len(self.names))
            learner.mix_round(0.5, mixed)
            suspicions += [(name, suspicion) for suspicion in found]
        self.round += 1
        return suspicions


def noise(length: float, u: float = 1.0, k: int = 20) -> Contribution:
    """A message of this length on the scale of x, of k entries."""
    rng = np.random.default_rng(7)
    numbers = rng.normal(size=k).astype(np.float32)
    numbers *= np.float32(length / np.sqrt(np.dot(numbers, numbers)))
    indices = np.sort(rng.choice(1500, k, replace=False)).astype(np.int64)
    return Contribution(0.5, np.array([u]), Payload(np.array([k, 0]), indices, Values(numbers)))


@pytest.mark.slow
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_no_alarm_in_warm_up_steady_state_and_last_phase(spec: AlgorithmSpec) -> None:
    ring = Ring(spec)
    assert [ring.step() for _ in range(spec.rounds)] == [[]] * spec.rounds


@pytest.mark.slow
@pytest.mark.parametrize("spec", [SPECS["top-1%"], SPECS["dense"]], ids=["top-1%", "dense"])
def test_no_alarm_at_or_about_a_newcomer(spec: AlgorithmSpec) -> None:
    ring = Ring(spec)
    for _ in range(spec.training_rounds // 2):
        ring.step()
    ring.join("n9")
    assert [ring.step() for _ in range(spec.training_rounds // 2)] == [[]] * (spec.training_rounds // 2)


def test_newcomers_neighbours_would_alarm_without_the_bound() -> None:
    ring = Ring(SPECS["top-1%"])
    for _ in range(200):
        ring.step()
    ring.join("n9")
    ring.alarms["n9"] = PoisonAlarm(ring.learners["n9"])  # as if it had an error like the others
    assert [(name, s.member) for name, s in ring.step()] == [("n9", "n3")]


def test_noise_is_reported_by_its_receiver_with_its_sender() -> None:
    ring = Ring(SPECS["top-1%"])
    for _ in range(30):
        ring.step()
    ((accuser, suspicion),) = ring.step(n2=noise(100 * float(np.linalg.norm(MODEL))))
    assert (accuser, suspicion.member) == ("n3", "n2")
    assert "times as long as expected" in suspicion.reason


@pytest.mark.parametrize("u", [1e-30, 1e-3, 17.0, 1e300])
def test_u_beyond_its_bound_is_reported(u: float) -> None:
    ring = Ring(SPECS["dense"])
    honest = ring.learners["n0"].state.x
    message = Contribution(0.5, np.array([u]), Payload(np.array([1500, 500]), None, Values(honest.copy())))
    ((accuser, suspicion),) = ring.step(n0=message)
    assert (accuser, suspicion.member) == ("n1", "n0")
    assert ("its u is" in suspicion.reason) == (u > 1)


def test_numbers_near_the_end_of_float32_are_reported() -> None:
    ring = Ring(SPECS["top-1%"], refuses=True)
    before = ring.learners["n1"].model()
    numbers = np.full(20, 3.4e38, dtype=np.float32)
    huge = replace(noise(1.0), payload=Payload(np.array([20, 0]), np.arange(20), Values(numbers)))
    assert [name for name, _ in ring.step(n0=huge)] == ["n1"]
    assert np.abs(ring.learners["n1"].model() - before).max() < 1


def test_an_alarm_does_not_raise_the_limit() -> None:
    ring = Ring(SPECS["top-1%"], refuses=True)
    for _ in range(50):
        assert [name for name, _ in ring.step(n0=noise(1e5))] == ["n1"]


def test_a_sender_with_longer_steps_is_believed_up_to_a_factor() -> None:
    learner = VectorLearner(SPECS["choco"], LAYOUT, SPECS["choco"].initial(MODEL), 1, "n0")
    alarm, found = PoisonAlarm(learner), []
    for t in range(40):
        step = np.random.default_rng(t).normal(scale=0.02, size=SIZE).astype(np.float32)
        learner.compress_update(t, LocalUpdate(step, is_difference=True))
        own = float(np.linalg.norm(learner.own_push.payload.numbers))
        mixed, suspicions = alarm.inspect([("n1", 0, noise((3 if t < 20 else 10) * own))], 2)
        found += suspicions
        learner.mix_round(0.5, mixed)
    assert found == []


def test_refused_message_leaves_z_and_the_sum_of_u_alone() -> None:
    ring = Ring(SPECS["dense"], nodes=2, refuses=True)
    ring.step(n0=noise(1e6, u=3.0))
    assert ring.learners["n1"].u == 1.0
    assert np.abs(ring.learners["n1"].model() - MODEL).max() < 0.2  # its own local step, and nothing else


def test_handoff_beyond_the_bound_is_left_out_if_refused() -> None:
    ring = Ring(SPECS["top-1%"], refuses=True)
    ring.step()
    learner = ring.learners["n1"]
    learner.compress_update(1, None)
    handoff = replace(noise(1e6), weight=1.0)
    assert ring.alarms["n1"].inspect([("n0", 0, handoff)], 4)[0] == []
    state = ring.learners["n0"].state
    honest = Contribution(1.0, state.u, Payload(np.array([1500, 500]), None, Values(state.x)))
    assert ring.alarms["n1"].inspect([("n0", 0, honest)], 4) == ([honest], [])


def test_clean_messages_are_passed_on_as_they_are() -> None:
    ring = Ring(SPECS["top-1%"], liars=1, refuses=True)
    learner = ring.learners["n1"]
    learner.compress_update(0, None)
    honest = Contribution(0.5, np.ones(1), learner.own_push.payload)
    (mixed, _) = ring.alarms["n1"].inspect([("n0", 0, honest)], 4)
    assert mixed == [honest]


# --- evaluations


def watched(*scores: float) -> tuple[EvaluationWatch, list[str]]:
    watch = EvaluationWatch()
    return watch, [watch.evaluated(50 * i, score) for i, score in enumerate(scores)]


def test_collapse_of_a_settled_score_is_reported_once() -> None:
    watch, found = watched(0.5, 0.8, 0.9, 0.9, 0.92, 0.91, 0.1, 0.1, 0.12)
    assert found == [""] * 6 + ["the own score fell from 0.9 to 0.1 since round 250", "", ""]
    assert watch.good_until == 250


def test_recovered_score_ends_the_suspicion() -> None:
    watch, found = watched(*[0.9] * 6, 0.1, 0.85, 0.9)
    assert sum(map(bool, found)) == 1
    assert watch.good_until is None


@given(st.lists(st.floats(0.3, 0.6), max_size=50))
def test_scores_that_never_halve_raise_no_alarm(scores: list[float]) -> None:
    assert not any(watched(*scores)[1])


def test_unsettled_training_may_fall() -> None:
    assert not any(watched(0.9, 0.1, 0.5, 0.2, 0.6, 0.1, 0.3)[1])


def test_resumed_suspicion_is_never_taken_back() -> None:
    watch = EvaluationWatch(good_until=100)
    assert not any(watch.evaluated(t, 0.9) for t in range(150, 900, 50))
    assert watch.good_until == 100


def test_first_suspected_round_counts() -> None:
    watch = EvaluationWatch()
    for t in (70, 40, 90):
        watch.suspect(t)
    assert watch.good_until == 40
