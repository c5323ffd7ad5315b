"""The order in which a node performs its actions."""

from __future__ import annotations

import asyncio
import errno
import threading
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from structlog.testing import capture_logs

from edgenode import factory
from edgenode.config.load import load
from edgenode.core.protocol.events import Answer, Save, Train
from edgenode.core.protocol.messages import Ack, Verdict
from edgenode.core.protocol.orders import Halt
from edgenode.core.protocol.plan.plan import Plan, create_plan
from edgenode.core.protocol.plan.record import Member
from edgenode.core.topology.period import Epoch
from edgenode.net.peer_server import PeerServer
from edgenode.net.peers import Peers
from edgenode.net.wire import Identity
from edgenode.node.background import WorkerThread
from edgenode.node.first_state import StartPoint
from edgenode.node.mailbox import Mailbox
from edgenode.node.node_runner import NodeRunner
from edgenode.node.peer_directory import PeerDirectory
from edgenode.node.replica import Replica
from edgenode.node.task_workload import TaskWorkload
from edgenode.storage.checkpoints import CheckpointStore
from edgenode.storage.filesystem import RealDisk
from tests.net.peer_ends import until

CONFIG = load(None, {"run.checkpoint_every": 1}, environ={})
ALONE = create_plan(CONFIG.run.cluster, [Member("n0")], factory.schedule(CONFIG))
PLAN = create_plan(CONFIG.run.cluster, [Member("n0"), Member("n1")], factory.schedule(CONFIG))


class SlowDisk(RealDisk):
    """Writes nothing, and flushes nothing, until it may."""

    def __init__(self) -> None:
        self.may_write, self.may_flush = threading.Event(), threading.Event()
        self.may_write.set()

    def write(self, path: Path, parts: Iterable[bytes | memoryview]) -> None:
        assert self.may_write.wait(60)
        super().write(path, parts)

    def flush(self, path: Path) -> None:
        assert self.may_flush.wait(60)
        super().flush(path)


def a_runner(store: CheckpointStore | None, worker: WorkerThread, plan: Plan = PLAN) -> NodeRunner:
    workload = TaskWorkload(CONFIG, "n0")
    workload.prepare()
    trainer = workload.trainer("n0", plan.latest.names, Epoch())
    spec = factory.algorithm_spec(CONFIG)
    replica = Replica(CONFIG, spec, "n0", trainer, StartPoint(plan, 0), store, 8, None)
    server = PeerServer(Identity("home", "n0", "run"), (frozenset(), None))
    return NodeRunner(CONFIG, replica, worker, server, PeerDirectory(), Mailbox(), None)


async def test_a_checkpoint_is_read_before_the_state_changes(tmp_path: Path) -> None:
    """It copies nothing, so the local step beside it waits before it changes anything."""
    disk, worker = SlowDisk(), WorkerThread()
    disk.may_flush.set()
    store = CheckpointStore(tmp_path, "run", disk)
    runner = a_runner(store, worker, ALONE)
    replica = runner.replica
    async with asyncio.TaskGroup() as group:
        runner._peers = Peers(group, runner._server.identity, runner.routes.addresses_of, runner._mailbox.post)
        _, step = replica.node.start()
        assert isinstance(step, Train)
        mixed, save, step = await worker.train(replica.step, step)
        assert isinstance(save, Save) and save.state is replica.learner.state and isinstance(step, Train)
        before, momentum = replica.learner.state.copy(), replica.trainer.local_state()["momentum"]
        assert momentum.any()
        disk.may_write.clear()
        await runner._perform_all([mixed, save, step])
        stepping = group.create_task(worker.train(replica.step, step, may_wait=True))
        await asyncio.sleep(0.2)
        assert not stepping.done() and (replica.learner.state.x == before.x).all()
        assert (replica.trainer.local_state()["momentum"] == momentum).all()
        disk.may_write.set()
        await runner._perform_all(await stepping)
        await runner._saved(runner._saving)
    saved = store.load(1)
    assert (saved.state.x == before.x).all() and (saved.local["momentum"] == momentum).all()
    assert (replica.learner.state.x != before.x).any()
    assert (replica.trainer.local_state()["momentum"] != momentum).any()
    worker.close()


class FullDisk(RealDisk):
    """Accepts nothing while it is full."""

    full = False

    def write(self, path: Path, parts: Iterable[bytes | memoryview]) -> None:
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        super().write(path, parts)


async def test_a_failed_save_is_reported_until_one_works(tmp_path: Path) -> None:
    disk, worker = FullDisk(), WorkerThread()
    runner = a_runner(CheckpointStore(tmp_path, "run", disk), worker, ALONE)

    async def save(t: int) -> tuple[str, float]:
        await runner._perform_all([Save(t, runner.replica.learner.state.copy(), ALONE)])
        assert runner._saving is not None
        await runner._saved(runner._saving)
        status = runner.progress.status()
        return status.save_error, status.save_error_s

    async with asyncio.TaskGroup() as group:
        server = runner._server
        runner._peers = Peers(group, server.identity, runner.routes.addresses_of, runner._mailbox.post, server.faults)
        assert await save(1) == ("", 0)
        disk.full = True
        with capture_logs() as logged:
            error, since_s = await save(2)
            assert "No space left on device" in error and since_s >= 0
            assert "No space left on device" in runner.progress.in_a_line()
            again, longer_s = await save(3)
            assert "round 3" in again and longer_s > since_s
            disk.full = False
            assert await save(4) == ("", 0)
    told = [(line["event"], line["what"]) for line in logged if line["log_level"] != "debug"]
    assert told == [("training continues without saving", "checkpoint"), ("saving works again", "checkpoint")]
    worker.close()


async def test_a_local_step_does_not_wait_for_a_checkpoint_and_an_answer_does(tmp_path: Path) -> None:
    disk, worker = SlowDisk(), WorkerThread()
    store = CheckpointStore(tmp_path, "run", disk)
    disk.may_flush.set()  # to remove what an earlier incarnation has saved
    runner = a_runner(store, worker)
    disk.may_flush.clear()
    replica, server = runner.replica, runner._server
    async with asyncio.TaskGroup() as group:
        runner._peers = Peers(group, server.identity, runner.routes.addresses_of, runner._mailbox.post)
        state = replica.learner.state.copy()
        step = Train(7, replica.learner.start())
        await runner._perform_all([Save(7, state, PLAN), step])
        assert (runner._step, store.rounds()) == (step, frozenset())
        await worker.train(replica.train, step)  # momentum and model change, and the checkpoint does not
        answering = group.create_task(runner._perform_all([Answer("n1", Ack(7, Verdict.OK, 0))]))
        await asyncio.sleep(0.05)
        assert not answering.done()
        disk.may_flush.set()
        await answering
    saved = store.load(7)
    assert (saved.state.x == state.x).all()
    assert not any(np.any(array) for name, array in saved.local.items() if "momentum" in name)
    worker.close()


async def test_node_that_waits_for_no_other_takes_its_orders() -> None:
    worker = WorkerThread()
    runner = a_runner(None, worker, ALONE)
    replica, mailbox = runner.replica, runner._mailbox
    async with asyncio.TaskGroup() as group:
        runner._peers = Peers(group, runner._server.identity, runner.routes.addresses_of, mailbox.post)
        running = group.create_task(runner._run_events())
        await until(lambda: runner.progress.snapshot.round >= 3)
        mailbox.post(Halt(True))
        await until(lambda: replica.node.state.halted)
        running.cancel()
    worker.close()
