"""The controller process around `Cluster`: one mailbox, and one owner task that takes events from it.

The owner handles an event and performs its actions in their order before it takes the next one. Three rules:

1. **Saved before sent.** A `Persist` is written in a thread, and the owner waits for it. What follows it relies on it,
   and further events stay in the mailbox. The other tasks of the process, such as links and probes, continue.
2. **No other task sees half an event.** The registry changes together with the cluster, before the first wait.
3. **Orders go to the link that the cluster knows.** While the owner waits, a node may connect again. An order for its
   old link must not reach the new one, which may belong to another process. It is lost with the old link, and the
   cluster sends it again when it handles the new one.

A run continues without its controller, which is not in the data path.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any, assert_never

import structlog

from edgenode import factory
from edgenode.addresses import join_address, split_address
from edgenode.config.graphs import GRAPHS
from edgenode.controller import rival
from edgenode.controller.audit import Audit
from edgenode.controller.controller_options import ControllerOptions
from edgenode.controller.enrolment import Enrolment, invite_first
from edgenode.controller.failure_detector import FailureDetector
from edgenode.controller.observations import Observations
from edgenode.controller.operator_service import OperatorService
from edgenode.controller.order_log import log_order
from edgenode.controller.page_server import Page
from edgenode.controller.plan_log import PlanLog
from edgenode.controller.refusals import Refusals
from edgenode.controller.registry import NodeRegistry, removed, within
from edgenode.controller.relay import ControllerRelay
from edgenode.controller.run_end import log_end, until_over
from edgenode.controller.saving import save_when_possible
from edgenode.controller.standby import standbys
from edgenode.core.protocol.controller.cluster import Cluster
from edgenode.core.protocol.controller.deadlines import most_reported
from edgenode.core.protocol.events import (
    UNREQUESTED,
    Accused,
    ClusterAction,
    ClusterEvent,
    Disconnected,
    Persist,
    Reply,
    Reported,
    Revoke,
    Send,
    StepDown,
)
from edgenode.core.protocol.orders import Join, Leadership, Order
from edgenode.core.protocol.plan.signatures import UNSIGNED, Signer
from edgenode.core.protocol.status import NodeStatus
from edgenode.errors import CheckpointError, ConfigError, OtherRun, RemoteProtocolError, first_cause
from edgenode.net import control_server, credential_server, operator_server
from edgenode.net.control_server import ControlServer
from edgenode.net.discovery import Discovery
from edgenode.net.interfaces import addresses_to_announce, interfaces_for
from edgenode.net.mdns_service import Service
from edgenode.net.operator_server import OperatorServer
from edgenode.net.rpc import Services, serving
from edgenode.net.tls import INSECURE, Security
from edgenode.net.wire import PROTOCOL, Identity
from edgenode.observability.run_events import poison_alarm
from edgenode.observability.run_recorder import RunRecorder
from edgenode.observability.systemd import Notifier
from edgenode.observability.tracking import Tracking
from edgenode.storage.controller_state import ControllerState
from edgenode.storage.state_folder import claimed_for_good

log = structlog.get_logger()

_LINGER_S = 0.5  # so that watching clients receive the last status


class Controller:
    """Creates one run, changes its plan, and watches it until it ends.

    Raises:
        EdgenodeError: the configuration, the state on disk or the certificates do not fit.
    """

    def __init__(self, options: ControllerOptions) -> None:
        config, recover = options.config, options.recover
        self.options, self.config = options, config
        self.state = ControllerState(options.state_dir, config.digest(), config.shared())
        saved = self._load_state(recover)
        leadership = Leadership(saved.term + 1 if saved else 0, secrets.token_hex(8), options.listen)
        self._enrolment = None if options.insecure else Enrolment(options.state_dir, config.run.cluster)
        self._security: Security = INSECURE if self._enrolment is None else self._enrolment.security
        signer: Signer = UNSIGNED if self._enrolment is None else self._enrolment.signer
        self.cluster = Cluster(factory.run_spec(config), leadership, saved, recover, signer)
        if saved:
            log.info("resuming the run", term=saved.term + 1, nodes=list(saved.plan.latest.names))
            self.state.save(replace(saved, term=saved.term + 1))
        self.nodes = NodeRegistry()
        self.nodes.add_members(self.cluster.state.plan)
        self._mailbox: asyncio.Queue[ClusterEvent | None] = asyncio.Queue()  # None ends the owner task
        self._plan_log = PlanLog(self.cluster)
        self._refusals = Refusals()
        self._link_changes = Counter[str]()  # by node: its joins and disconnects in the mailbox
        post = self._mailbox.put_nowait
        cluster, shared, security = config.run.cluster, config.shared(), self._security
        identity = self._identity = Identity(cluster, "controller", config.digest(), config=shared, security=security)
        self._relay = ControllerRelay(options, identity, self.cluster, self._send)
        self._observations = Observations(self.cluster, self._send)
        self._failure_detector = FailureDetector(config, identity, self.cluster, self.nodes, post, self._relay.probe)
        self._page = Page(options, self._enrolment, lambda: self.operator_service.status())  # noqa: PLW0108 - made next
        self._audit = Audit(options.state_dir)
        self.operator_service = OperatorService(
            self.cluster, self.nodes, self._failure_detector, post, self._page, self._audit, self._relay
        )
        restarted = recover or saved is not None
        self._recorder = RunRecorder(config, options.state_dir, restarted, self.operator_service)
        status, began_earlier = self.operator_service.status, self._recorder.resumed
        self._tracking = Tracking(options.track, config, options.state_dir, status, began_earlier)
        relay, faults = self._relay, self.nodes.faults
        self._control = ControlServer(
            identity, self._post_from_link, self._show, relay.address_of, faults, relay.probe, relay.registry.address_of
        )

    def _load_state(self, recover: bool) -> Persist | None:
        try:
            return self.state.load()
        except OtherRun:
            raise
        except CheckpointError as exc:
            if not recover:
                raise ConfigError(str(exc)) from exc
            log.warning("recovering the plan from the running nodes", reason=str(exc))
            self.state.close()
            return None

    async def run(self, is_ready: Callable[[], None] = lambda: None) -> bool:
        """Serve until every member has ended. True if all did all their rounds, or stopped as an operator requested.

        Args:
            is_ready: called when nothing can refuse this controller any more.

        Raises:
            ConfigError: the address cannot be bound, or another controller leads a cluster of this name.
        """
        operators = OperatorServer(self.operator_service)
        async with AsyncExitStack() as stack:
            await self._serve(stack, operators)
            is_ready()
            async with asyncio.TaskGroup() as group:
                owner = group.create_task(self._handle_events(), name="owner")
                helpers = [group.create_task(work, name=name) for name, work in self._background()]
                beat = group.create_task(Notifier().beat(self.operator_service.summary), name="systemd")
                await until_over(self.cluster, self.nodes, self.config.run.evict_after_s)
                for helper in helpers:
                    helper.cancel()
                await self._end(owner)
                await self._perform_all(self.cluster.close())
                members = self.nodes.members(self.cluster.state.plan)
                ended_well = all(member.status.state.ended_well for member in members)
                await self._recorder.end(ended_well)  # the page reads the end of its curves when its stream ends
                operators.end()
                await self._page.feed.end()
                owner = group.create_task(self._handle_events(), name="owner")  # nodes may still connect
                await asyncio.sleep(_LINGER_S)
                await self._end(owner)
                beat.cancel()
        await asyncio.to_thread(self.state.close)
        log_end(self.operator_service.status(), ended_well, self.options.state_dir)
        return ended_well

    async def _serve(self, stack: AsyncExitStack, operators: OperatorServer) -> None:
        """Start all servers, and announce this controller."""
        cluster, listen, credentials = self.config.run.cluster, self.options.listen, None
        own = (control_server.SERVICE, self._control.add_to), (operator_server.SERVICE, operators.add_to)
        services: Services = (*own, *self._relay.services)
        if self._enrolment is None:
            log.warning("INSECURE: every process on this machine can stop, steer and spoil this run")
        else:
            enrolling = self._enrolment.serving(self.options, self._audit.noting)
            credentials = await stack.enter_async_context(enrolling)
            services = [*services, (credential_server.SERVICE, credentials.add_to)]
        server = serving(listen, services, reflection=self.options.reflection, security=self._security)
        port = await stack.enter_async_context(server)
        host = split_address(listen)[0]
        self._relay.listens(host, port)
        self.cluster.reached_at(join_address(interfaces_for(host)[0], port))
        page = await stack.enter_async_context(self._page.serving(self.operator_service, self._recorder))
        found = await stack.enter_async_context(Discovery(cluster, interfaces_for(host)))
        ours, leadership = (
            Service("controller", cluster, "controller", addresses_to_announce(host), port, PROTOCOL),
            self.cluster.state.leadership,
        )
        is_new = self._enrolment is not None and self._enrolment.is_new
        await found.announce(
            ours,
            lambda other, here: rival.answers(other, cluster, leadership, self._security, unproven=here or is_new),
        )
        log.info(
            "controller ready",
            cluster=cluster,
            listen=join_address(host, port),
            term=self.cluster.state.leadership.term,
            nodes=self.config.run.nodes,
            **({"page": page} if page else {}),
        )
        if credentials is not None:
            invite_first(credentials, self.options)

    def _background(self) -> Iterator[tuple[str, Coroutine[Any, Any, None]]]:
        """Return the named tasks that run next to the owner task until the run is over."""
        yield "failure detector", self._failure_detector.watch()
        yield "observed addresses", self._observations.run()
        yield "feed", self._page.feed.run()
        yield "history", self._recorder.record()
        yield "tracking", self._tracking.run()
        if self._enrolment is not None:
            yield "revocations", self._enrolment.watch_revocations(self._revoke)
            yield "renewal of certificates", self._enrolment.keep_renewed()

    def _revoke(self, keys: frozenset[str]) -> None:
        self._relay.registry.revoke(keys)
        self._mailbox.put_nowait(Revoke(keys))

    async def _end(self, owner: asyncio.Task[None]) -> None:
        """Let the owner task handle what is in the mailbox, and end it."""
        self._mailbox.put_nowait(None)
        await owner

    # --- the owner task -----------------------------------------------------------------------------

    def _post_from_link(self, event: Reported | Disconnected) -> None:
        self._link_changes[event.node] += _changes_link(event)
        self._mailbox.put_nowait(event)

    def _show(self, node: str, status: NodeStatus) -> None:
        """Take the status of a node. Of a device that is in no run, nothing counts."""
        plan = self.cluster.state.plan
        if plan is not None and node not in self.cluster.state.membership.newcomers:
            self.nodes.reported(node, within(most_reported(self.cluster.state), status), node in plan.latest.names)

    async def _handle_events(self) -> None:
        """The owner task: no other task changes the cluster while it runs."""
        while (event := await self._mailbox.get()) is not None:
            self._note_link(event)
            self.cluster.hold(frozenset(self._failure_detector.probation.waiting()))
            try:
                noted = self._refusals.take(event, self.cluster.state.plan)
                actions: Sequence[ClusterAction] = self.cluster.handle(event) if noted is None else noted
            except RemoteProtocolError as exc:
                self._refuse_report(event, exc)
                continue
            finally:
                if isinstance(event, Reported):
                    self._control.handled(event.node)
            await self._perform_all(actions)
            self._plan_log.update()
            if isinstance(event, Reported) and isinstance(event.report, Join):
                self._relay.name_to(event.node)
                self._observations.name_to(event.node)
            if _changes_link(event):
                for wait in standbys(self.cluster.state, self._failure_detector.probation.waiting()):
                    self._send(wait.node, wait.order)

    def _refuse_report(self, event: ClusterEvent, error: RemoteProtocolError) -> None:
        """A node reports what cannot be. Its link ends, and the controller continues."""
        if not isinstance(event, Reported):
            raise error
        self.nodes.faults.note(event.node, "report", error)
        self._control.hang_up(event.node)

    def _note_link(self, event: ClusterEvent) -> None:
        match event:
            case Reported(node, Join(address) as join):
                self.nodes.connected(node, address, join.process)
                log.info("node joined", node=node, address=address, missing=max(0, self.cluster.state.missing - 1))
            case Disconnected(node):
                self.nodes.disconnected(node, self.cluster.state.plan)
            case _:
                return
        self._link_changes[node] -= 1

    async def _perform_all(self, actions: Sequence[ClusterAction]) -> None:
        """Bring the registry up to date, then perform the actions in their order."""
        self.nodes.forget(removed(actions) - self.cluster.state.membership.present.keys())
        self.nodes.add_members(self.cluster.state.plan)
        for action in actions:
            await self._perform(action)
        self._recorder.observe(self.cluster.state.plan, self.cluster.state.paused, self.cluster.state.halted_by)

    async def _perform(self, action: ClusterAction) -> None:
        match action:
            case Send(node, order):
                self._send(node, order)
            case StepDown(reason):
                raise ConfigError(f"{reason}; if that controller is lost for good, start this one with --recover")
            case Persist():
                await save_when_possible(self.state, action)
            case Reply(request_id, start, error) if request_id == UNREQUESTED:
                if error:
                    log.warning("change rejected", reason=error)
                else:
                    log.info("a queued change takes effect", at_round=start)
            case Reply():
                self.operator_service.reply(action)
            case Accused(node, accusation):
                event = poison_alarm(node, accusation)
                log.warning("poison alarm", round=event.round, reason=event.text)
                self._recorder.note(event)
            case _:
                assert_never(action)

    def _send(self, node: str, order: Order) -> None:
        if self._link_changes[node]:
            log.debug("an order is lost with its link", node=node, order=type(order).__name__)
            return
        log_order(node, order)
        self._control.send(node, order)


def _changes_link(event: ClusterEvent) -> bool:
    return isinstance(event, Disconnected) or (isinstance(event, Reported) and isinstance(event.report, Join))


def run_controller(options: ControllerOptions) -> bool:
    """Run a controller in its own event loop until its run ends. True if all members ended well.

    A controller that is refused at its start leaves nothing behind: commands would take its credentials for those of
    the cluster.

    Raises:
        EdgenodeError: it could not start, or another controller leads the run.
        KeyboardInterrupt: it was interrupted.
    """
    for name, reason in GRAPHS.add_all().items():  # an operator may choose any of them
        log.warning("skipping the graph of an extension", graph=name, reason=reason)
    try:
        with claimed_for_good(options.state_dir, "a controller") as keep:
            return asyncio.run(Controller(options).run(keep))
    except BaseExceptionGroup as exc:
        raise first_cause(exc) from exc
