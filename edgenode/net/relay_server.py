"""Relays bytes between two members: a firewall or a router may keep one from the other, and both from no third process.

1. A relay understands nothing of what passes. With certificates, the two ends have TLS with each other, so a relay can
   neither read nor change a push.
2. Only members may ask, and only for members. A newcomer counts as one where the controller relays: it has to fetch a
   model.
3. A member that nobody can dial waits at the relay, with a call that it has opened itself (`Wait`). It takes each
   connection with another call (`Take`), whose bytes the relay exchanges with those of the caller.
4. To a member that does not wait, the relay opens a TCP connection, unless the caller wants none. So that a false
   address of a member opens no way into the relay's own machine, the relay first makes sure that this member answers
   there.
5. Every member has limits (`relay_limits`), so that no member can take all places or the whole line.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, field

import grpc.aio

from edgenode.addresses import split_address
from edgenode.errors import EdgenodeError, RemoteProtocolError, TransportError, first_cause
from edgenode.net.newest import NewestCalls
from edgenode.net.peer_calls import reach
from edgenode.net.proto import relay_pb2, relay_pb2_grpc
from edgenode.net.reasons import failure
from edgenode.net.relay_limits import ANY_MEMBER, RelayLimits, Traffic
from edgenode.net.rpc import refuse, side_by_side
from edgenode.net.tls import node_of_caller, require_name
from edgenode.net.wire import CHUNK_BYTES, Identity

SERVICE = "edgenode.v1.RelayService"
_HELLO_S = 10.0
_REACH_S = 2.0
_TAKE_S = 4.0
_MOST_WAITING = 32
_Requests = AsyncIterator[relay_pb2.RelayRequest]


@dataclass(frozen=True)
class _Arrival:
    """A connection to a member that waits here.

    Attributes:
        taken: the call with which the member takes it.
        over: set when the caller has ended it.
        gone: set when the member has ended it.
    """

    to: str
    taken: asyncio.Future[tuple[_Requests, grpc.aio.ServicerContext]]
    over: asyncio.Event = field(default_factory=asyncio.Event)
    gone: asyncio.Event = field(default_factory=asyncio.Event)


class RelayServer(relay_pb2_grpc.RelayServiceServicer):
    """Relays between the members of one run.

    Args:
        address_of: returns host:port of a member, or "" for any other name.
        is_known: returns whether a node may use this relay. None for members only.

    Attributes:
        traffic: what this relay carries.
        hosts: members may wait here.
    """

    def __init__(
        self,
        identity: Identity,
        address_of: Callable[[str], str],
        is_known: Callable[[str], bool] | None = None,
        limits: RelayLimits = ANY_MEMBER,
        hosts: bool = True,
    ) -> None:
        self._identity, self._address_of, self.hosts = identity, address_of, hosts
        self._is_known = is_known or (lambda node: bool(address_of(node)))
        self.traffic = Traffic(limits)
        self._waits = NewestCalls()
        self._queues: dict[str, asyncio.Queue[str]] = {}  # of tokens, by the member that waits
        self._arrivals: dict[str, _Arrival] = {}  # by token

    def add_to(self, server: grpc.aio.Server) -> None:
        """Register with a server."""
        relay_pb2_grpc.add_RelayServiceServicer_to_server(self, server)

    def is_waiting(self, node: str) -> bool:
        """Return whether a member waits here."""
        return node in self._queues

    async def Wait(self, request: relay_pb2.WaitRequest, context: grpc.aio.ServicerContext) -> None:
        """A member waits for connections, until it ends the call or waits again."""
        try:
            require_name(context, request.node)
            if not self.hosts:
                raise RemoteProtocolError(f"nobody may wait at {self._identity.node}: it was started without --relay")
            self._require_known(request.node)
            async with self._waits.only(request.node, f"{request.node} waits here again"):
                await self._pass_arrivals(request.node, context)
        except EdgenodeError as exc:
            await refuse(context, exc)

    async def _pass_arrivals(self, node: str, context: grpc.aio.ServicerContext) -> None:
        tokens = self._queues[node] = asyncio.Queue(_MOST_WAITING)
        try:
            await context.write(relay_pb2.Arrival())
            while True:
                await context.write(relay_pb2.Arrival(token=await tokens.get()))
        finally:
            if self._queues.get(node) is tokens:
                del self._queues[node]

    async def Take(self, requests: _Requests, context: grpc.aio.ServicerContext) -> None:
        """The end of a connection at the member that waits, until either side ends it."""
        try:
            token = (await _first(requests)).to
            arrival, caller = self._arrivals.get(token), node_of_caller(context)
            if arrival is None or arrival.taken.done() or caller not in ("", arrival.to):
                raise RemoteProtocolError("no such connection has arrived")
            arrival.taken.set_result((requests, context))
            try:
                await arrival.over.wait()
            finally:
                arrival.gone.set()
            raise TransportError("the sender ended the connection")
        except EdgenodeError as exc:
            await refuse(context, exc)

    async def Relay(self, requests: _Requests, context: grpc.aio.ServicerContext) -> None:
        """One connection to a member, until either side ends it."""
        caller = node_of_caller(context)
        try:
            with self.traffic.counted("" if caller == self._identity.node else caller):
                first = await _first(requests)
                to = first.to
                if caller:
                    self._require_known(caller)
                if to in self._queues:
                    await self._splice(requests, context, caller, to)
                elif first.only_waiting:
                    raise self._waits_elsewhere(to)
                else:
                    await self._dial(requests, context, caller, to)
        except (EdgenodeError, ExceptionGroup) as exc:
            await refuse(context, first_cause(exc))

    def _waits_elsewhere(self, node: str) -> TransportError:
        return TransportError(f"{node} does not wait at {self._identity.node}")

    def _require_known(self, node: str) -> None:
        if not self._is_known(node):
            raise RemoteProtocolError(f"{self._identity.node} relays between members only")

    async def _splice(self, requests: _Requests, context: grpc.aio.ServicerContext, caller: str, to: str) -> None:
        """Exchange the bytes of two calls."""
        arrival, token = _Arrival(to, asyncio.get_running_loop().create_future()), secrets.token_hex(16)
        self._arrivals[token] = arrival
        try:
            if self._queues[to].full():
                raise TransportError(f"{to} takes no connection")
            self._queues[to].put_nowait(token)
            try:
                async with asyncio.timeout(_TAKE_S):
                    back, other = await arrival.taken
            except TimeoutError:
                raise TransportError(f"{to} waits here, but took no connection in {_TAKE_S:g} s") from None
            await other.write(relay_pb2.RelayResponse())
            await context.write(relay_pb2.RelayResponse(waits=True))

            async def left(_: object) -> None:
                await arrival.gone.wait()
                raise TransportError("the receiver ended the connection")

            ways = {
                "to the receiver": lambda _: self._pass_on(requests, other, caller),
                "to the sender": lambda _: self._pass_on(back, context, to),
                "end of the receiver": left,
            }
            await side_by_side(ways, None)
        finally:
            del self._arrivals[token]
            arrival.over.set()

    async def _pass_on(self, requests: _Requests, to: grpc.aio.ServicerContext, sender: str) -> None:
        async for request in requests:
            await self.traffic.carry(sender, len(request.chunk))
            await to.write(relay_pb2.RelayResponse(chunk=request.chunk))
        raise TransportError("one end has ended the connection")

    async def _dial(self, requests: _Requests, context: grpc.aio.ServicerContext, caller: str, to: str) -> None:
        """Exchange the bytes of a call and a TCP connection."""
        reader, writer = await self._open(to)

        async def forth(_: grpc.aio.ServicerContext) -> None:
            with suppress(OSError):
                async for request in requests:
                    await self.traffic.carry(caller, len(request.chunk))
                    writer.write(request.chunk)
                    await writer.drain()
            writer.transport.abort()

        async def back(context: grpc.aio.ServicerContext) -> None:
            with suppress(OSError):
                while chunk := await reader.read(CHUNK_BYTES):
                    await self.traffic.carry(to, len(chunk))
                    await context.write(relay_pb2.RelayResponse(chunk=chunk))
            raise TransportError("the receiver ended the connection")

        try:
            await context.write(relay_pb2.RelayResponse())
            await side_by_side({"to the receiver": forth, "to the sender": back}, context)
        finally:
            writer.transport.abort()

    async def _open(self, to: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if not (address := self._address_of(to)):
            if self._is_known(to):
                raise self._waits_elsewhere(to)
            raise RemoteProtocolError(f"{self._identity.node} relays between members only")
        await reach(address, to, self._identity, _REACH_S)
        try:
            async with asyncio.timeout(_REACH_S):
                return await asyncio.open_connection(*split_address(address))
        except OSError as exc:  # a TimeoutError is one
            raise failure("", exc) from exc


async def _first(requests: _Requests) -> relay_pb2.RelayRequest:
    try:
        async with asyncio.timeout(_HELLO_S):
            return await anext(aiter(requests), relay_pb2.RelayRequest())
    except TimeoutError:
        raise TransportError(f"no request in {_HELLO_S:g} s") from None
