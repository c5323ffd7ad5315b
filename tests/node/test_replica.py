"""What a newcomer takes over from a sponsor, and what it keeps if that is not a model of this run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load

from edgenode import factory
from edgenode.config.load import load as load_config
from edgenode.config.schema import Config
from edgenode.core.algorithm.sparse_push import State
from edgenode.core.protocol.events import Train
from edgenode.core.protocol.plan.plan import Plan, create_plan
from edgenode.core.protocol.plan.record import Member
from edgenode.core.topology.period import Epoch
from edgenode.errors import RemoteProtocolError
from edgenode.node.first_state import StartPoint
from edgenode.node.replica import Replica
from edgenode.node.task_workload import TaskWorkload
from edgenode.node.workload import checkpoint_store
from edgenode.storage.checkpoints import Arrays, Checkpoint, CheckpointStore

CONFIG = Config()
PLAN = create_plan(CONFIG.run.cluster, [Member("n0"), Member("n1")], factory.schedule(CONFIG))


@pytest.fixture(scope="module")
def workload() -> TaskWorkload:
    found = TaskWorkload(CONFIG, "n0")
    found.prepare()
    return found


def a_replica(workload: TaskWorkload, store: CheckpointStore, fetched: Arrays | None, plan: Plan = PLAN) -> Replica:
    """A member at the begin of the run, or at round 5 with the model of a sponsor."""
    trainer = workload.trainer("n0", plan.records[0].names, Epoch())
    start = StartPoint(plan, 0 if fetched is None else 5, fetched)
    return Replica(CONFIG, factory.algorithm_spec(CONFIG), "n0", trainer, start, store, 8, None)


def test_sponsor_sends_no_more_than_the_model_takes(workload: TaskWorkload, tmp_path: Path) -> None:
    model = a_replica(workload, checkpoint_store(tmp_path, CONFIG, workload), None).model()
    assert len(model) < workload.model_size().most_bytes < 2 * len(model) + (2 << 20)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"z": None}, "the sponsor sent no model of .* float32 numbers"),
        ({"z": np.zeros(3, np.float32)}, "the sponsor sent no model of .* float32 numbers"),
        ({"z": np.full(1, np.nan, np.float32)}, "the sponsor sent no model|not finite"),
        ({"buffer.none": np.zeros(3)}, "the sponsor sent another model: .*buffer.none"),
        ({"optimizer.0": np.zeros(3)}, "the sponsor sent 'optimizer.0', which belongs to no model"),
    ],
)
def test_bad_model_of_a_sponsor_costs_no_checkpoint(
    workload: TaskWorkload, tmp_path: Path, change: dict[str, np.ndarray | None], text: str
) -> None:
    store = checkpoint_store(tmp_path, CONFIG, workload)
    first = a_replica(workload, store, None)
    state = State.initial(first.learner.model())
    store.save(Checkpoint(7, state, PLAN, first.trainer.local_state(), {}))
    good = load(first.model())
    bad = {name: value for name, value in {**good, **change}.items() if value is not None}
    with pytest.raises(RemoteProtocolError, match=text):
        a_replica(workload, store, bad)
    for number, reason in ((np.inf, "not finite"), (-1e15, "a number of 1e.15, as if it had diverged")):
        with pytest.raises(RemoteProtocolError, match=reason):
            a_replica(workload, store, {**good, "z": np.full_like(good["z"], number)})
    assert store.scan()[0] == {7}
    taken = a_replica(workload, store, good)
    assert (taken.learner.model() == good["z"]).all()
    assert store.scan()[0] == frozenset()


def test_first_step_on_a_sponsors_model_that_diverges_ends_the_newcomer_alone(
    workload: TaskWorkload, tmp_path: Path
) -> None:
    store = checkpoint_store(tmp_path, CONFIG, workload)
    model = load(a_replica(workload, store, None).model())
    newcomer = a_replica(workload, store, {**model, "z": model["z"] * np.float32(1e14)})
    (train,) = [action for action in newcomer.node.start() if isinstance(action, Train)]
    with pytest.raises(RemoteProtocolError, match="the first step on the sponsor's model diverged in round 5"):
        newcomer.step(train)


@pytest.mark.parametrize("damaged", [False, True])
def test_newcomer_takes_over_the_shared_part_and_keeps_its_own(tmp_path: Path, damaged: bool) -> None:
    """Its own part goes on from its last checkpoint. If that is damaged, it is as in a new model."""
    config = load_config(None, {"task.shared": ["[0-8]"]}, {})
    workload = TaskWorkload(config, "n0")
    workload.prepare()
    head = "own.11.weight"

    def trained(name: str) -> Replica:
        replica = a_replica(workload, checkpoint_store(tmp_path / name, config, workload), None)
        new = replica.trainer.local_state()
        replica.trainer.load_local_state({**new, head: new[head] + len(name)})
        return replica

    sponsor, before = trained("sponsor"), trained("n0")
    new = a_replica(workload, checkpoint_store(tmp_path / "new", config, workload), None).trainer.local_state()
    assert not any(name.startswith("own") for name in load(sponsor.model()))

    store = checkpoint_store(tmp_path / "n0", config, workload)
    state = State.initial(before.learner.model())
    store.save(Checkpoint(7, state, PLAN, before.trainer.local_state(), {}))
    if damaged:
        next(store.folder.glob("*/state.safetensors")).write_bytes(b"")
    newcomer = a_replica(workload, store, {"z": load(sponsor.model())["z"] + 1})
    assert (newcomer.learner.model() == sponsor.learner.model() + 1).all()
    own = newcomer.trainer.local_state()[head]
    assert np.array_equal(own, new[head] + (0 if damaged else len("n0")))
    assert store.scan()[0] == frozenset()
