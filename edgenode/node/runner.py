"""The shell of one Node: one mailbox, one owner task, one task group. It moves events and performs actions.

All work on vectors - the local step, compression, mixing, evaluation, checkpoints - runs in one worker thread, in
the order of the mailbox; the event loop only moves messages and never blocks.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, assert_never

import structlog

from edgenode import factory
from edgenode.config.schema import Config
from edgenode.core.algorithm import codec
from edgenode.core.algorithm.compression import Floats
from edgenode.core.protocol.events import (
    Answer,
    Await,
    Evaluate,
    Fail,
    Finish,
    Mixed,
    NodeAction,
    NodeEvent,
    PlanChanged,
    Push,
    Received,
    Report,
    Save,
    TimedOut,
    Train,
)
from edgenode.core.protocol.messages import Ack, Verdict
from edgenode.core.protocol.node import Node
from edgenode.core.protocol.orders import FenceAnswer, Halt, Progress
from edgenode.core.protocol.plan import Plan, Record
from edgenode.core.protocol.status import NodeState, NodeStatus
from edgenode.errors import CheckpointError, ConfigError, RemoteProtocolError
from edgenode.net.control_client import ControlLink
from edgenode.net.peer_client import PeerAddresses, Peers
from edgenode.net.peer_server import PeerServer
from edgenode.node.progress import RoundTimer, StallReporter
from edgenode.node.replica import Replica
from edgenode.node.resources import Sensors
from edgenode.storage import result_file
from edgenode.storage.checkpoints import Arrays, CheckpointStore

if TYPE_CHECKING:
    from edgenode.tasks.trainer import Trainer

log = structlog.get_logger()
T = TypeVar("T")

_REPORT_EVERY_S = 0.2
_SAY_EVERY_S = 30.0
_WORTH_SAYING_S = 1.0
_LEAVE_GRACE_S = 10.0


@dataclass(frozen=True)
class NodeSnapshot:
    """The node as of its last event, for reports: the node itself belongs to its owner."""

    round: int
    next_round: int
    end: int
    number: int
    digest: str
    missing: tuple[str, ...]
    fenced: frozenset[str]
    stands_still: bool

    @classmethod
    def of(cls, node: Node) -> NodeSnapshot:
        latest = node.plan.latest
        missing = () if node.halted else node.missing()  # who is told to stand still waits for nobody
        return cls(
            node.round,
            node.next_round,
            node.end,
            latest.number,
            latest.digest,
            missing,
            node.fenced,
            node.stands_still,
        )


@dataclass(frozen=True)
class Outcome:
    """How a node's run ended."""

    round: int
    complete: bool
    test_accuracy: float


class Worker:
    """One thread for all work on vectors."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="worker")

    async def __call__(self, work: Callable[..., T], *args: Any) -> T:
        """Run in the worker thread."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, work, *args)

    def close(self) -> None:
        """Let the work in hand end; take no more."""
        self._pool.shutdown(wait=True, cancel_futures=True)


class NodeRunner:
    """One founded member: from its first round to its last.

    Args:
        control: the link to the controller, if the run has one.
        whereabouts: where to dial a peer.
        fetched: z and the BatchNorm buffers of a sponsor, for one who joins a running run.
        halted: the run is paused: stand still from the start.
    """

    def __init__(
        self,
        config: Config,
        name: str,
        trainer: Trainer,
        plan: Plan,
        start: int,
        store: CheckpointStore,
        server: PeerServer,
        worker: Worker,
        control: ControlLink | None,
        peer_addresses: Callable[[str], PeerAddresses],
        fetched: Arrays | None = None,
        halted: bool = False,
    ) -> None:
        self._halted = halted
        self._config, self._server, self._worker = config, server, worker
        self._control, self._peer_addresses = control, peer_addresses
        algorithm_spec, window = factory.algorithm_spec(config), config.run.window
        self._replica = Replica(config, algorithm_spec, name, trainer, plan, start, store, window, fetched)
        self.name, self.stats, self._node = name, self._replica.stats, self._replica.node
        self._mailbox: asyncio.Queue[NodeEvent] = asyncio.Queue()
        self._deadline: asyncio.TimerHandle | None = None
        self._waiting_since: float | None = None
        self._stall_reporter = StallReporter(min(config.run.barrier_timeout_s, _SAY_EVERY_S))
        self._round_timer = RoundTimer()
        self._outcome: Outcome | None = None
        self._z: Floats | None = None
        self._farewell: FenceAnswer | None = None
        self._snapshot = NodeSnapshot.of(self._node)
        self._epoch_rounds = trainer.rounds_per_epoch
        self._sensors, self._start = Sensors(), start
        self._peers: Peers | None = None

    @property
    def fenced(self) -> frozenset[str]:
        """Whom a fence shuts out behind which this node stands."""
        return self._node.fenced

    @property
    def plan(self) -> Plan:
        """What this node knows of the plan."""
        return self._node.plan

    def post(self, event: NodeEvent) -> None:
        """Put an event into the mailbox."""
        self._mailbox.put_nowait(event)

    async def run(self) -> Outcome:
        """Take part until the end.

        Raises:
            EdgenodeError: the run cannot go on; BarrierTimeout names the round and who is missing.
        """
        identity = self._server.identity
        async with asyncio.TaskGroup() as group:
            self._peers = Peers(group, identity, self._peer_addresses, self.post)
            self._server.open(identity, lambda m: self.post(Received(m)), codec.max_bytes(self._replica.layout))
            self._server.sponsor(lambda: self._worker(self._replica.model))
            helpers = [
                group.create_task(self._report_regularly(), name="reports"),
                group.create_task(self._sensors.watch(), name="sensors"),
            ]
            try:
                outcome = await self._own()
                await self._sensors.sample()
                await self._leave()
            except BaseException:
                self._peers.abandon()
                raise
            finally:
                for helper in helpers:
                    helper.cancel()
                self._disarm()
        self._report(NodeState.DONE if outcome.complete else NodeState.STOPPED)
        return outcome

    async def _own(self) -> Outcome:
        """The owner task: nobody else touches the node."""
        await self._perform_all(await self._worker(self._node.start, self._halted))
        while self._outcome is None:
            event = await self._mailbox.get()
            if isinstance(event, Halt) and event.halted != self._node.halted:
                self._round_timer.interrupt()
                log.info("pausing: no further round begins" if event.halted else "going on", round=self._node.round)
            await self._perform_all(await self._handle(event))
        return self._outcome

    async def _handle(self, event: NodeEvent) -> list[NodeAction]:
        if isinstance(event, Received):
            self.stats.received_bytes += len(event.message.payload)
        try:
            return await self._worker(self._node.handle, event)
        except RemoteProtocolError as exc:
            log.warning("rejected", reason=str(exc))
            if isinstance(event, Received):
                message = event.message
                self._server.answer(message.sender, Ack(message.round, Verdict.ERROR, 0, str(exc)))
            return []

    async def _leave(self) -> None:
        """Everything of ours is answered; stay until the others have finished with us too."""
        assert self._peers is not None
        await self._peers.close()
        deadline = time.monotonic() + _LEAVE_GRACE_S
        while self._server.connected and time.monotonic() < deadline:
            while not self._mailbox.empty():  # repeats of pushes whose answers were lost
                await self._perform_all(await self._handle(self._mailbox.get_nowait()))
            await asyncio.sleep(0.01)

    # --- actions ------------------------------------------------------------------------------------

    async def _perform_all(self, actions: list[NodeAction]) -> None:
        self._snapshot = NodeSnapshot.of(self._node)
        for action in actions:
            log.debug("action", kind=type(action).__name__, round=getattr(action, "round", None))
            await self._perform(action)

    async def _perform(self, action: NodeAction) -> None:
        match action:
            case Train():
                self.post(await self._worker(self._replica.train, action))
            case Push(to, message):
                assert self._peers is not None
                self._peers.push(to, message)
            case Answer(to, ack):
                self._server.answer(to, ack)
            case Await(t):
                self._arm(t)
            case Mixed():
                self._count(action)
            case Evaluate(t, z):
                await self._measure(t, z, self._replica.evaluate)
            case Save():
                await self._save(action)
            case Report(report):
                if self._control is not None:
                    self._control.report(report)
            case PlanChanged(record):
                for dead, _ in record.evictions:
                    assert self._peers is not None
                    self._peers.drop(dead)
                log.info("plan changes", record=record.number, at_round=record.start, **_described(record))
            case Finish(t, z, complete):
                accuracy = await self._measure(t, z, self._replica.conclude)
                if reason := result_file.no_gain(self.stats.before_average, accuracy):
                    log.warning("the last phase was no gain", reason=reason)
                self._z, self._farewell = z, self._node.farewell()
                self._outcome = Outcome(t, complete, accuracy)
            case Fail(error):
                raise error
            case _:
                assert_never(action)

    async def _measure(self, t: int, z: Floats, accuracy: Callable[[Floats], float]) -> float:
        if self._control is not None:
            await self._worker(self._replica.sketch, t, z)
        return await self._worker(accuracy, z)

    def _count(self, mixed: Mixed) -> None:
        self._disarm()
        self._round_timer.round_ended(time.monotonic())
        assert self._peers is not None
        for leaver in self._node.plan.graph(mixed.round).leaving - {self.name}:
            self._peers.retire(leaver)
        self._replica.count(mixed)
        stats = self.stats
        if (mixed.round + 1) % self._epoch_rounds == 0:
            log.info(
                "epoch done",
                epoch=(mixed.round + 1) // self._epoch_rounds,
                round=mixed.round + 1,
                graph=self._node.plan.at(mixed.round).schedule.spec(mixed.round).name,
                loss=None if stats.loss is None else round(stats.loss, 4),
                accuracy=None if stats.accuracy is None else round(stats.accuracy, 4),
            )

    async def _save(self, save: Save) -> None:
        """A full or broken disk stops checkpointing, not training."""
        try:
            await self._worker(self._replica.save, save, self.wire_bytes)
        except CheckpointError as exc:
            log.warning("training goes on without a new checkpoint", reason=str(exc))

    # --- time ---------------------------------------------------------------------------------------

    def _arm(self, t: int) -> None:
        """A wait begins. It has an end only without a controller: with one, the silent are cut out."""
        self._disarm()
        self._waiting_since = time.monotonic()
        if self._control is None:
            loop = asyncio.get_running_loop()
            self._deadline = loop.call_later(self._config.run.barrier_timeout_s, self.post, TimedOut(t))

    def _disarm(self) -> None:
        self._waiting_since = None
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    # --- reports ------------------------------------------------------------------------------------

    async def _report_regularly(self) -> None:
        while True:
            self._report()
            self._say_if_stuck()
            await asyncio.sleep(_REPORT_EVERY_S)

    def _say_if_stuck(self) -> None:
        """Say whom we wait for, and since when: every barrier_timeout_s, at the latest every 30 s."""
        snapshot = self._snapshot
        since_s = self._stall_reporter.due(time.monotonic(), snapshot.round, bool(snapshot.missing or snapshot.fenced))
        if since_s is None:
            return
        fenced = {"fenced_from": sorted(snapshot.fenced)} if snapshot.fenced else {}
        where = {"controller": "away"} if self._away() else {}
        waiting = {"waiting_for": list(snapshot.missing), "since_s": round(since_s)}
        log.warning("no progress", round=snapshot.round, **waiting, **fenced, **where)

    def in_a_line(self) -> str:
        """How we are, in a line."""
        snapshot, since = self._snapshot, self._waiting_since
        parts = [f"round {snapshot.round} of {snapshot.end}"]
        if self.stats.accuracy is not None:
            parts.append(f"accuracy {self.stats.accuracy:.1%}")
        if snapshot.missing and since is not None and time.monotonic() - since > _WORTH_SAYING_S:
            parts.append(f"waiting for {', '.join(snapshot.missing)} since {time.monotonic() - since:.0f} s")
        if self._away():
            parts.append("the controller is away")
        if self._node.halted:
            parts.append("paused")
        return ", ".join(parts)

    def _away(self) -> bool:
        return self._control is not None and not self._control.connected.is_set()

    def fail(self, error: BaseException) -> None:
        """Report that this node gave up."""
        self._report(NodeState.FAILED, str(error))

    def _report(self, state: NodeState | None = None, error: str = "") -> None:
        if self._control is not None:
            s = self._snapshot
            progress = Progress(s.next_round, s.number, s.digest, self._farewell)
            self._control.progress(progress, self.status(state, error))

    def status(self, state: NodeState | None = None, error: str = "") -> NodeStatus:
        """This node as it is now, for the controller and for monitoring."""
        if state is None:
            state = NodeState.PAUSED if self._snapshot.stands_still else NodeState.RUNNING
        snapshot, stats, usage = self._snapshot, self.stats, self._sensors.usage(self._snapshot.round - self._start)
        since = self._waiting_since
        waiting = snapshot.missing if since is not None else ()
        return NodeStatus(
            round=snapshot.round,
            rounds=snapshot.end,
            loss=stats.loss,
            accuracy=stats.accuracy,
            messages=stats.messages,
            payload_bytes=stats.payload_bytes,
            wire_bytes=self.wire_bytes,
            dense_bytes=stats.dense_bytes,
            gossip_bytes=stats.gossip_bytes,
            received_bytes=stats.received_bytes,
            round_s=self._round_timer.round_s,
            sketch_round=stats.sketch_round,
            sketch=tuple(stats.sketch),
            u=stats.u,
            waiting_for=waiting,
            waiting_s=time.monotonic() - since if waiting and since is not None else 0.0,
            state=state,
            error=error,
            peak_memory_bytes=usage.peak_memory_bytes or 0,
            joules_per_round=usage.joules_per_round,
            power_sensor=usage.power_sensor,
        )

    @property
    def wire_bytes(self) -> int:
        """Bytes of the gRPC messages sent to peers, before a resume included."""
        return self.stats.wire_bytes + (self._peers.wire_bytes if self._peers is not None else 0)

    def result(self, outcome: Outcome) -> result_file.NodeResult:
        """This node's row of result.json."""
        usage = self._sensors.usage(outcome.round - self._start)
        return replace(self._replica.result(outcome.round, outcome.test_accuracy, self.wire_bytes), **asdict(usage))

    def export(self, folder: Path) -> None:
        """Write model.safetensors: the final z and the BatchNorm buffers, with what is needed to use them."""
        if self._z is None:
            raise ConfigError("a run that has not finished has no model to export")
        self._replica.export(folder, self._z)


def _described(record: Record) -> dict[str, Any]:
    """What a record changes, for the log."""
    out = {"without": [dead for dead, _ in record.evictions], "leaving": [leaver for leaver, _ in record.handoffs]}
    return {"nodes": len(record.members), "stops": record.end is not None, **{k: v for k, v in out.items() if v}}
