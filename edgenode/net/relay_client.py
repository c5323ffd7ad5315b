"""A way to a member through a relay: a loopback port whose connections another process carries to that member.

The member is at the other end of such a connection, with its own certificate. A `PeerLink` dials the port like any
address: pushes are repeated until they are answered, and taken once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import grpc
import grpc.aio

from edgenode.net.proto import relay_pb2, relay_pb2_grpc
from edgenode.net.reasons import why
from edgenode.net.rpc import channel, side_by_side
from edgenode.net.tls import Security
from edgenode.net.wire import CHUNK_BYTES

_OPEN_S = 5.0


@dataclass(frozen=True)
class Relay:
    """A process that can relay.

    Attributes:
        address: host:port.
        server: the DNS name in its certificate.
    """

    name: str
    address: str
    server: str


class Way:
    """A way by one relay.

    Attributes:
        address: the address of the loopback port.
        why: the last error of the relay. Empty if it did not fail.
    """

    def __init__(self, stub: relay_pb2_grpc.RelayServiceStub, to: str) -> None:
        self._stub, self._to = stub, to
        self.address, self.why = "", ""

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection, to its end."""

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

        call = self._stub.Relay()
        try:
            await call.write(relay_pb2.RelayRequest(to=self._to))
            async with asyncio.timeout(_OPEN_S):
                await call.read()
            await side_by_side({"forth": forth, "back": back}, call)
        except TimeoutError:
            self.why = f"no answer in {_OPEN_S:g} s"
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError, ExceptionGroup) as exc:
            causes = exc.exceptions if isinstance(exc, ExceptionGroup) else (exc,)
            failed = [cause for cause in causes if isinstance(cause, grpc.aio.AioRpcError)]
            self.why = why(failed[0]) if failed else "the relay ended the connection"
        finally:
            call.cancel()
            writer.transport.abort()


@asynccontextmanager
async def way_by(relay: Relay, security: Security, to: str) -> AsyncIterator[Way]:
    """A way to a member by a relay, for as long as the block lasts."""
    async with channel(relay.address, security, relay.server) as to_relay, asyncio.TaskGroup() as group:
        way, carrying = Way(relay_pb2_grpc.RelayServiceStub(to_relay), to), set[asyncio.Task[None]]()

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
