"""The shell of the Cluster: one mailbox, one owner task. It is not in the data path; a run goes on without it."""

from __future__ import annotations

import asyncio
import secrets
import time
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import assert_never

import structlog

from edgenode import build
from edgenode.config import Config
from edgenode.core.cluster import Cluster
from edgenode.core.graph import GraphSpec
from edgenode.core.messages import (
    Abdicate,
    ClusterAction,
    ClusterEvent,
    Decree,
    Evict,
    Fence,
    Hello,
    Joined,
    Leave,
    Lost,
    Offer,
    Persist,
    Refuse,
    Reign,
    Reply,
    Rotate,
    Sponsor,
    Stop,
    Welcome,
)
from edgenode.core.plan import Plan
from edgenode.errors import CheckpointError, ConfigError, EdgenodeError, OtherRun, first_cause
from edgenode.ledger import Ledger
from edgenode.net import control, operator
from edgenode.net.control import ControlServer
from edgenode.net.discovery import Discovery, Service, interfaces_for
from edgenode.net.operator import OperatorServer, operating
from edgenode.net.peers import probe
from edgenode.net.rpc import join_address, serving, split_address
from edgenode.net.wire import PROTOCOL, Identity, records_to_wire, reign_to_wire
from edgenode.v1 import control_pb2, operator_pb2
from edgenode.watch import Heard, Held, held, holding_up, silent, too_slow

log = structlog.get_logger()

_ENDED_WELL = (control_pb2.STATE_DONE, control_pb2.STATE_STOPPED)
_ENDED = (*_ENDED_WELL, control_pb2.STATE_FAILED)
_GIVE_UP_S = 10.0  # with a failed node and nobody connected, the run is over after this
_LOOK_EVERY_S = 0.5
_PROBE_S = 2.0
_LINGER_S = 0.5  # for those who watch to take the last status


@dataclass
class Attendance:
    """What the controller last heard of a node."""

    address: str
    process: str = ""  # unknown of a member that has not called yet
    connected: bool = True
    seen: float = field(default_factory=time.monotonic)
    progress: control_pb2.Progress = field(default_factory=control_pb2.Progress)

    def heard(self, now: float) -> Heard:
        """As evidence."""
        p = self.progress
        return Heard(now - self.seen, tuple(p.waiting_for), p.waiting_s, p.state in _ENDED)


class Controller:
    """Founds one run, changes its plan, watches it to its end.

    Args:
        recover: take the place of a controller that is lost for good.
    """

    def __init__(self, config: Config, listen: str, state_dir: Path, recover: bool = False) -> None:
        self.config, self.listen = config, listen
        self.ledger = Ledger(state_dir, config.digest())
        saved = self._saved(recover)
        reign = Reign(saved.term + 1 if saved else 0, secrets.token_hex(4), listen)
        self.cluster = Cluster(build.charter(config), reign, saved, recover)
        if saved:
            log.info("the run goes on", term=saved.term + 1, nodes=list(saved.plan.latest.names))
            self.ledger.save(replace(saved, term=saved.term + 1))
        self.nodes: dict[str, Attendance] = {}
        self._mailbox: asyncio.Queue[ClusterEvent] = asyncio.Queue()
        self._tickets = count()
        self._asked: dict[int, asyncio.Future[int]] = {}
        self._held: dict[str, Held] = {}
        self._expect_members()
        identity = Identity(config.run.cluster, "controller", config.digest())
        self._identity = identity
        self._control = ControlServer(
            identity, self._mailbox.put_nowait, self._reported, self._wants_to_leave, self._planned
        )

    def _saved(self, recover: bool) -> Persist | None:
        try:
            return self.ledger.load()
        except OtherRun:
            raise
        except CheckpointError as exc:
            if not recover:
                raise ConfigError(f"{exc}; to take the plan from the nodes that run, start with --recover") from exc
            log.warning("taking the plan from the nodes that run", reason=str(exc))
            self.ledger.close()
            return None

    def _planned(self, node: str) -> str:
        members = self.cluster.plan.latest.members if self.cluster.plan else ()
        return next((m.address for m in members if m.node == node), "")

    async def run(self) -> bool:
        """Serve until every member has ended; True if all were done, or stopped because they were told to.

        Raises:
            ConfigError: the address cannot be bound, or another controller has this cluster's name.
        """
        operators = OperatorServer(self._status, self._rotate, self._stop, self._evict)
        services = [(control.SERVICE, self._control.add_to), (operator.SERVICE, operators.add_to)]
        async with AsyncExitStack() as stack:
            port = await stack.enter_async_context(serving(self.listen, services))
            host = split_address(self.listen)[0]
            address = join_address(interfaces_for(host)[0], port)
            self.cluster.reign = replace(self.cluster.reign, address=address)
            found = await stack.enter_async_context(Discovery(self.config.run.cluster, interfaces_for(host)))
            service = Service("controller", self.config.run.cluster, "controller", (), port, PROTOCOL)
            await found.announce(service, self._is_alive)
            log.info(
                "controller ready",
                cluster=self.config.run.cluster,
                listen=join_address(host, port),
                term=self.cluster.term,
                nodes=self.config.run.nodes,
            )
            async with asyncio.TaskGroup() as group:
                owner = group.create_task(self._own(), name="owner")
                watch = group.create_task(self._watch_over_members(), name="watch")
                await self._until_over()
                watch.cancel()
                operators.end()
                await asyncio.sleep(_LINGER_S)
                owner.cancel()
        self.ledger.close()
        return all(a.progress.state in _ENDED_WELL for a in self._members())

    async def _is_alive(self, other: Service) -> bool:
        """Whether another controller of this cluster answers where one was announced."""
        for target in other.targets:
            with suppress(EdgenodeError):
                async with operating(target, _PROBE_S) as calls:
                    status = await calls.status()
                    return status.cluster == self.config.run.cluster and status.reign.nonce != self.cluster.reign.nonce
        return False

    def _members(self) -> list[Attendance]:
        names = self.cluster.plan.latest.names if self.cluster.plan else ()
        return [self.nodes[name] for name in names if name in self.nodes]

    async def _own(self) -> None:
        """The owner task: nobody else touches the cluster."""
        while True:
            event = await self._mailbox.get()
            self._note(event)
            for action in self.cluster.handle(event):
                self._perform(action)
            self._expect_members()
            waits = self.cluster.waits_for()
            if waits and isinstance(event, (Joined, Lost)):
                log.info("nobody is in the run any more: waiting for its members", missing=sorted(waits))
            if (waits or self.cluster.plan is None) and isinstance(event, (Joined, Lost)):
                self._control.standby(sorted(self.cluster.present), len(waits) or self.cluster.missing())

    def _expect_members(self) -> None:
        """A member that has not called since we started may be dead: its silence counts from then."""
        for member in self.cluster.plan.latest.members if self.cluster.plan else ():
            self.nodes.setdefault(member.node, Attendance(member.address, connected=False))

    def _note(self, event: ClusterEvent) -> None:
        match event:
            case Joined(node, address):
                self.nodes[node] = Attendance(address, event.process)
                log.info("node joined", node=node, address=address, missing=max(0, self.cluster.missing() - 1))
            case Lost(node) if node in self.nodes:
                self.nodes[node].connected = False
                if self.cluster.plan is None:
                    del self.nodes[node]
                elif self.nodes[node].progress.state not in _ENDED:
                    log.warning("lost sight of a node", node=node)

    def _perform(self, action: ClusterAction) -> None:
        match action:
            case Welcome(node):
                log.info("welcome", node=node, round=action.round)
                self._control.perform(action)
            case Abdicate(reason):
                raise ConfigError(f"{reason}; if that one is gone for good, start this one with --recover")
            case Hello():
                self._control.perform(action)
            case Refuse(node, reason):
                log.warning("refused a node", node=node, reason=reason)
                if node not in self.cluster.present:
                    self.nodes.pop(node, None)
                self._control.perform(action)
            case Offer(node, record):
                log.info("offering a change of plan", to=node, record=record.number, at_round=record.start)
                self._control.perform(action)
            case Fence(node, _, ballot, evicted):
                log.warning("fencing", node=node, without=sorted(evicted), ballot=ballot)
                self._control.perform(action)
            case Decree(node) | Sponsor(node):
                log.info(type(action).__name__.lower(), node=node)
                self._control.perform(action)
            case Persist():
                self.ledger.save(action)
                self._forget_dead(action.plan)
            case Reply(ticket, start, error) if ticket < 0:
                if start is None and error:
                    log.warning("a silent node stays", reason=error)
            case Reply(ticket, start, error):
                asked = self._asked.pop(ticket)
                if asked.done():
                    return
                if start is None:
                    asked.set_exception(ConfigError(error))
                else:
                    asked.set_result(start)
            case _:
                assert_never(action)

    def _reported(self, node: str, progress: control_pb2.Progress) -> None:
        if node not in self.nodes:
            return
        attendance = self.nodes[node]
        if progress.state == control_pb2.STATE_FAILED and attendance.progress.state != progress.state:
            log.error("a node failed", node=node, reason=progress.error)
        attendance.progress, attendance.seen = progress, time.monotonic()

    async def _until_over(self) -> None:
        alone_since = None
        while True:
            await asyncio.sleep(0.1)
            if self.cluster.plan is None:
                continue
            states = [a.progress.state for a in self._members()]
            if len(states) >= len(self.cluster.plan.latest.names) and all(s in _ENDED for s in states):
                return
            alone = control_pb2.STATE_FAILED in states and not any(a.connected for a in self.nodes.values())
            alone_since = (alone_since or time.monotonic()) if alone else None
            if alone_since is not None and time.monotonic() - alone_since > _GIVE_UP_S:
                return

    # --- the silent and the slow --------------------------------------------------------------------

    def _forget_dead(self, plan: Plan) -> None:
        for dead, _ in plan.latest.cut:
            if dead in self.nodes and dead not in self.cluster.present:
                del self.nodes[dead]

    def _heard(self) -> dict[str, Heard]:
        now = time.monotonic()
        return {node: attendance.heard(now) for node, attendance in self.nodes.items()}

    def _silent(self) -> list[str]:
        members = len(self.cluster.plan.latest.members) if self.cluster.plan else 0
        return silent(self._heard(), members, self.config.run.evict_after_s, self.cluster.awaited())

    async def _watch_over_members(self) -> None:
        """Take for dead who is silent and does not answer a call either; see who is slow."""
        looked_at = time.monotonic()
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            now = time.monotonic()
            self._held = held(self._held, holding_up(self._heard()), now - looked_at)
            looked_at = now
            self._drop_slow()
            for name in self._silent():
                if not await self._answers(name) and name in self._silent():
                    log.warning("a node is silent", node=name, since_s=round(time.monotonic() - self.nodes[name].seen))
                    self.nodes[name].seen = time.monotonic()  # if it may not go, we say so again after a while
                    self._mailbox.put_nowait(Evict(-1, name))

    async def _answers(self, name: str) -> bool:
        """Whether the process that was last seen under a name answers where it was; another one there is no proof."""
        there, last = await probe(self.nodes[name].address, self._identity, _PROBE_S), self.nodes.get(name)
        return bool(there and last and there.is_of(self._identity, name) and last.process in ("", there.process))

    def _drop_slow(self) -> None:
        if self.config.run.straggler == "wait":
            return
        for name in too_slow(self._heard(), self._held, self.config.run.evict_after_s):
            log.warning("a node is too slow", node=name, holds_up_s=round(self._held.pop(name).held_s))
            self._mailbox.put_nowait(Evict(-1, name))

    def _wants_to_leave(self, node: str) -> None:
        ticket = next(self._tickets)
        self._asked[ticket] = answer = asyncio.get_running_loop().create_future()
        answer.add_done_callback(lambda a: self._control.stay(node, str(a.exception())) if a.exception() else None)
        self._mailbox.put_nowait(Leave(ticket, node))

    # --- operators ----------------------------------------------------------------------------------

    async def _rotate(self, graphs: tuple[GraphSpec, ...], every: int, epochs: bool) -> int:
        if every < 1:
            raise ConfigError(f"a rotation changes every n >= 1 rounds or epochs, not {every}")
        if not graphs:
            raise ConfigError("a rotation needs at least one graph")
        return await self._ask(Rotate(next(self._tickets), graphs, every, epochs))

    async def _stop(self) -> int:
        return await self._ask(Stop(next(self._tickets)))

    async def _evict(self, node: str, force: bool) -> int:
        return await self._ask(Evict(next(self._tickets), node, force))

    async def _ask(self, change: Rotate | Stop | Evict) -> int:
        self._asked[change.ticket] = answer = asyncio.get_running_loop().create_future()
        self._mailbox.put_nowait(change)
        start: int = await answer
        log.info("plan changes", change=type(change).__name__.lower(), at_round=start)
        return start

    def _status(self) -> operator_pb2.ClusterStatus:
        plan, now = self.cluster.plan, time.monotonic()
        holding = holding_up(self._heard())
        nodes = [
            operator_pb2.NodeStatus(
                node=node,
                address=a.address,
                connected=a.connected,
                last_seen_s=now - a.seen,
                progress=a.progress,
                holds_up=holding.get(node, ()),
                holds_up_s=self._held[node].held_s if node in self._held else 0.0,
            )
            for node, a in sorted(self.nodes.items())
        ]
        return operator_pb2.ClusterStatus(
            cluster=self.config.run.cluster,
            missing=self.cluster.missing(),
            records=records_to_wire(plan.records if plan else ()),
            reign=reign_to_wire(self.cluster.reign),
            nodes=nodes,
            rounds_per_epoch=self.cluster.rounds_per_epoch,
            unix_time_s=time.time(),
        )


def run_controller(config: Config, listen: str, state_dir: Path, recover: bool = False) -> bool:
    """Run a controller to the end of its run, in an event loop of its own; True if no node failed.

    Raises:
        EdgenodeError: it could not start.
        KeyboardInterrupt: it was interrupted.
    """
    try:
        return asyncio.run(Controller(config, listen, state_dir, recover).run())
    except BaseExceptionGroup as exc:
        raise first_cause(exc) from exc
