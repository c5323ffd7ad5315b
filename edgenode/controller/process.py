"""The shell of the Cluster: one mailbox, one owner task. It is not in the data path; a run goes on without it."""

from __future__ import annotations

import asyncio
import secrets
import time
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import assert_never

import structlog

from edgenode import factory
from edgenode.config.schema import Config
from edgenode.controller.failure_detector import FailureDetector
from edgenode.controller.operator_service import OperatorService
from edgenode.controller.registry import NodeRegistry
from edgenode.core.protocol.cluster import Cluster
from edgenode.core.protocol.events import (
    UNREQUESTED,
    ClusterAction,
    ClusterEvent,
    Disconnected,
    Persist,
    Reply,
    Reported,
    Send,
    StepDown,
)
from edgenode.core.protocol.orders import (
    EvictionCommitted,
    Fence,
    Join,
    Leadership,
    Offer,
    Order,
    Refuse,
    Sponsor,
    Standby,
    Welcome,
)
from edgenode.dashboard.app import dashboard
from edgenode.dashboard.feed import Feed
from edgenode.errors import CheckpointError, ConfigError, EdgenodeError, OtherRun, first_cause
from edgenode.net import control_server, operator_server
from edgenode.net.control_server import ControlServer
from edgenode.net.discovery import Discovery
from edgenode.net.http import serving_http
from edgenode.net.interfaces import interfaces_for
from edgenode.net.mdns_service import Service
from edgenode.net.operator_client import operator_client
from edgenode.net.operator_server import OperatorServer
from edgenode.net.rpc import join_address, serving, split_address
from edgenode.net.wire import PROTOCOL, Identity
from edgenode.observability.run_recorder import RunRecorder
from edgenode.observability.status_view import cluster_json
from edgenode.observability.systemd import Notifier
from edgenode.observability.tensorboard import Events
from edgenode.storage.controller_state import ControllerState

log = structlog.get_logger()

_PROBE_S = 2.0
_LINGER_S = 0.5  # for those who watch to take the last status


class Controller:
    """Founds one run, changes its plan, watches it to its end.

    Args:
        recover: take the place of a controller that is lost for good.
        http: host:port of the page, or "none".
        tensorboard: a folder for its events.
    """

    def __init__(
        self,
        config: Config,
        listen: str,
        state_dir: Path,
        recover: bool = False,
        http: str = "none",
        tensorboard: Path | None = None,
    ) -> None:
        self.config, self.listen, self._http = config, listen, http
        self.state = ControllerState(state_dir, config.digest())
        saved = self._saved(recover)
        leadership = Leadership(saved.term + 1 if saved else 0, secrets.token_hex(4), listen)
        self.cluster = Cluster(factory.run_spec(config), leadership, saved, recover)
        if saved:
            log.info("the run goes on", term=saved.term + 1, nodes=list(saved.plan.latest.names))
            self.state.save(replace(saved, term=saved.term + 1))
        self.nodes = NodeRegistry()
        self.nodes.expect(self.cluster.plan)
        self._mailbox: asyncio.Queue[ClusterEvent] = asyncio.Queue()
        post = self._mailbox.put_nowait
        identity = Identity(config.run.cluster, "controller", config.digest())
        self._failure_detector = FailureDetector(config, identity, self.cluster, self.nodes, post)
        self.operator_service = OperatorService(self.cluster, self.nodes, self._failure_detector, post)
        self._feed = Feed(lambda: cluster_json(self.operator_service.status()))
        events = Events(tensorboard) if tensorboard else None
        goes_on, rounds = recover or saved is not None, self.cluster.run_spec.rounds
        self._recorder = RunRecorder(config, rounds, state_dir, goes_on, self.operator_service.status, events)
        self._control = ControlServer(identity, post, self.nodes.reported, self._planned)

    def _saved(self, recover: bool) -> Persist | None:
        try:
            return self.state.load()
        except OtherRun:
            raise
        except CheckpointError as exc:
            if not recover:
                raise ConfigError(f"{exc}; to take the plan from the nodes that run, start with --recover") from exc
            log.warning("taking the plan from the nodes that run", reason=str(exc))
            self.state.close()
            return None

    def _planned(self, node: str) -> str:
        members = self.cluster.plan.latest.members if self.cluster.plan else ()
        return next((m.address for m in members if m.node == node), "")

    async def run(self) -> bool:
        """Serve until every member has ended; True if all were done, or stopped because they were told to.

        Raises:
            ConfigError: the address cannot be bound, or another controller has this cluster's name.
        """
        operators = OperatorServer(self.operator_service)
        services = [(control_server.SERVICE, self._control.add_to), (operator_server.SERVICE, operators.add_to)]
        async with AsyncExitStack() as stack:
            port = await stack.enter_async_context(serving(self.listen, services))
            host = split_address(self.listen)[0]
            address = join_address(interfaces_for(host)[0], port)
            self.cluster.leadership = replace(self.cluster.leadership, address=address)
            found = await stack.enter_async_context(Discovery(self.config.run.cluster, interfaces_for(host)))
            service = Service("controller", self.config.run.cluster, "controller", (), port, PROTOCOL)
            await found.announce(service, self._is_alive)
            if self._http != "none":
                page = dashboard(self.operator_service, self._recorder.curve, self._feed, self._http)
                self.operator_service.page = await stack.enter_async_context(serving_http(page, self._http, "--http"))
            log.info(
                "controller ready",
                cluster=self.config.run.cluster,
                listen=join_address(host, port),
                term=self.cluster.term,
                nodes=self.config.run.nodes,
                **({"page": self.operator_service.page} if self.operator_service.page else {}),
            )
            async with asyncio.TaskGroup() as group:
                owner = group.create_task(self._own(), name="owner")
                helpers = [
                    group.create_task(self._failure_detector.watch(), name="lookout"),
                    group.create_task(self._feed.run(), name="feed"),
                    group.create_task(self._recorder.keep(), name="history"),
                ]
                beat = group.create_task(Notifier().beat(self.operator_service.in_a_line), name="systemd")
                await self._until_over()
                for helper in helpers:
                    helper.cancel()
                for action in self.cluster.close():
                    self._perform(action)
                operators.end()
                await self._feed.end()
                await asyncio.sleep(_LINGER_S)
                owner.cancel()
                beat.cancel()
        self.state.close()
        ended_well = all(a.status.state.ended_well for a in self.nodes.members(self.cluster.plan))
        self._recorder.end(ended_well)
        return ended_well

    async def _is_alive(self, other: Service) -> bool:
        """Whether another controller of this cluster answers where one was announced."""
        for target in other.targets:
            with suppress(EdgenodeError):
                async with operator_client(target, _PROBE_S) as client:
                    status = await client.status()
                    return (
                        status.cluster == self.config.run.cluster
                        and status.leadership.nonce != self.cluster.leadership.nonce
                    )
        return False

    async def _own(self) -> None:
        """The owner task: nobody else touches the cluster."""
        while True:
            event = await self._mailbox.get()
            self._note(event)
            for action in self.cluster.handle(event):
                self._perform(action)
            self.nodes.expect(self.cluster.plan)
            self._say_waiting(event)

    def _say_waiting(self, event: ClusterEvent) -> None:
        """Log, and tell every node that is connected, what the run waits for."""
        waits = self.cluster.waits_for()
        if not isinstance(event, Disconnected) and not (isinstance(event, Reported) and isinstance(event.report, Join)):
            return
        if waits:
            log.info("nobody is in the run any more: waiting for its members", missing=sorted(waits))
        if waits or self.cluster.plan is None:
            present = tuple(sorted(self.cluster.present))
            self._control.send_all(Standby(present, len(waits) or self.cluster.missing()))

    def _note(self, event: ClusterEvent) -> None:
        match event:
            case Reported(node, Join(address) as join):
                self.nodes.joined(node, address, join.process)
                log.info("node joined", node=node, address=address, missing=max(0, self.cluster.missing() - 1))
            case Disconnected(node):
                self.nodes.lost(node, self.cluster.plan)

    def _perform(self, action: ClusterAction) -> None:
        match action:
            case Send(node, order):
                self._log(node, order)
                if isinstance(order, Refuse) and node not in self.cluster.present:
                    self.nodes.forget([node])
                self._control.send(node, order)
            case StepDown(reason):
                raise ConfigError(f"{reason}; if that one is gone for good, start this one with --recover")
            case Persist():
                self.state.save(action)
                dead = {node for node, _ in action.plan.latest.evictions}
                self.nodes.forget(dead - set(self.cluster.present))
            case Reply(request_id, start, error) if request_id == UNREQUESTED:
                if start is None and error:
                    log.warning("a silent node stays", reason=error)
            case Reply():
                self.operator_service.reply(action)
            case _:
                assert_never(action)

    def _log(self, node: str, order: Order) -> None:
        match order:
            case Welcome():
                log.info("welcome", node=node, round=order.round)
            case Refuse(reason):
                log.warning("refused a node", node=node, reason=reason)
            case Offer(record):
                log.info("offering a change of plan", to=node, record=record.number, at_round=record.start)
            case Fence(_, ballot, evicted):
                log.warning("fencing", node=node, without=sorted(evicted), ballot=ballot)
            case EvictionCommitted():
                log.info("eviction committed", node=node)
            case Sponsor():
                log.info("sponsor", node=node)

    async def _until_over(self) -> None:
        since = None
        while True:
            await asyncio.sleep(0.1)
            if self.cluster.plan is None:
                continue
            members = self.nodes.members(self.cluster.plan)
            if len(members) >= len(self.cluster.plan.latest.names) and all(member.ended for member in members):
                return
            abandoned = self.nodes.are_abandoned(self.cluster.plan)
            since = (since or time.monotonic()) if abandoned else None
            if since is not None and time.monotonic() - since > self.config.run.evict_after_s:
                return


def run_controller(
    config: Config,
    listen: str,
    state_dir: Path,
    recover: bool = False,
    http: str = "none",
    tensorboard: Path | None = None,
) -> bool:
    """Run a controller to the end of its run, in an event loop of its own; True if no node failed.

    Raises:
        EdgenodeError: it could not start.
        KeyboardInterrupt: it was interrupted.
    """
    try:
        return asyncio.run(Controller(config, listen, state_dir, recover, http, tensorboard).run())
    except BaseExceptionGroup as exc:
        raise first_cause(exc) from exc
