"""What a node that joins a run of exchanges starts with: the copy of a member, and what it had not sent before."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load

from edgenode import factory
from edgenode.config.load import load as load_config
from edgenode.core.protocol.plan.plan import Plan, create_plan
from edgenode.core.protocol.plan.record import Member
from edgenode.core.topology.period import Epoch
from edgenode.errors import RemoteProtocolError
from edgenode.node.common_copy import digest_of
from edgenode.node.first_state import StartPoint
from edgenode.node.replica import Replica
from edgenode.node.task_workload import TaskWorkload
from edgenode.node.workload import checkpoint_store
from edgenode.storage.checkpoints import Arrays, Checkpoint, CheckpointStore

SETTINGS = {
    "algorithm.name": "diloco",
    "topology.graphs": ["complete"],
    "run.nodes": 2,
    "task.model": "resnet20",
    "task.norm": "batch",
}
CONFIG = load_config(None, SETTINGS, {})
PLAN = create_plan(CONFIG.run.cluster, [Member("n0"), Member("n1"), Member("n9")], factory.schedule(CONFIG))
RESUMED_AT, JOINS_AT = 4, 7


@pytest.fixture(scope="module")
def workload() -> TaskWorkload:
    found = TaskWorkload(CONFIG, "n9")
    found.prepare()
    return found


@pytest.fixture
def store(workload: TaskWorkload, tmp_path: Path) -> CheckpointStore:
    return checkpoint_store(tmp_path, CONFIG, workload)


def replica(workload: TaskWorkload, store: CheckpointStore | None, start: StartPoint, name: str = "n9") -> Replica:
    trainer = workload.trainer(name, ("n0", "n1"), Epoch())
    return Replica(CONFIG, factory.algorithm_spec(CONFIG), name, trainer, start, store, 8, None)


def member(workload: TaskWorkload, name: str, mean: float) -> Replica:
    """A member in some round, with statistics of its own."""
    found = replica(workload, None, StartPoint(PLAN, 0), name)
    state = found.learner.state
    state.x += 1
    state.kept["change"][:], state.kept["momentum"][:], state.kept["rest"][:] = 1, 2, mean
    local = found.trainer.local_state()
    buffers = {key: np.full_like(value, mean) for key, value in local.items() if key.startswith("buffer.")}
    found.trainer.load_local_state({**local, **buffers})
    return found


def joining(resumed_without: Plan | None = None) -> Plan:
    """The plan that admits n9 at round 7, after all resumed without it from round 4 of another plan."""
    schedule, members = factory.schedule(CONFIG), [Member("n0", 1), Member("n1", 1)]
    first = create_plan(CONFIG.run.cluster, members, schedule).latest
    if resumed_without is not None:
        first = replace(first, start=RESUMED_AT, parent=resumed_without.latest.digest, number=1)
    plan = Plan((first,))
    return plan.extend(plan.successor(JOINS_AT, members=(*members, Member("n9", 1))))


def copy_of(giver: Replica) -> Arrays:
    return load(giver.common_copy(JOINS_AT).data)


def test_copies_of_two_members_differ_in_their_own_statistics_alone(workload: TaskWorkload) -> None:
    first, second = (member(workload, name, mean) for name, mean in (("n0", 3.0), ("n1", 4.0)))
    one, other = first.common_copy(JOINS_AT), second.common_copy(JOINS_AT)
    assert one.digest == other.digest == digest_of(load(one.data))
    assert one.data != other.data
    assert first.common_copy(JOINS_AT + 1).digest != one.digest
    assert len(one.data) < 2 * workload.model_size().most_bytes
    first.learner.state.kept["momentum"][-1] += 1
    assert first.common_copy(JOINS_AT).digest != one.digest


def test_newcomer_has_what_the_others_begin_the_exchange_with(workload: TaskWorkload, store: CheckpointStore) -> None:
    giver = member(workload, "n0", 3.0)
    joined = replica(workload, store, StartPoint(joining(), JOINS_AT, copy_of(giver)))
    state, theirs = joined.learner.state, giver.learner.state
    assert (state.x == theirs.x).all()
    assert (state.kept["change"] == 2).all() and (state.kept["rest"] == 0).all()  # 0.5 x 2 + 1
    assert all((a == 3).all() for name, a in joined.trainer.local_state().items() if name.startswith("buffer."))
    assert joined.node.state.round == JOINS_AT


@pytest.mark.parametrize("resumed", [True, False], ids=["resumed without it", "of another history"])
def test_newcomer_brings_what_it_had_not_sent(workload: TaskWorkload, store: CheckpointStore, resumed: bool) -> None:
    before = member(workload, "n9", 5.0)
    store.save(Checkpoint(RESUMED_AT, before.learner.state, PLAN, before.trainer.local_state(), {}))
    start = StartPoint(joining(PLAN if resumed else None), JOINS_AT, copy_of(member(workload, "n0", 3.0)))
    joined = replica(workload, store, start)
    assert (joined.learner.state.kept["rest"] == (5 if resumed else 0)).all()
    assert store.rounds() == frozenset()


@pytest.mark.parametrize("name", ["common.momentum", "z"])
def test_copy_that_lacks_a_vector_costs_no_checkpoint(
    workload: TaskWorkload, store: CheckpointStore, name: str
) -> None:
    before = member(workload, "n9", 5.0)
    store.save(Checkpoint(RESUMED_AT, before.learner.state, PLAN, before.trainer.local_state(), {}))
    for vector in (None, np.zeros(3, np.float32)):
        bad = {key: value for key, value in {**copy_of(before), name: vector}.items() if value is not None}
        with pytest.raises(RemoteProtocolError, match=r"sent no model of|no momentum of"):
            replica(workload, store, StartPoint(joining(), JOINS_AT, bad))
    assert store.rounds() == {RESUMED_AT}
