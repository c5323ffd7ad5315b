"""Relays bytes between two members: a firewall may keep one from the other, and both from no third process.

1. A relay opens one TCP connection to the receiver for each call, and understands nothing of what passes. With
   certificates, the two ends have TLS with each other, so a relay can neither read nor change a push.
2. Only members may ask, and only for members. So that a false address of a member opens no way into the relay's own
   machine, the relay first makes sure that this member answers there.
3. A member has a quarter of the places at most, so that no member can take all of them.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import suppress

import grpc.aio

from edgenode.addresses import split_address
from edgenode.errors import EdgenodeError, RemoteProtocolError, TransportError, first_cause
from edgenode.net.peer_calls import reach
from edgenode.net.proto import relay_pb2, relay_pb2_grpc
from edgenode.net.reasons import failure
from edgenode.net.rpc import refuse, side_by_side
from edgenode.net.tls import node_of_caller
from edgenode.net.wire import CHUNK_BYTES, Identity

SERVICE = "edgenode.v1.RelayService"
_MOST_CALLS = 32
_MOST_OF_A_MEMBER = 8
_HELLO_S = 10.0
_REACH_S = 2.0
_Requests = AsyncIterator[relay_pb2.RelayRequest]


class RelayServer(relay_pb2_grpc.RelayServiceServicer):
    """Relays between the members of one run.

    Args:
        address_of: returns host:port of a member, or "" for any other name.
    """

    def __init__(self, identity: Identity, address_of: Callable[[str], str]) -> None:
        self._identity, self._address_of = identity, address_of
        self._calls = Counter[str]()  # by the name of the caller

    def add_to(self, server: grpc.aio.Server) -> None:
        """Register with a server."""
        relay_pb2_grpc.add_RelayServiceServicer_to_server(self, server)

    async def Relay(self, requests: _Requests, context: grpc.aio.ServicerContext) -> None:
        """One connection to a member, until either side ends it."""
        caller = node_of_caller(context)
        if self._calls.total() >= _MOST_CALLS:
            await refuse(context, TransportError(f"this process relays {_MOST_CALLS} connections already"))
        if caller and self._calls[caller] >= _MOST_OF_A_MEMBER:
            why = f"this process relays {_MOST_OF_A_MEMBER} connections of {caller} already"
            await refuse(context, TransportError(why))
        self._calls[caller] += 1
        try:
            await self._relay(requests, context, caller)
        except (EdgenodeError, ExceptionGroup) as exc:
            await refuse(context, first_cause(exc))
        finally:
            self._calls -= Counter((caller,))  # which forgets callers without calls

    async def _relay(self, requests: _Requests, context: grpc.aio.ServicerContext, caller: str) -> None:
        reader, writer = await self._open(requests, caller)

        async def forth(_: grpc.aio.ServicerContext) -> None:
            with suppress(OSError):
                async for request in requests:
                    writer.write(request.chunk)
                    await writer.drain()
            writer.transport.abort()

        async def back(context: grpc.aio.ServicerContext) -> None:
            with suppress(OSError):
                while chunk := await reader.read(CHUNK_BYTES):
                    await context.write(relay_pb2.RelayResponse(chunk=chunk))
            raise TransportError("the receiver ended the connection")

        try:
            await context.write(relay_pb2.RelayResponse())
            await side_by_side({"to the receiver": forth, "to the sender": back}, context)
        finally:
            writer.transport.abort()

    async def _open(self, requests: _Requests, caller: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        try:
            async with asyncio.timeout(_HELLO_S):
                to = (await anext(aiter(requests), relay_pb2.RelayRequest())).to
        except TimeoutError:
            raise TransportError(f"no request in {_HELLO_S:g} s") from None
        address = self._address_of(to)
        if not address or (caller and not self._address_of(caller)):
            raise RemoteProtocolError(f"{self._identity.node} relays between members only")
        await reach(address, to, self._identity, _REACH_S)
        try:
            async with asyncio.timeout(_REACH_S):
                return await asyncio.open_connection(*split_address(address))
        except OSError as exc:  # a TimeoutError is one
            raise failure("", exc) from exc
