"""The public side of a gRPC server: who connects, and what of it reaches gRPC.

gRPC takes every connection, gives each 45 KB and none a limit, and needs the same files that checkpoints need. So the
public port is not gRPC's. Connections are accepted here, one file and about a kilobyte each:

1. A connection has a place (`places`), or is hung up on.
2. It sends a whole TLS ClientHello within _OPENING_S. Others are hung up on. On a server without TLS, which only
   loopback reaches, any byte will do.
3. Then it is passed on to gRPC, which listens where nobody else can connect: at a Unix socket without a name. Bytes are
   copied, not read, so TLS protects them from end to end. gRPC ends the handshake in seconds.
4. With the first call that a server admits (`prove`), the connection is a known one.

A connection to gRPC has the address of the other end in its name, and gRPC calls it `peer`.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Self, cast
from urllib.parse import unquote

import grpc.aio

from edgenode.net.listener import MOST_OF_A_HELLO, accepting, hang_up, tls_opened
from edgenode.net.places import Place, Places

_OPENING_S = 10.0
_PIECE_BYTES = 256 * 1024
_DEAD_AFTER_MS = 20_000
_DRAIN_S = 0.2
_MARK = "edgenode-"
_HIDES = sys.platform == "linux"


class _Buffer(threading.local):
    """What the connections of one thread read into, in turn."""

    def __init__(self) -> None:
        self.piece = memoryview(bytearray(_PIECE_BYTES))


_BUFFER = _Buffer()


def peer_of(context: grpc.aio.ServicerContext) -> str:
    """The address of a caller, host:port."""
    shown = unquote(context.peer())
    return shown.rpartition("/")[2].partition("-")[2] if _MARK in shown else shown


class PrivateAddress:
    """A Unix socket that gRPC listens at, in a folder that only this user can enter.

    On Linux only this process can connect to it. Its name exists only while gRPC binds it, later connections go through
    a descriptor of the socket, and connections have names that are no files.

    Attributes:
        name: the path that gRPC listens at.
        prefix: the beginning of the names of all connections to it.
    """

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix=_MARK))
        self.name = f"{self._folder}/grpc"
        self.prefix = f"{_MARK}{secrets.token_hex(8)}" if _HIDES else str(self._folder)
        self._file: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def hide(self) -> None:
        """Remove the name where that is possible. To be called when gRPC listens."""
        if not _HIDES:
            return
        self._file = os.open(self.name, os.O_PATH | os.O_CLOEXEC)
        self._remove()

    def close(self) -> None:
        """Nobody connects any more."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
        self._remove()

    def connect(self, name: str) -> socket.socket:
        """Connect under a name, which the other end sees. It begins with the prefix.

        Raises:
            OSError: gRPC does not accept the connection now, or no file descriptor is free.
        """
        ours = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        ours.setblocking(False)
        try:
            ours.bind(f"\0{name}" if _HIDES else name)
            ours.connect(f"/proc/self/fd/{self._file}" if _HIDES else self.name)
            if not _HIDES:
                Path(name).unlink()
        except OSError as exc:
            ours.close()
            raise ConnectionRefusedError("gRPC accepts no connection now") from exc
        return ours

    def _remove(self) -> None:
        with suppress(OSError):
            Path(self.name).unlink(missing_ok=True)
            self._folder.rmdir()


class Front:
    """The connections of one server.

    Args:
        tls: whether connections begin with a ClientHello. Without TLS, everybody who can connect is known.
    """

    def __init__(self, private: PrivateAddress, tls: bool, places: Places) -> None:
        self._private, self._is_opened = private, tls_opened if tls else bool
        self.places, self._trusted = places, not tls
        self._links: dict[str, _Link] = {}  # by the name of their connection to gRPC
        self._is_empty = asyncio.Event()

    @asynccontextmanager
    async def open(self, sockets: list[socket.socket], stop: Callable[[], Awaitable[object]]) -> AsyncIterator[None]:
        """Serve during the body. Then accept nobody, stop gRPC, and pass on what it has sent by then."""
        try:
            with accepting(sockets, self.places, self._welcome):
                yield
        finally:
            for link in [link for link in self._links.values() if not link.is_passed_on]:
                link.close()
            await stop()
            await self._drained()
            for link in list(self._links.values()):
                link.close()

    async def _drained(self) -> None:
        """Wait until gRPC has closed all connections, which it does soon after its end."""
        self._is_empty = asyncio.Event()
        if self._links:
            with suppress(TimeoutError):
                async with asyncio.timeout(_DRAIN_S):
                    await self._is_empty.wait()

    def prove(self, context: grpc.aio.ServicerContext, who: str) -> None:
        """Note that a call on this connection was admitted, of an owner."""
        if link := self._links.get(unquote(context.peer()).partition(":")[2]):
            link.place.prove(who)

    def _welcome(self, guest: socket.socket, address: str, place: Place) -> None:
        name = f"{self._private.prefix}/{secrets.token_hex(8)}-{address}"  # that nobody else can have taken
        link = _Link(guest, place, self._is_opened, lambda: self._private.connect(name), lambda: self._ended(name))
        self._links[name] = link
        if self._trusted:
            place.prove(name)

    def _ended(self, name: str) -> None:
        del self._links[name]
        if not self._links:
            self._is_empty.set()


class _Link:
    """A connection from its acceptance to its end."""

    __slots__ = ("_connect", "_ended", "_first", "_guest", "_inner", "_is_opened", "_late", "_loop", "place")

    def __init__(
        self,
        guest: socket.socket,
        place: Place,
        is_opened: Callable[[bytes], bool],
        connect: Callable[[], socket.socket],
        ended: Callable[[], object],
    ) -> None:
        self._guest, self.place, self._is_opened = guest, place, is_opened
        self._connect, self._ended = connect, ended
        self._first, self._inner = b"", cast("socket.socket | None", None)
        self._loop = asyncio.get_running_loop()
        self._late = self._loop.call_later(_OPENING_S, self.close)
        place.hang_up = self.close
        self._loop.add_reader(guest, self._open)

    def _open(self) -> None:
        """Read the beginning, and pass the connection on when the first message is there."""
        try:
            read = self._guest.recv(MOST_OF_A_HELLO - len(self._first))
            self._first += read
            if not read:
                self.close()
            elif self._is_opened(self._first):
                self._pass_on()
        except BlockingIOError:
            return
        except (OSError, ValueError):
            self.close()

    def _pass_on(self) -> None:
        self._late.cancel()
        self._inner = self._connect()
        self._guest.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # the other end vanished, and gRPC cannot see that
            self._guest.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _DEAD_AFTER_MS)
        self._inner.send(self._first)  # the buffer of a new socket has room for it
        self._first = b""
        _Way(self._guest, self._inner, self._half_closed, self.close)
        _Way(self._inner, self._guest, lambda: self.close(is_over=True), self.close)

    def _half_closed(self) -> None:
        """The other end sends no more. gRPC learns it, and closes its side."""
        assert self._inner is not None
        self._loop.remove_reader(self._guest)
        self._inner.shutdown(socket.SHUT_WR)

    @property
    def is_passed_on(self) -> bool:
        """Whether gRPC has the connection."""
        return self._inner is not None

    def close(self, is_over: bool = False) -> None:
        """End the connection. If gRPC has ended it (`is_over`), the other end receives what was sent before."""
        self._late.cancel()
        if self._guest.fileno() < 0:
            return
        for one in (self._guest, self._inner):
            if one is not None:
                self._loop.remove_reader(one)
                self._loop.remove_writer(one)
                hang_up(one, at_once=not is_over)
        self.place.leave()
        self._ended()


class _Way:
    """One direction of a connection. It holds one piece at most, so a slow receiver holds the sender up.

    Args:
        ended: called when the source has sent its last byte, and the sink has taken it.
        failed: called when one of them has failed.
    """

    __slots__ = ("_ended", "_failed", "_loop", "_piece", "_rest", "_sink", "_source")

    def __init__(
        self, source: socket.socket, sink: socket.socket, ended: Callable[[], None], failed: Callable[[], None]
    ) -> None:
        self._source, self._sink, self._ended, self._failed = source, sink, ended, failed
        self._loop, self._rest = asyncio.get_running_loop(), memoryview(b"")
        self._piece = _BUFFER.piece
        self._loop.add_reader(source, self._read)

    def _read(self) -> None:
        try:
            if count := self._source.recv_into(self._piece):
                self._send(self._piece[:count])
            else:
                self._ended()
        except BlockingIOError:
            return
        except OSError:
            self._failed()

    def _send(self, data: memoryview) -> None:
        try:
            sent = self._sink.send(data)
        except BlockingIOError:
            sent = 0
        if sent < len(data):
            self._rest = memoryview(bytes(data[sent:]))
            self._loop.remove_reader(self._source)
            self._loop.add_writer(self._sink, self._send_rest)

    def _send_rest(self) -> None:
        try:
            self._rest = self._rest[self._sink.send(self._rest) :]
        except BlockingIOError:
            return
        except OSError:
            self._failed()
            return
        if not self._rest:
            self._loop.remove_writer(self._sink)
            self._loop.add_reader(self._source, self._read)
