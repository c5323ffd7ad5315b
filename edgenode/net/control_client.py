"""A node's link to the controller: one stream of reports up and orders down. Training never waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace

import grpc
import grpc.aio
import structlog

from edgenode.core.protocol.orders import Hello, Join, LaterReport, Order, Progress, Refuse
from edgenode.core.protocol.status import NodeStatus
from edgenode.errors import NotAdmitted, RemoteProtocolError, TransportError
from edgenode.net.known_relays import KnownRelays
from edgenode.net.observed_addresses import ObservedAddresses
from edgenode.net.order_wire import ORDERS, REPORTS, join_to_wire, order_has_records, progress_to_wire
from edgenode.net.proto import control_pb2, control_pb2_grpc
from edgenode.net.retry import Backoff, Outage, stay_connected
from edgenode.net.rpc import broken, channel, denied, parsed, side_by_side
from edgenode.net.wire import Identity
from edgenode.security.subject import CONTROLLER

log = structlog.get_logger()

_BACKOFF = Backoff(initial_s=0.1, max_s=2.0, jitter_s=0.5)


class ControlLink:
    """Connects to the controller, and again whenever the link breaks, for as long as it runs.

    Args:
        find: returns the controller's host:port, searched for before every attempt. Raises TransportError.
        join: makes the first report of an attempt.
        ordered: takes every order except Refuse, a Hello first. A TransportError from it ends the attempt.

    Attributes:
        target: host:port of the controller that was dialled last, or "".
        connected: set while the controller's orders arrive.
        relays: the relays that the controller has named.
        observed: where it sees other nodes.
    """

    def __init__(
        self,
        identity: Identity,
        find: Callable[[], Awaitable[str]],
        join: Callable[[str], Join],
        ordered: Callable[[Order], None],
    ) -> None:
        self._identity, self._find, self._join, self._ordered = identity, find, join, ordered
        self._outbox: list[control_pb2.AttendRequest] = []
        self._progress: control_pb2.AttendRequest | None = None  # the newest, until it is sent
        self._sent: control_pb2.AttendRequest | None = None  # the newest that was sent, to be repeated after a redial
        self._leaving = self._was_connected = False
        self.target = ""
        self._wake = asyncio.Event()
        self._left = asyncio.Event()
        self._outage = Outage(lambda since_s, why: log.warning("cannot reach the controller", since_s=since_s, why=why))
        self.connected = asyncio.Event()
        self.relays = KnownRelays()
        self.observed = ObservedAddresses(identity.node)

    def progress(self, progress: Progress, status: NodeStatus) -> None:
        """Report how far the node is. It replaces an older report that was not sent yet."""
        self._progress = progress_to_wire(progress, status)
        self._wake.set()

    def report(self, report: LaterReport) -> None:
        """Send a report. Reports arrive in order, or not at all if the link breaks."""
        self._outbox.append(REPORTS.to_wire(report))
        self._wake.set()

    async def run(self) -> None:
        """Stay connected until cancelled, or flushed.

        Raises:
            RemoteProtocolError: the controller refused this node for good.
            NotAdmitted: the node's key is not valid any more.
        """
        await stay_connected(self._attend, self._left.is_set, self._outage, _BACKOFF)

    async def flush(self, timeout_s: float, broken_s: float) -> None:
        """Deliver the last reports, and end the link. Returns at once if the controller was never reached.

        This side closes the stream first. The controller then closes it too, which shows that it has read everything.
        A link that is broken just then, because the key has changed or the controller restarts, connects again first.

        Args:
            timeout_s: the time that the controller may take. It is slow when many nodes end at once.
            broken_s: the time that the link may stay broken.
        """
        self._leaving = True
        self._wake.set()
        if not self._was_connected:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while not self._left.is_set():
                    with suppress(TimeoutError):
                        async with asyncio.timeout(broken_s):
                            await self._left.wait()
                    if not self.connected.is_set():
                        return

    async def _attend(self) -> None:
        try:
            target = self.target = await self._find()
            shown = self._key_id()
            security, connect_s = self._identity.security, self._outage.connect_s
            async with channel(target, security, CONTROLLER.dns_name, connect_s) as to_controller:
                stream = control_pb2_grpc.ControlServiceStub(to_controller).Attend()
                try:
                    await stream.write(join_to_wire(self._identity, self._join(target)))
                    self._outbox.clear()  # the controller repeats an order whose answer is lost
                    self._progress = self._progress or self._sent
                    await side_by_side({"orders": self._read, "reports": self._write}, stream)
                except (grpc.aio.AioRpcError, asyncio.InvalidStateError, ExceptionGroup) as exc:
                    # a link that ends because its key was replaced can connect again with the new one
                    if not self.connected.is_set() and shown == self._key_id() and (reason := denied(exc)):
                        raise NotAdmitted(
                            f"the controller at {target} does not admit this node: {reason}; to let it in again, run "
                            f"edgenode invite {self._identity.node} there, and start this node with the invite (--join)"
                        ) from exc
                    raise broken(exc, target) from exc
        finally:
            self.connected.clear()

    def _key_id(self) -> str:
        """The id of the key that this node shows from now on. Empty without TLS."""
        own = self._identity.security.credentials
        return own.key_id if own is not None else ""

    async def _read(self, stream: grpc.aio.StreamStreamCall) -> None:
        while (response := await stream.read()) is not grpc.aio.EOF:
            order = await parsed(ORDERS.from_wire, response, order_has_records(response))
            if isinstance(order, Refuse):
                raise RemoteProtocolError(f"refused by the controller at {self.target}: {order.reason}")
            if isinstance(order, Hello):  # the address that was dialled is known to be reachable
                order = replace(order, leadership=replace(order.leadership, address=self.target))
            self.relays.take(order)
            self.observed.take(order)
            if order is not None:
                self._ordered(order)
            self.connected.set()
            self._was_connected = True
            self._outage.end()
        if not self._leaving:
            raise TransportError(f"the controller at {self.target} closed the stream")
        self._left.set()

    async def _write(self, stream: grpc.aio.StreamStreamCall) -> None:
        while True:
            while self._outbox:
                await stream.write(self._outbox.pop(0))
            if self._progress is not None:
                self._sent, self._progress = self._progress, None
                await stream.write(self._sent)
            elif self._leaving:  # nothing came during the last write
                await stream.done_writing()
                return
            else:
                self._wake.clear()
                await self._wake.wait()
