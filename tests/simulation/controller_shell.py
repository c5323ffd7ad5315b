"""The controller's process: the event loop around ``Cluster``, its links, its failure detector and its crashes."""

from __future__ import annotations

from typing import Protocol, assert_never

from edgenode.core.protocol.controller.cluster import Cluster
from edgenode.core.protocol.events import (
    UNREQUESTED,
    Accused,
    ClusterAction,
    ClusterEvent,
    Disconnected,
    Evict,
    OperatorRequest,
    Persist,
    Reply,
    Reported,
    Revoke,
    Send,
    StepDown,
)
from edgenode.core.protocol.orders import Join, Offer, Order, Refuse
from edgenode.errors import LocalProtocolError, RemoteProtocolError
from tests.simulation.controller_host import ControllerHost
from tests.simulation.request_record import RequestRecord
from tests.simulation.scenario import CONTROLLER
from tests.simulation.sim_state import SimState


class Nodes(Protocol):
    """The nodes' processes, as the controller reaches them."""

    def connect(self, name: str) -> None:
        """A node opens a control link."""
        ...

    def lose_link(self, name: str) -> None:
        """A node notices that its link has ended."""
        ...

    def deliver(self, name: str, order: Order) -> None:
        """An order arrives at a node."""
        ...

    def end(self, name: str) -> None:
        """A node that was refused exits."""
        ...


class ControllerShell:
    """The controllers of one run, one after the other.

    Attributes:
        nodes: assigned once, right after both are made.
        requests: what operators requested, and the replies.
        to_give_up: the members whose eviction was requested, in a run of exchanges.
    """

    nodes: Nodes

    def __init__(self, state: SimState) -> None:
        self._state = state
        self._host = ControllerHost(state.run_spec, state.scenario.disk_lost)
        self.requests = RequestRecord(state.happened)
        self.to_give_up: set[str] = set()
        self._offers = 0

    @property
    def cluster(self) -> Cluster | None:
        """The state machine; None while no controller runs."""
        return self._host.cluster

    def has_evicted(self, name: str, incarnation: int) -> bool:
        """Whether any controller has evicted this incarnation, or a later one of the name."""
        return incarnation <= self._host.evicted.get(name, -1)

    # --- events -------------------------------------------------------------------------------------

    def request(self, request: OperatorRequest, kind: str) -> None:
        """An operator requests something. If it is granted, it counts as having happened."""
        if self.cluster is not None:
            self.requests.requested(request, kind)
        self.handle(request)

    def handle(self, event: ClusterEvent) -> None:
        """Handle an event, and perform the actions, unless the controller crashes in between."""
        if self.cluster is None:
            return
        if isinstance(event, Evict) and self._state.run_spec.requirements.admits:
            self.to_give_up.add(event.node)
        try:
            actions = self.cluster.handle(event)
        except RemoteProtocolError:
            if not isinstance(event, Reported) or event.node not in self._state.liars:
                raise
            self._state.happened["refused a lie"] += 1
            self._hang_up(event.node)
            return
        self._state.record(CONTROLLER, event, actions)
        for action in actions:
            if self._crashes_now() or self.cluster is None:
                return
            self._perform(action)
        self._crashes_now()

    def _perform(self, action: ClusterAction) -> None:
        match action:
            case StepDown(reason):
                raise LocalProtocolError(f"the controller stepped down: {reason}")
            case Send(name, Refuse()):
                node = self._state.nodes.get(name)
                if self._state.run_spec.requirements.admits and node and name not in self.to_give_up:
                    self._state.invariants.refused(name, node.state.plan)
                self.nodes.end(name)
                self.watch(name)  # if a member lied, it may be one without knowing it
            case Send(name, order):
                self._state.links.send_down(name, self.nodes.deliver, name, order)
                self._offers += isinstance(order, Offer)
                if isinstance(order, Offer) and self._offers == self._state.scenario.crash_at_offer:
                    self.crash(self._state.scenario.back_s)
            case Persist():
                self.requests.persisted(action)
                self._state.blocked.persisted(action)
                self._host.persist(action)
            case Reply():
                self.requests.replied(action)
            case Accused():
                pass  # for people
            case _:
                assert_never(action)

    def revoke(self, key: str) -> None:
        """A key is revoked. The register outlives every controller, and also its lost disk: it is kept apart."""
        self._host.revoked |= {key}
        self.handle(Revoke(self._host.revoked))

    # --- links --------------------------------------------------------------------------------------

    def accept(self, link: int, name: str, join: Join) -> None:
        """A node has opened a link."""
        if self.cluster:
            self._state.links.of_controller[name] = link
            if name in self.cluster.state.membership.present:
                self.handle(Disconnected(name))  # the controller has not noticed yet that its old link ended
            self.handle(Reported(name, join))

    def lose_link(self, name: str, link: int) -> None:
        """The controller notices that a link has ended, unless the node has opened another one."""
        links = self._state.links
        if links.of_controller.get(name) == link:
            del links.of_controller[name]
        if name not in links.of_controller and links.of_nodes.get(name) != link:
            self.handle(Disconnected(name))

    def _hang_up(self, name: str) -> None:
        """End the link of a node whose report was refused, as the daemon does."""
        links = self._state.links
        if links.of_controller.pop(name, None) is not None:
            self.handle(Disconnected(name))
        if name in links.of_nodes:
            self.nodes.lose_link(name)

    # --- failure detection --------------------------------------------------------------------------

    def watch(self, name: str) -> None:
        """A node may be silent from now on: suspect it after a while."""
        self._watch(name, self._state.processes.last(name))

    def _watch(self, name: str, process: int) -> None:
        self._state.queue.after(self._state.scenario.evict_s, self._suspect, name, process)

    def _suspect(self, name: str, process: int) -> None:
        """Request the eviction of a process as long as it is silent."""
        state = self._state
        silent = name not in state.processes or state.processes.frozen(name) or not state.network.linked(name)
        over = (state.nodes or state.exited) and state.all_finished
        if not silent or state.processes.last(name) != process or over:
            return
        before = self._given_up
        self.handle(Evict(UNREQUESTED, name))
        state.happened["silent member given up"] += name in self._given_up - before
        self._watch(name, process)

    @property
    def _given_up(self) -> frozenset[str]:
        return frozenset(self.cluster.state.membership.given_up) if self.cluster else frozenset()

    # --- crashes ------------------------------------------------------------------------------------

    def _crashes_now(self) -> bool:
        if not self._state.crashes_now(CONTROLLER):
            return False
        self.crash(self._state.scenario.crash_at[self._state.moments])
        return True

    def crash(self, back_s: float | None) -> None:
        """The controller crashes. What it has sent may still arrive; what was sent to it does not."""
        state = self._state
        self._host.crash()
        state.links.of_controller.clear()
        state.happened["controller crashed"] += 1
        state.happened["controller lost its disk"] += state.scenario.disk_lost
        state.record(CONTROLLER, "crashes")
        if back_s is not None:
            state.queue.after(back_s, self._restart)

    def _restart(self) -> None:
        self._host.restart()
        self.handle(Revoke(self._host.revoked))
        for name in sorted(self._state.processes.names):
            self._state.queue.after(self._state.network.latency_s(), self.nodes.connect, name)
