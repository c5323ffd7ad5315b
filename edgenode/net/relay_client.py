"""Connections by way of a relay: to a member, and to this process from others.

To a member there is a loopback port whose connections the relay carries. The member is at the other end of such a
connection, with its own certificate. A `PeerLink` dials the port like any address: pushes are repeated until they are
answered, and taken once.

A process that nobody can dial waits at the relay (`wait_at`). It passes what arrives there on to its own port, so its
server has no other way in.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import TypeVar

import grpc
import grpc.aio

from edgenode.addresses import join_address, split_address
from edgenode.errors import EdgenodeError, TransportError
from edgenode.net.control_client import ControlLink
from edgenode.net.proto import relay_pb2, relay_pb2_grpc
from edgenode.net.reasons import failure, why
from edgenode.net.rpc import channel, side_by_side
from edgenode.net.tls import Security
from edgenode.net.wire import CHUNK_BYTES, Identity
from edgenode.security.subject import CONTROLLER, Subject

_OPEN_S = 5.0
_MOST_TAKEN = 32

T = TypeVar("T")


@dataclass(frozen=True)
class Relay:
    """A process that can relay.

    Attributes:
        address: host:port.
        server: the DNS name in its certificate.
        only_waiting: it is asked for a member that waits there, and does not dial any other.
    """

    name: str
    address: str
    server: str
    only_waiting: bool = False


class Way:
    """A way by one relay.

    Attributes:
        relay: the name of the relay.
        address: the address of the loopback port.
        waits: the member waits at the relay. It is no fault that it cannot be dialled.
        why: the last error of the relay. Empty if it did not fail.
    """

    def __init__(self, relay: str, stub: relay_pb2_grpc.RelayServiceStub, first: relay_pb2.RelayRequest) -> None:
        self.relay, self._stub, self._first = relay, stub, first
        self.address, self.why, self.waits = "", "", False

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection, to its end."""

        def opened(response: relay_pb2.RelayResponse) -> None:
            self.waits = response.waits

        self.why = await _carry(self._stub.Relay(), self._first, reader, writer, opened) or self.why


async def _carry(
    call: grpc.aio.StreamStreamCall,
    request: relay_pb2.RelayRequest,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    opened: Callable[[relay_pb2.RelayResponse], None] = lambda response: None,
) -> str:
    """Carry a TCP connection over a call, to the end of both. Return why the relay failed, or ""."""

    async def forth(call: grpc.aio.StreamStreamCall) -> None:
        with suppress(OSError):
            while chunk := await reader.read(CHUNK_BYTES):
                await call.write(relay_pb2.RelayRequest(chunk=chunk))
        await call.done_writing()

    async def back(call: grpc.aio.StreamStreamCall) -> None:
        with suppress(OSError):
            while (response := await call.read()) is not grpc.aio.EOF:
                writer.write(response.chunk)
                await writer.drain()
        writer.transport.abort()

    try:
        await call.write(request)
        async with asyncio.timeout(_OPEN_S):
            first = await call.read()
        if first is not grpc.aio.EOF:
            opened(first)
        await side_by_side({"forth": forth, "back": back}, call)
    except TimeoutError:
        return f"no answer in {_OPEN_S:g} s"
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError, ExceptionGroup) as exc:
        causes = exc.exceptions if isinstance(exc, ExceptionGroup) else (exc,)
        failed = [cause for cause in causes if isinstance(cause, grpc.aio.AioRpcError)]
        return why(failed[0]) if failed else "the relay ended the connection"
    finally:
        call.cancel()
        writer.transport.abort()
    return ""


@asynccontextmanager
async def way_by(relay: Relay, security: Security, to: str) -> AsyncIterator[Way]:
    """A way to a member by a relay, for as long as the block lasts."""
    first, carrying = relay_pb2.RelayRequest(to=to, only_waiting=relay.only_waiting), set[asyncio.Task[None]]()
    async with channel(relay.address, security, relay.server) as to_relay, asyncio.TaskGroup() as group:
        way = Way(relay.name, relay_pb2_grpc.RelayServiceStub(to_relay), first)

        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if not server.is_serving():  # the way has ended since the connection was accepted
                writer.transport.abort()
                return
            task = group.create_task(way.carry(reader, writer), name=f"way to {to} by {relay.name}")
            carrying.add(task)
            task.add_done_callback(carrying.discard)
            task.add_done_callback(lambda _: writer.transport.abort())  # also if it is cancelled before it begins

        server = await asyncio.start_server(connected, "127.0.0.1", 0)
        way.address = "{}:{}".format(*server.sockets[0].getsockname())
        try:
            yield way
        finally:
            server.close()
            for task in carrying:
                task.cancel()


async def called_by(relay: Relay, security: Security, to: str, call: Callable[[str], Awaitable[T]]) -> T:
    """The result of a call to a member that waits at a relay.

    Args:
        call: takes host:port.

    Raises:
        TransportError: it does not wait there, or the call raises it.
    """
    error: EdgenodeError | None = None  # raised when the way has ended, whose task group would wrap it
    async with way_by(replace(relay, only_waiting=True), security, to) as way:
        try:
            result = await call(way.address)
        except EdgenodeError as exc:
            error = exc
    if isinstance(error, TransportError):
        raise TransportError(f"by way of {relay.name}: {way.why or error}") from error
    if error is not None:
        raise error
    return result


@dataclass(frozen=True)
class Inbound:
    """The connections that reach this process by relays.

    Attributes:
        own: host:port of its own server.
        by: the name of the relay, by the address that the server sees.
    """

    own: str
    by: dict[str, str] = field(default_factory=dict)


async def wait_at(relay: Relay, identity: Identity, inbound: Inbound, waits: Callable[[], None]) -> None:
    """Wait at a relay, and take what arrives, until the relay ends that.

    Args:
        waits: called when the relay knows that this process waits.

    Raises:
        TransportError: the relay cannot be reached, refuses, or has ended.
    """
    taking = set[asyncio.Task[None]]()
    async with channel(relay.address, identity.security, relay.server) as to_relay:
        stub = relay_pb2_grpc.RelayServiceStub(to_relay)
        try:
            call = stub.Wait(relay_pb2.WaitRequest(node=identity.node))
            async for arrival in call:
                if not arrival.token:
                    waits()
                elif len(taking) < _MOST_TAKEN:
                    task = asyncio.create_task(_take(stub, arrival.token, relay.name, inbound), name="by a relay")
                    taking.add(task)
                    task.add_done_callback(taking.discard)
        except grpc.aio.AioRpcError as exc:
            raise failure(relay.name, exc) from exc
        finally:
            for task in taking:
                task.cancel()
            await asyncio.gather(*taking, return_exceptions=True)
    raise TransportError(f"{relay.name} has ended")


async def _take(stub: relay_pb2_grpc.RelayServiceStub, token: str, relay: str, inbound: Inbound) -> None:
    """Pass one connection on to the own server, to its end."""
    try:
        reader, writer = await asyncio.open_connection(*split_address(inbound.own))
    except OSError:  # the server has ended
        return
    ours = join_address(*writer.get_extra_info("sockname")[:2])
    inbound.by[ours] = relay
    try:
        await _carry(stub.Take(), relay_pb2.RelayRequest(to=token), reader, writer)
    finally:
        del inbound.by[ours]


def controller_as_relay(link: ControlLink | None) -> list[Relay]:
    """The controller that a link has dialled last, as a relay. Empty if there is none."""
    return [Relay(CONTROLLER.name, link.target, CONTROLLER.dns_name)] if link is not None and link.target else []


def relay_processes(link: ControlLink | None) -> list[Relay]:
    """The processes that only relay, as the controller has named them."""
    relays = link.relays if link is not None else ()
    return [Relay(relay.name, relay.address, Subject("relay", relay.name).dns_name) for relay in relays]


def relays_of(link: ControlLink | None) -> list[Relay]:
    """All processes besides the members at which members may wait."""
    return [*relay_processes(link), *controller_as_relay(link)]


async def ask(
    node: str,
    addresses: Sequence[str],
    link: ControlLink | None,
    security: Security,
    call: Callable[[str], Awaitable[T]],
) -> T:
    """The result of a call to a node: at one of its addresses, or else at a relay where it waits, or as it is observed.

    Args:
        link: the link to the controller, if there is one. It knows the relays, and where the controller sees the node.
        call: takes host:port.

    Raises:
        TransportError: the node cannot be reached. The text is that of its last address.
    """
    error = TransportError("its address is not known")
    for address in addresses:
        try:
            return await call(address)
        except TransportError as exc:
            error = exc
    for relay in relays_of(link):
        with suppress(TransportError):
            return await called_by(relay, security, node, call)
    if link is not None and (observed := link.observed.of(node)):  # last: a router drops what it does not forward
        with suppress(TransportError):
            return await call(observed)
    raise error
