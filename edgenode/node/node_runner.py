"""The event loop around one Node: one mailbox, and one owner task that moves events in and performs actions.

All work on vectors (the local step, compression, mixing, evaluation) runs in one worker thread, in the order of the
mailbox. The event loop moves messages, and does not block.

A hop to the worker and back costs more than a round of a small model. So a round makes at most two: one for the local
step and what follows from it, and one for all events that are in the mailbox. What is hardly longer than a hop is done
in the event loop (`Replica.is_quick`, `WorkerThread.train`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import assert_never

import structlog

from edgenode.config.schema import Config
from edgenode.core.algorithm.compression import Floats
from edgenode.core.protocol.events import (
    Answer,
    Answered,
    Await,
    Evaluate,
    Fail,
    Finish,
    Mixed,
    NodeAction,
    NodeEvent,
    PlanChanged,
    Publish,
    Push,
    Received,
    Report,
    Save,
    Train,
)
from edgenode.core.protocol.messages import Ack, Verdict
from edgenode.core.protocol.orders import Accusation, Ended, Halt
from edgenode.core.protocol.status import NodeState
from edgenode.errors import CheckpointError, Diverged, EdgenodeError, RemoteProtocolError
from edgenode.net.control_client import ControlLink
from edgenode.net.link_watch import LinkWatch
from edgenode.net.peer_calls import abort
from edgenode.net.peer_server import PeerServer
from edgenode.net.peers import Peers
from edgenode.node.background import Worker
from edgenode.node.initial_model import InitialModel
from edgenode.node.mailbox import Mailbox
from edgenode.node.model_server import ModelServer
from edgenode.node.peer_directory import PeerDirectory
from edgenode.node.progress import BarrierWait, NodeSnapshot, ProgressReporter
from edgenode.node.replica import Replica
from edgenode.node.routes import Routes
from edgenode.node.stats import Outcome
from edgenode.storage import result_file

log = structlog.get_logger()

_LINGER_S = 10.0
_ABORT_S = 5.0
_CHECKPOINT, _MODEL = "checkpoint", "published model"  # what a disk may not accept


class NodeRunner:
    """Runs one member, from its first round to its last.

    Args:
        server: takes pushes, and answers them. It has the identity of this member.
        mailbox: may hold orders already.
        link: the link to the controller, if the run has one.
        initial: the model that this node begins with, if it is the first and the others take it over.
    """

    def __init__(
        self,
        config: Config,
        replica: Replica,
        worker: Worker,
        server: PeerServer,
        directory: PeerDirectory,
        mailbox: Mailbox,
        link: ControlLink | None,
        initial: InitialModel | None = None,
    ) -> None:
        self.replica, self._worker, self._server = replica, worker, server
        self._mailbox, self._link = mailbox, link
        self.routes = Routes(replica.name, directory, lambda: self.progress.snapshot, replica.node.state.window)
        self._watch = LinkWatch(server.identity, self.routes.target_of, observed_of=self.routes.observed_of)
        self._watch.left_out = self.routes.left_out
        self._wait = BarrierWait(config.run.barrier_timeout_s if link is None else None, mailbox.post)
        self.progress = ProgressReporter(replica, self._wait, link, config.run, server.faults)
        self.progress.links = self._watch
        model = None if config.algorithm.definition.masked else replica.model
        copy = replica.common_copy if replica.admits else None
        self._model_server = ModelServer(worker, model, lambda: self.progress.snapshot.round, initial, copy)
        self._peers: Peers | None = None
        self._outcome: Outcome | None = None
        self._step: Train | None = None  # to be taken next
        self._saving: asyncio.Future[None] | None = None
        self._debug = log.debug  # structlog binds a logger at every access, which costs more than the call

    async def run(self) -> Outcome:
        """Take part until the end.

        Raises:
            EdgenodeError: the run cannot continue. BarrierTimeout names the round and the missing peers.
        """
        identity, post = self._server.identity, self._mailbox.post
        async with asyncio.TaskGroup() as group:
            peers = self._peers = Peers(
                group,
                identity,
                self.routes.addresses_of,
                post,
                self._server.faults,
                self._watch,
                lambda to: self.routes.relays_to(to),  # noqa: PLW0108 - it may be replaced
                lambda size: self.replica.stats.count(wire_bytes=size),
            )
            window, largest = self.replica.node.state.window, self.replica.learner.max_bytes
            self._server.open(identity, lambda message, taken: post(Received(message), taken), largest, window)
            self._server.sponsor(self._model_server.model_for)
            helpers = [
                group.create_task(self.progress.run(), name="reports"),
                group.create_task(self.progress.sensors.watch(), name="sensors"),
                group.create_task(self._take_aborts(), name="aborts"),
                group.create_task(self._watch.run(), name="links"),
            ]
            try:
                outcome = await self._run_events()
                await self.progress.sensors.sample()
                await peers.close()
                await self._answer_repeats()
            except BaseException as exc:
                peers.abandon()
                if isinstance(exc, Diverged):
                    await self._abort_peers(str(exc))
                raise
            finally:
                for helper in helpers:
                    helper.cancel()
                self._wait.end()
        self.progress.report(NodeState.DONE if outcome.complete else NodeState.STOPPED)
        return outcome

    def result(self, outcome: Outcome) -> result_file.NodeResult:
        """This node's row of result.json."""
        row = self.replica.result(outcome.round, outcome.test_accuracy)
        return replace(row, **asdict(self.progress.usage()))

    # --- events -------------------------------------------------------------------------------------

    async def _run_events(self) -> Outcome:
        """The owner task. No other task touches the node."""
        actions = await self._worker(self.replica.node.start, self._mailbox.starts_halted())
        while True:
            await self._perform_all(actions)
            if self._outcome is not None:
                return self._outcome
            step, self._step = self._step, None
            if step is not None:
                # A node that waits for no other takes its orders here, unless a checkpoint still reads its state.
                if self._saving is None and (events := self._mailbox.get_all()):
                    await self._perform_all(await self._handle(events))
                await self._model_server.begins(self.progress.snapshot.plan, step.round)
                actions = await self._worker.train(self.replica.step, step, may_wait=self._saving is not None)
            else:
                actions = await self._handle(await self._mailbox.get())

    async def _answer_repeats(self) -> None:
        """Stay until the in-neighbours have all answers. A push whose answer was lost comes again."""
        deadline = time.monotonic() + _LINGER_S
        while self._server.unfinished and time.monotonic() < deadline:
            await self.answer()
            await asyncio.sleep(0.01)

    async def answer(self) -> None:
        """Take what comes after the end of this member: a peer repeats a push if the answer was lost."""
        await self._perform_all(await self._handle(self._mailbox.get_all()))

    async def _handle(self, events: list[NodeEvent]) -> list[NodeAction]:
        """Let the node handle events. An event that breaks the protocol is noted, and answered in its turn."""
        if self._saving is not None:
            await self._saved(self._saving)
        for event in events:
            if isinstance(event, Received):
                self.replica.stats.count(received_bytes=len(event.message.payload))
            elif isinstance(event, Halt):
                self.progress.halt_ordered(event)
            elif isinstance(event, Ended):
                self._gone(event.node)
        # a model that is exported is read in the worker, so the node must not change until then
        if self._model_server.exporting == 0 and all(map(self.replica.is_quick, events)):
            handled = self.replica.handle_all(events)
        else:
            handled = await self._worker(self.replica.handle_all, events)
        actions: list[NodeAction] = []
        for event, outcome in zip(events, handled, strict=False):  # an error that ends the run is the last outcome
            match outcome:
                case RemoteProtocolError():
                    actions += self._rejected(event, outcome)
                case EdgenodeError():
                    actions.append(Fail(outcome))
                case _:
                    actions += outcome
        return actions

    def _rejected(self, event: NodeEvent, error: RemoteProtocolError) -> list[NodeAction]:
        match event:
            case Received(message):
                self._server.faults.note(message.sender, "push", error)
                return [Answer(message.sender, Ack(message.round, Verdict.ERROR, 0, str(error)))]
            case Answered(receiver):
                self._server.faults.note(receiver, "answer", error)
            case _:
                log.warning("rejected an order", reason=str(error))
        return []

    async def _take_aborts(self) -> None:
        """Take the aborts of members of this run, without those of an evicted process."""
        while True:
            peer, order = await self._server.next_abort()
            members = self.progress.snapshot.plan.latest.incarnations
            if peer.plan_digest == self._server.identity.plan_digest and members.get(peer.node) == peer.incarnation:
                self._mailbox.post(order)

    async def _abort_peers(self, reason: str) -> None:
        """Let the other members know that the run ends, if no connected controller does."""
        if self._link is not None and self._link.connected.is_set():
            return
        identity = self._server.identity
        await asyncio.gather(*(abort(to, identity, reason, _ABORT_S) for to in self.routes.all_addresses()))

    # --- actions ------------------------------------------------------------------------------------

    async def _perform_all(self, actions: list[NodeAction]) -> None:
        self.progress.snapshot = NodeSnapshot.of(self.replica.node)
        for action in actions:
            self._debug("action", kind=type(action).__name__, round=getattr(action, "round", None))
            if self._saving is not None and not isinstance(action, Train):
                await self._saved(self._saving)  # what others can see of this node comes after its checkpoint
            await self._perform(action)

    async def _perform(self, action: NodeAction) -> None:
        assert self._peers is not None
        match action:
            case Train():
                self._step = action
            case Push(to, message):
                self._peers.push(to, message)
            case Answer(to, ack):
                self._server.answer(to, ack)
            case Await(t):
                self._wait.begin(t)
            case Mixed():
                self._close_round(action, self._peers)
            case Evaluate(t, model):
                z = await self._worker(model.read, self.replica.trainer.staging)
                self.progress.evaluated(t, await self._measure(t, z, self.replica.evaluate))
                if accusation := self.replica.alarms.judge_evaluation(t):
                    self._accuse(accusation)
            case Publish():
                await self._publish(action)
            case Save():
                await self._save(action)
            case Report(Accusation() as accusation):
                self._accuse(accusation)
            case Report(report):
                if self._link is not None:
                    self._link.report(report)
            case PlanChanged(record):
                for evicted, _ in record.evictions:
                    self._gone(evicted)
                self._server.identity.security.revoke(record.revoked)
                self.progress.plan_changed(record)
            case Finish():
                await self._finish(action)
            case Fail(error):
                raise error
            case _:
                assert_never(action)

    def _gone(self, peer: str) -> None:
        self._server.gone(peer)
        if self._peers is not None:
            self._peers.drop(peer)

    def _accuse(self, accusation: Accusation, is_counted: bool = False) -> None:
        if not is_counted and not self.replica.alarms.note(accusation):
            return
        member, good = accusation.member or "unknown", self.replica.good_checkpoints()
        log.warning(
            "poison alarm", member=member, round=accusation.round, reason=accusation.reason, good_checkpoints=good
        )
        if self._link is not None:
            self._link.report(accusation)

    def _close_round(self, mixed: Mixed, peers: Peers) -> None:
        self._wait.end()
        for leaver in self.progress.snapshot.plan.graph(mixed.round).leaving - {self.replica.name}:
            peers.retire(leaver)
        self._model_server.round_ended(mixed.round)
        self.replica.count(mixed)
        self.progress.round_ended(mixed)

    async def _measure(self, t: int, z: Floats, accuracy: Callable[[Floats], float | None]) -> float | None:
        if self._link is not None:
            await self._worker(self.replica.sketch, t, z)
        return await self._worker(accuracy, z)

    async def _save(self, save: Save) -> None:
        """Begin to write a checkpoint, in a thread of its own. The next local step does not wait for it."""
        checkpoint = await self._worker(self.replica.checkpoint, save)
        self._saving = asyncio.get_running_loop().run_in_executor(None, self.replica.write, checkpoint)

    async def _saved(self, saving: asyncio.Future[None]) -> None:
        """Wait for the checkpoint. A full or broken disk stops checkpointing, not training."""
        self._saving = None
        try:
            await saving
        except CheckpointError as exc:
            self.progress.save_errors.failed(_CHECKPOINT, str(exc))
        else:
            self.progress.save_errors.worked(_CHECKPOINT)

    async def _publish(self, publish: Publish) -> None:
        """Publish the model. As with a checkpoint, a full or broken disk does not stop training."""
        try:
            await self._worker(self.replica.publish, publish)
        except CheckpointError as exc:
            self.progress.save_errors.failed(_MODEL, str(exc))
        else:
            self.progress.save_errors.worked(_MODEL)

    async def _finish(self, finish: Finish) -> None:
        z = await self._worker(self.replica.final, finish, self.replica.trainer.staging)
        accuracy = await self._measure(finish.round, z, self.replica.conclude)
        if refusal := self.replica.alarms.refusal:
            log.warning("the average of the last phase is refused: keeping the own model", reason=refusal.reason)
        if accusation := self.replica.alarms.report_of_refusal(finish.round):
            self._accuse(accusation, is_counted=True)
        if reason := result_file.no_gain(self.replica.stats.before_average, accuracy, of_one=True):
            log.warning("the final gossip did not improve the accuracy", reason=reason)
        self.progress.farewell = self.replica.node.farewell()
        left = self.replica.name not in self.progress.snapshot.plan.latest.names
        self._outcome = Outcome(finish.round, finish.complete, accuracy, z, left, finish.handed_to)
