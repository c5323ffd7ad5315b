"""Brings a node to a plan with a controller. `fixed_peers` does so without one.

1. Find it: at the given address, or by mDNS. Report `Join`, which shows what this process can resume from.
2. The controller creates or resumes the run when all nodes it needs are connected, and welcomes them.
3. If the run is under way, the node joins it (`newcomer`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import structlog

from edgenode.addresses import join_address
from edgenode.core.protocol.observed import Observed
from edgenode.core.protocol.orders import (
    Abort,
    Ended,
    EvictionCommitted,
    Fence,
    Halt,
    Hello,
    Join,
    Leadership,
    LeaveRefused,
    Offer,
    Order,
    Refuse,
    Restart,
    Revoked,
    Sponsor,
    Standby,
    Welcome,
)
from edgenode.core.protocol.relays import Relays
from edgenode.errors import ConfigError, TransportError
from edgenode.net.control_client import ControlLink
from edgenode.net.dialling import first_to_answer, ipv4_first
from edgenode.net.interfaces import WILDCARDS, addresses_to_announce, interfaces_for
from edgenode.net.rpc import accepts, address_towards
from edgenode.net.wire import PROTOCOL
from edgenode.node.background import in_background
from edgenode.node.controller_address import kept_controller_address, resolved
from edgenode.node.first_state import StartPoint
from edgenode.node.local_node import LocalNode
from edgenode.node.mailbox import Mailbox
from edgenode.node.newcomer import Newcomer
from edgenode.node.node_options import NodeOptions
from edgenode.node.progress import NodeSnapshot
from edgenode.node.shutdown import Shutdown
from edgenode.security.subject import Subject

if TYPE_CHECKING:
    from edgenode.net.discovery import Discovery

log = structlog.get_logger()

_FIND_S = 10.0
_FIND_ANOTHER_S = 2.0
_HEAD_START_S = 0.5
_PROBE_S = 5.0
_CHECK_LINK_EVERY_S = 0.1


class ControllerBootstrap:
    """Joins a run through its controller, and takes the controller's orders until the run ends.

    Args:
        discovery: mDNS, if this node uses it.
        show_wait: takes a line about what this node waits for.

    Attributes:
        link: the link to the controller. The caller runs it.
        mailbox: orders to the node, from the first one on.
        all_ended: set when all members have ended, so that none needs this one any more.
    """

    def __init__(
        self,
        options: NodeOptions,
        local: LocalNode,
        discovery: Discovery | None,
        shutdown: Shutdown,
        show_wait: Callable[[str], None],
    ) -> None:
        self.link = ControlLink(local.identity, self._find_controller, self.join_report, self.take_order)
        self.mailbox, self.all_ended = Mailbox(), asyncio.Event()
        self._options, self._local, self._discovery = options, local, discovery
        self._shutdown, self._show_wait = shutdown, show_wait
        self._newcomer = Newcomer(local, self.link)
        self._start: StartPoint | None = None
        self._leadership: Leadership | None = None  # of the last Hello
        self._kept = kept_controller_address(options.state_dir)  # host:port from the invite, or ""
        self._good = ""  # host:port of the controller that sent it
        self._refused: set[str] = set()  # announced controllers that were dialled since, and sent none
        self._snapshot: Callable[[], NodeSnapshot] | None = None  # of the node, once it runs

    async def wait_for_start(self) -> StartPoint:
        """Wait until this node is a member and has what it starts with, as long as it takes.

        Raises:
            ConfigError: there was no controller for ``wait_s``.
            EdgenodeError: as ``Newcomer.run``.
        """
        async with in_background(self._newcomer.run(), "newcomer"):
            self._start = await self._ready()
        while not self._newcomer.orders.empty():
            self.take_order(self._newcomer.orders.get_nowait())
        return self._start

    def node_runs(self, snapshot: Callable[[], NodeSnapshot]) -> None:
        """The node is about to start. From now on it follows one controller."""
        self._snapshot = snapshot

    def join_report(self, controller: str) -> Join:
        """The first report to a controller at host:port: of a newcomer, or of a member that lost its link."""
        host = self._options.listen_host
        if host in WILDCARDS:
            host = address_towards(controller)
        rounds, plan = self._local.saved
        snapshot = self._snapshot() if self._snapshot is not None else None
        return Join(
            address=join_address(host, self._local.port),
            run_digest=self._local.identity.run_digest,
            data=self._local.data,
            saved=rounds,
            plan=plan if snapshot is None else snapshot.plan,
            running=snapshot is not None,
            process=self._local.identity.process,
            fence=None if snapshot is None else snapshot.fence,
            follows=None if snapshot is None else self._leadership,
            workload=self._local.identity.workload,
            workload_digest=self._local.identity.workload_digest,
        )

    def take_order(self, order: Order) -> None:
        """Carry out an order, or put it into the node's mailbox.

        Raises:
            TransportError: another controller leads the run that this node is in.
            RemoteProtocolError: the greeting is not that of a controller of this cluster.
        """
        match order:
            case Hello(leadership, paused, revoked):
                self._local.verifier.verify(leadership)
                self._follow(leadership)
                self._good = self.link.target
                self._refused.clear()
                self._options.security.revoke(revoked)
                self.mailbox.post(Halt(paused))
            case Welcome() | Sponsor() | Restart() | Abort() if self._start is None:
                self._newcomer.orders.put_nowait(order)
            case Welcome() | Sponsor():
                self._overtaken_by(order)
            case Revoked(keys):
                self._options.security.revoke(keys)
            case LeaveRefused(reason):
                self._shutdown.leave_refused(reason)
            case Standby(reason=reason) if reason:
                self._show_wait(reason)
                log.warning("waiting to join", reason=reason)
            case Standby(present, missing):
                self._show_wait(f"waiting for {missing} more (connected: {', '.join(present)})")
                log.info("waiting for nodes", present=list(present), missing=missing)
            case Refuse() | Relays() | Observed():
                pass  # the link acts on it
            case Ended(node) if node == self._options.name:
                self.all_ended.set()
                if self._start is None:
                    self._newcomer.orders.put_nowait(Restart("all members have ended"))
            case Halt() | Offer() | Fence() | EvictionCommitted() | Restart() | Ended() | Abort():
                self.mailbox.post(order)

    def _follow(self, leadership: Leadership) -> None:
        """A run has one controller. A node in it takes no orders from an older one, or from a second one.

        Raises:
            TransportError: this is another one. The next attempt may find the right one.
        """
        if self._snapshot is not None and self._leadership is not None and leadership.yields_to(self._leadership):
            raise TransportError(
                f"the controller at {leadership} is not the one that this node follows, at {self._leadership}"
            )
        self._leadership = leadership

    def _overtaken_by(self, order: Welcome | Sponsor) -> None:
        """Take an order to a node in no run, which this one has left. If the others have resumed, it starts again."""
        assert self._start is not None
        repeated = isinstance(order, Welcome) and order.plan.records[0] == self._start.plan.records[0]
        if self._local.joins_exchanges and not repeated:
            self.mailbox.post(Restart("the others have resumed without this process"))

    async def _ready(self) -> StartPoint:
        while True:
            try:
                async with asyncio.timeout(None if self._newcomer.is_member else self._options.wait_s):
                    await self.link.connected.wait()
            except TimeoutError:
                raise ConfigError(self._why_no_controller()) from None
            with suppress(TimeoutError):
                async with asyncio.timeout(_CHECK_LINK_EVERY_S):
                    return await self._newcomer.starts.get()

    async def _find_controller(self) -> str:
        """The controller. Of those that are announced, the first one that proves at TLS that it is one.

        There may be two, and a node follows only one of them. One that sent no Hello is avoided for 2 s.
        """
        if self._options.controller != "mdns":
            return self._options.controller
        assert self._discovery is not None
        if not self._kept:
            await self._discovery.wait("controller", timeout_s=_FIND_S)
        target = ""
        if self._refused:
            with suppress(TransportError):
                target = await self._first_to_answer(self._refused, _FIND_ANOTHER_S)
        target = target or await self._first_to_answer(set(), _FIND_S)
        self._refused.add(target)
        return target

    async def _first_to_answer(self, avoided: set[str], timeout_s: float) -> str:
        announced = ipv4_first(self._announced_controllers(avoided), _HEAD_START_S)
        return (await first_to_answer(announced, [self._options.security], timeout_s))[0]

    async def _announced_controllers(self, avoided: set[str]) -> AsyncIterator[list[str]]:
        """host:port of each that mDNS or the invite names, from time to time, the one that worked before first."""
        assert self._discovery is not None
        if self._good and self._good not in avoided:
            yield [self._good]
            await asyncio.sleep(_HEAD_START_S)
        kept = await resolved(self._kept) if self._kept else []
        async for targets in self._discovery.watch_targets("controller"):
            yield [target for target in (*targets, *kept) if target not in avoided]

    def _why_no_controller(self) -> str:
        if self._options.controller != "mdns":
            return f"no controller answers at {self._options.controller} (waited {self._options.wait_s:g} s)"
        assert self._discovery is not None
        if self._kept:
            return f"no controller answers at {self._kept} or in this network (waited {self._options.wait_s:g} s)"
        for service in self._discovery.services("controller").values():
            return f"the controller announced at {', '.join(service.targets)} does not answer"
        return self._discovery.not_found("controller", None, self._options.wait_s)


@asynccontextmanager
async def announced(options: NodeOptions, port: int) -> AsyncIterator[Discovery]:
    """Announce a node by mDNS for as long as the block runs."""
    from edgenode.net.discovery import Discovery
    from edgenode.net.mdns_service import Service

    cluster = options.config.run.cluster
    async with Discovery(cluster, interfaces_for(options.listen_host)) as discovery:
        addresses = addresses_to_announce(options.listen_host)
        ours = Service("node", cluster, options.name, addresses, port, PROTOCOL)

        async def holds(other: Service, here: bool) -> bool:
            """A process of this device that has our name is this one before its restart. Another one has our key."""
            server = Subject("node", options.name).dns_name
            dialled = (accepts(target, _PROBE_S, options.security, server) for target in other.targets)
            return not here and any(await asyncio.gather(*dialled))

        await discovery.announce(ours, holds)
        yield discovery
