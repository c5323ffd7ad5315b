"""The controller's end of its relays: what each has reported, and the nodes that may use it.

A relay is a process of its own (`edgenode relay`). It stays known when its link breaks: members may still reach it, and
it may come back. A revoked one is forgotten. So that a relay that lies costs little, its reports are limited, and it
cannot have the name of a node.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import partial

import grpc.aio
import structlog

from edgenode.core.protocol.plan.record import MAX_MEMBERS
from edgenode.core.protocol.relays import RelayAddress, Relays
from edgenode.core.protocol.status import Relayed, RelayView
from edgenode.errors import EdgenodeError, RemoteProtocolError, TransportError, first_cause
from edgenode.net.newest import NewestCalls
from edgenode.net.order_wire import MOST_RELAYS
from edgenode.net.proto import relay_pb2, relay_pb2_grpc
from edgenode.net.relay_client import Relay
from edgenode.net.rpc import reject, side_by_side
from edgenode.net.status_wire import MOST_COUNTED
from edgenode.net.text_wire import address_from_wire, name_from_wire
from edgenode.net.tls import caller, key_of_caller
from edgenode.security.subject import Subject

log = structlog.get_logger()

SERVICE = "edgenode.v1.RelayRegistryService"
_HELLO_S = 10.0
_CHECK_EVERY_S = 0.5
_MOST_COUNTED_NODES = 2 * MAX_MEMBERS
_Reports = AsyncIterator[relay_pb2.RelayReport]


@dataclass
class _Known:
    """A relay that has registered."""

    address: RelayAddress
    traffic: tuple[Relayed, ...]
    seen: float
    connected: bool = True


class RelayRegistry(relay_pb2_grpc.RelayRegistryServiceServicer):
    """The relays of one cluster.

    Args:
        nodes: returns the names of the nodes that may use a relay.
        revoked: returns the ids of the revoked keys.
        changed: called when there are other relays than before.
    """

    def __init__(
        self,
        nodes: Callable[[], frozenset[str]],
        revoked: Callable[[], frozenset[str]],
        changed: Callable[[], None],
    ) -> None:
        self._nodes, self._revoked, self._changed = nodes, revoked, changed
        self._known: dict[str, _Known] = {}
        self._calls = NewestCalls()

    def add_to(self, server: grpc.aio.Server) -> None:
        """Register with a server."""
        relay_pb2_grpc.add_RelayRegistryServiceServicer_to_server(self, server)

    @property
    def order(self) -> Relays:
        """The relays, as the nodes learn them."""
        return Relays(tuple(known.address for _, known in sorted(self._known.items())))

    @property
    def views(self) -> tuple[RelayView, ...]:
        """The relays, for people."""
        now = time.monotonic()
        return tuple(
            RelayView(name, known.address.address, known.connected, 0.0 if known.connected else now - known.seen)
            for name, known in sorted(self._known.items())
        )

    @property
    def traffic(self) -> tuple[Relayed, ...]:
        """What each node has sent by each relay, as far as the relays have reported."""
        return tuple(one for _, known in sorted(self._known.items()) for one in known.traffic)

    @property
    def connected(self) -> list[Relay]:
        """The relays that are connected to this controller."""
        return [
            Relay(name, known.address.address, Subject("relay", name).dns_name)
            for name, known in sorted(self._known.items())
            if known.connected
        ]

    def revoke(self, keys: frozenset[str]) -> None:
        """Forget the relays that have shown one of these keys."""
        for name in [name for name, known in self._known.items() if known.address.key in keys]:
            del self._known[name]
            self._changed()

    def address_of(self, name: str) -> str:
        """host:port of a relay, or "" for any other name."""
        return self._known[name].address.address if name in self._known else ""

    async def Register(self, requests: _Reports, context: grpc.aio.ServicerContext) -> None:
        """One relay's stream."""
        name = ""
        try:
            first = await _first(requests)
            found = caller(context)
            name = name_from_wire(first.name) if found is None else found[0].name
            if name != first.name:
                raise RemoteProtocolError(f"{name} reports as {first.name[:80]!a}: a relay has its own name only")
            self._require_free(name)
            async with self._calls.only(name, f"{name} has registered again"):
                await self._attend(name, first, requests, context)
        except (EdgenodeError, ExceptionGroup) as exc:
            await reject(context, first_cause(exc), name)

    async def _attend(
        self, name: str, first: relay_pb2.RelayReport, requests: _Reports, context: grpc.aio.ServicerContext
    ) -> None:
        """Take reports, and give access, to the end of a call."""
        address = RelayAddress(name, address_from_wire(first.address), key_of_caller(context))
        before = self._known.get(name)
        known = self._known[name] = _Known(address, counted(name, first), time.monotonic())
        if before is None or before.address != address:
            self._changed()
        log.info("relay connected", relay=name, address=address.address)
        try:
            work = {"reports": partial(self._read, known, requests), "access": partial(self._write, name)}
            await side_by_side(work, context)
        finally:
            known.connected = False
            log.info("relay disconnected", relay=name)

    def _require_free(self, name: str) -> None:
        if name in self._nodes() and name not in self._known:
            raise RemoteProtocolError(f"{name} is the name of a node: invite the relay under another name")
        if name not in self._known and len(self._known) >= MOST_RELAYS:
            raise RemoteProtocolError(f"this cluster has {MOST_RELAYS} relays already")

    async def _read(self, known: _Known, requests: _Reports, _: grpc.aio.ServicerContext) -> None:
        async for report in requests:
            known.traffic, known.seen = counted(known.address.name, report), time.monotonic()
        raise TransportError("the relay has ended")

    async def _write(self, name: str, context: grpc.aio.ServicerContext) -> None:
        """Send who may use the relay, now and whenever that changes."""
        sent = None
        while True:
            now = (self._nodes(), self._revoked())
            if now != sent:
                await context.write(relay_pb2.RelayAccess(nodes=sorted(now[0]), revoked=sorted(now[1])))
                sent = now
            await asyncio.sleep(_CHECK_EVERY_S)


async def _first(requests: _Reports) -> relay_pb2.RelayReport:
    try:
        async with asyncio.timeout(_HELLO_S):
            return await anext(aiter(requests), relay_pb2.RelayReport())
    except TimeoutError:
        raise TransportError(f"no report in {_HELLO_S:g} s") from None


def counted(relay: str, report: relay_pb2.RelayReport) -> tuple[Relayed, ...]:
    """The traffic in a report.

    Raises:
        RemoteProtocolError: it cannot be.
    """
    if len(report.traffic) > _MOST_COUNTED_NODES:
        raise RemoteProtocolError(f"traffic of {len(report.traffic)} nodes: at most {_MOST_COUNTED_NODES} are allowed")
    if any(max(one.connections, one.bytes) > MOST_COUNTED for one in report.traffic):
        raise RemoteProtocolError(f"traffic of more than {MOST_COUNTED} bytes")
    return tuple(Relayed(name_from_wire(one.node), one.connections, one.bytes, relay) for one in report.traffic)
