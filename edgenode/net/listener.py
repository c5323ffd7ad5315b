"""Binds TCP ports, and accepts connections for a server that has a limited number of places.

The event loop is never held up: some connections are accepted at a time. Without a file descriptor for another one,
the listener pauses, says so once a minute, and continues.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial

import structlog

from edgenode.addresses import join_address, split_address
from edgenode.net.interfaces import WILDCARDS
from edgenode.net.places import Place, Places

log = structlog.get_logger()

_AT_ONCE = 64
_BACKLOG = 1024
_PAUSE_S = 0.5  # when no file descriptor is free
_SAY_EVERY_S = 60.0
_RECORD, _HANDSHAKE = 5, b"\x16\x03"
MOST_OF_A_HELLO = 16 * 1024
_RESET = struct.pack("ii", 1, 0)  # for SO_LINGER
Welcome = Callable[[socket.socket, str, Place], None]
"""Serves an accepted connection, which does not block, from an address (host:port). It frees the place at the end."""


def bind(listen: str) -> list[socket.socket]:
    """Return sockets that listen at host:port, all at one port. A wildcard takes IPv4 and IPv6.

    Raises:
        OSError: the address cannot be bound.
        ConfigError: it is not an address.
    """
    host, port = split_address(listen)
    if host in WILDCARDS and socket.has_dualstack_ipv6():
        with suppress(OSError):
            return [_bound(socket.AF_INET6, "::", port, dualstack=True)]
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    sockets: list[socket.socket] = []
    for family, *_, address in found:
        try:
            sockets.append(_bound(family, str(address[0]), port))
        except OSError:
            if not sockets:
                raise
        port = sockets[0].getsockname()[1]
    return sockets


def _bound(family: int, host: str, port: int, dualstack: bool = False) -> socket.socket:
    bound = socket.create_server(
        (host, port), family=socket.AddressFamily(family), backlog=_BACKLOG, dualstack_ipv6=dualstack
    )
    bound.setblocking(False)
    return bound


def why_not(error: OSError) -> str:
    """Return why an address cannot be bound."""
    return os.strerror(error.errno).lower() if error.errno and error.errno > 0 else str(error).lower()


@contextmanager
def accepting(sockets: Sequence[socket.socket], places: Places, welcome: Welcome) -> Iterator[None]:
    """Accept connections while the body runs. At its end, the ports are free."""
    listeners = [_Listener(one, places, welcome) for one in sockets]
    try:
        for listener in listeners:
            listener.start()
        yield
    finally:
        for listener in listeners:
            listener.stop()


class _Listener:
    def __init__(self, listening: socket.socket, places: Places, welcome: Welcome) -> None:
        self._listening, self._places, self._welcome = listening, places, welcome
        self._loop = asyncio.get_running_loop()
        self._paused: asyncio.TimerHandle | None = None
        self._said = float("-inf")

    def start(self) -> None:
        self._paused = None
        self._loop.add_reader(self._listening, self._accept)

    def stop(self) -> None:
        if self._paused is not None:
            self._paused.cancel()
        self._loop.remove_reader(self._listening)
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)  # a forked process may have a copy
        self._listening.close()

    def _accept(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                accepted, address = self._listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as exc:
                self._pause(exc)
                return
            host = str(address[0]).removeprefix("::ffff:")
            place = self._places.take(host, partial(hang_up, accepted))
            if place is None:
                hang_up(accepted)
            else:
                accepted.setblocking(False)
                self._welcome(accepted, join_address(host, address[1]), place)

    def _pause(self, error: OSError) -> None:
        if self._loop.time() - self._said > _SAY_EVERY_S:
            self._said = self._loop.time()
            log.warning("cannot accept connections for now", reason=why_not(error))
        self._loop.remove_reader(self._listening)
        self._paused = self._loop.call_later(_PAUSE_S, self.start)


def tls_opened(first: bytes) -> bool:
    """Return whether the first record of a TLS handshake is whole.

    Raises:
        ValueError: it is something else.
    """
    if not first.startswith(_HANDSHAKE[: len(first)]):
        raise ValueError("not a handshake of TLS")
    if len(first) < _RECORD:
        return False
    if (length := int.from_bytes(first[3:_RECORD])) > MOST_OF_A_HELLO:
        raise ValueError("too long")
    return len(first) >= _RECORD + length


def hang_up(connection: socket.socket, at_once: bool = True) -> None:
    """End a connection, even if a forked process has a copy of its socket.

    Args:
        at_once: drop what is not sent yet. The kernel keeps nothing of the connection.
    """
    with suppress(OSError):
        if at_once:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()
