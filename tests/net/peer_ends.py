"""Both ends of the peer service over loopback, for tests."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from edgenode.addresses import split_address
from edgenode.core.protocol.events import Answered
from edgenode.core.protocol.messages import Ack, Message, Verdict
from edgenode.core.topology.period import DataSize
from edgenode.errors import EdgenodeError
from edgenode.net import peer_server
from edgenode.net.peer_client import PeerAddresses, PeerLink
from edgenode.net.peer_server import PeerServer
from edgenode.net.proto import peer_pb2
from edgenode.net.push_wire import PushWriter
from edgenode.net.rpc import serving
from edgenode.net.wire import Identity

N0, N1 = Identity("home", "n0", "run"), Identity("home", "n1", "run")
SOON_S = 5.0
DIGEST = "d" * 64
A_SIZE = DataSize(640, 32)


def a_message(t: int, payload: bytes = b"payload") -> Message:
    return Message("n0", 0, t, number=0, digest=DIGEST, weight=0.5, u=(1.0,), payload=payload)


def push_frames(*messages: Message) -> list[peer_pb2.PushRequest]:
    """The frames of pushes in one stream."""
    writer = PushWriter()
    return [peer_pb2.PushRequest.FromString(frame) for message in messages for frame in writer.frames(message)]


@dataclass
class Receiver:
    """n1. It can be stopped and started again, and keeps what it took."""

    identity: Identity = N1
    answers: bool = True
    opens: bool = True
    max_payload_bytes: int = 1_000
    window: int = 8
    busy: bool = False  # its node takes nothing from the mailbox
    port: int = 0
    data: DataSize | None = A_SIZE
    took: list[Message] = field(default_factory=list)
    waiting: list[Callable[[], None]] = field(default_factory=list)
    server: PeerServer = field(init=False)

    @asynccontextmanager
    async def up(self, most_received: int = 1 << 20) -> AsyncIterator[str]:
        self.server = PeerServer(self.identity, (frozenset(), None))
        self.server.data = self.data
        if self.opens:
            self.open()
        services = [(peer_server.SERVICE, self.server.add_to)]
        security = self.identity.security
        async with serving(
            f"127.0.0.1:{self.port}", services, 0.0, security=security, most_received=most_received
        ) as self.port:
            yield f"127.0.0.1:{self.port}"

    def open(self) -> None:
        self.server.open(self.identity, self._take, self.max_payload_bytes, self.window)

    def _take(self, message: Message, taken: Callable[[], None]) -> None:
        if self.busy:
            self.waiting.append(taken)
        else:
            taken()
        seen = message.round in {m.round for m in self.took}
        self.took.append(message)
        if self.answers:
            self.answer(message.round, Verdict.SEEN if seen else Verdict.OK)

    def answer(self, t: int, verdict: Verdict = Verdict.OK) -> None:
        self.server.answer("n0", Ack(t, verdict, 0))

    @property
    def rounds(self) -> list[int]:
        return [message.round for message in self.took]


@asynccontextmanager
async def a_link(
    *targets: str,
    identity: Identity = N0,
    keys: frozenset[str] = frozenset(),
    count: Callable[[int], None] = lambda size: None,
) -> AsyncIterator[tuple[PeerLink, list[Answered]]]:
    """n0's link to n1. It is closed, and has ended, when the block is left."""
    answered: list[Answered] = []
    link = PeerLink("n1", identity, lambda: PeerAddresses(tuple(targets), keys=keys), answered.append, count=count)
    async with asyncio.timeout(SOON_S), asyncio.TaskGroup() as group:
        group.create_task(link.run(), name="link")
        yield link, answered
        link.close()


@asynccontextmanager
async def a_long_way(target: str, one_way_s: float = 0.6) -> AsyncIterator[str]:
    """An address from which all bytes to host:port, and back, take their time.

    A connection without TLS takes one round trip here, and one with TLS three on a real link.
    """
    host, port = split_address(target)
    connections = set[asyncio.Task[Any]]()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            asyncio.get_running_loop().call_later(one_way_s, writer.write, data)

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if task := asyncio.current_task():
            connections.add(task)
        there, back = await asyncio.open_connection(host, port)
        ways = [asyncio.ensure_future(carry(reader, back)), asyncio.ensure_future(carry(there, writer))]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            writer.transport.abort()
            back.transport.abort()

    async with await asyncio.start_server(connected, "127.0.0.1", 0) as server:
        try:
            yield "{}:{}".format(*server.sockets[0].getsockname())
        finally:
            for connection in connections:
                connection.cancel()
            await asyncio.gather(*connections, return_exceptions=True)
            await asyncio.sleep(0)  # the transports close in the next turn


async def until(condition: Callable[[], bool], most_s: float = SOON_S) -> None:
    """Wait for a condition, for some seconds at most."""
    async with asyncio.timeout(most_s):
        while not condition():  # noqa: ASYNC110 - the condition changes on the other side
            await asyncio.sleep(0.005)


async def failure(work: Awaitable[object]) -> EdgenodeError:
    """The error that work ends with."""
    with pytest.raises(EdgenodeError) as caught:
        await asyncio.wait_for(work, SOON_S)
    return caught.value


def is_over(one: socket.socket) -> bool:
    """Return whether the other end has hung up on a socket that does not block."""
    try:
        return one.recv(1 << 16) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def open_files() -> int:
    """How many files this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))
