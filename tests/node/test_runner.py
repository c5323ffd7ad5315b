"""The order in which a node performs its actions."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import numpy as np

from edgenode import factory
from edgenode.config.schema import Config
from edgenode.core.protocol.events import Answer, Save, Train
from edgenode.core.protocol.messages import Ack, Verdict
from edgenode.core.protocol.orders import Halt
from edgenode.core.protocol.plan import Member, create_plan
from edgenode.core.topology.period import Epoch
from edgenode.net.peer_client import Peers
from edgenode.net.peer_server import PeerServer
from edgenode.net.wire import Identity
from edgenode.node.background import WorkerThread
from edgenode.node.mailbox import Mailbox
from edgenode.node.peer_directory import PeerDirectory
from edgenode.node.replica import Replica, StartPoint
from edgenode.node.runner import NodeRunner
from edgenode.node.task_workload import TaskWorkload
from edgenode.storage.checkpoints import CheckpointStore
from edgenode.storage.filesystem import RealDisk
from tests.net.peer_ends import until

CONFIG = Config()
PLAN = create_plan(CONFIG.run.cluster, [Member("n0"), Member("n1")], factory.schedule(CONFIG))


class SlowDisk(RealDisk):
    """Flushes nothing until it may."""

    def __init__(self) -> None:
        self.may = threading.Event()

    def flush(self, path: Path) -> None:
        assert self.may.wait(60)
        super().flush(path)


async def test_a_local_step_does_not_wait_for_a_checkpoint_and_an_answer_does(tmp_path: Path) -> None:
    disk, workload, worker = SlowDisk(), TaskWorkload(CONFIG, "n0"), WorkerThread()
    workload.prepare()
    store = CheckpointStore(tmp_path, "run", disk)
    trainer = workload.trainer("n0", PLAN.latest.names, Epoch())
    spec = factory.algorithm_spec(CONFIG)
    disk.may.set()  # to remove what an earlier incarnation has saved
    replica = Replica(CONFIG, spec, "n0", trainer, StartPoint(PLAN, 0), store, 8, None)
    disk.may.clear()
    server = PeerServer(Identity("home", "n0", "run"), (frozenset(), None))
    runner = NodeRunner(CONFIG, replica, worker, server, PeerDirectory(), Mailbox(), None)
    async with asyncio.TaskGroup() as group:
        runner._peers = Peers(group, server.identity, runner._addresses_of, runner._mailbox.post)
        state = replica.learner.snapshot()
        step = Train(7, replica.learner.start())
        await runner._perform_all([Save(7, state, PLAN), step])
        assert (runner._step, store.rounds()) == (step, frozenset())
        await worker.train(replica.train, step)  # momentum and model change, and the checkpoint does not
        answering = group.create_task(runner._perform_all([Answer("n1", Ack(7, Verdict.OK, 0))]))
        await asyncio.sleep(0.05)
        assert not answering.done()
        disk.may.set()
        await answering
    saved = store.load(7)
    assert (saved.state.x == state.x).all()
    assert not any(np.any(array) for name, array in saved.local.items() if "momentum" in name)
    worker.close()


async def test_node_that_waits_for_no_other_takes_its_orders() -> None:
    workload, worker, mailbox = TaskWorkload(CONFIG, "n0"), WorkerThread(), Mailbox()
    workload.prepare()
    alone = create_plan(CONFIG.run.cluster, [Member("n0")], factory.schedule(CONFIG))
    trainer = workload.trainer("n0", alone.latest.names, Epoch())
    replica = Replica(CONFIG, factory.algorithm_spec(CONFIG), "n0", trainer, StartPoint(alone, 0), None, 8, None)
    server = PeerServer(Identity("home", "n0", "run"), (frozenset(), None))
    runner = NodeRunner(CONFIG, replica, worker, server, PeerDirectory(), mailbox, None)
    async with asyncio.TaskGroup() as group:
        runner._peers = Peers(group, server.identity, runner._addresses_of, mailbox.post)
        running = group.create_task(runner._run_events())
        await until(lambda: runner.progress.snapshot.round >= 3)
        mailbox.post(Halt(True))
        await until(lambda: replica.node.halted)
        running.cancel()
    worker.close()
