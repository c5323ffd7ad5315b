"""Accepts TLS connections for a server. Strangers can leave handshakes half-open, so few are under way at once."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import NoReturn, TypeVar

HANDSHAKE_S = 10.0
_MOST = 192
_MOST_AT_AN_ADDRESS = 128
_PAUSE_S = 0.5  # when no file descriptor is free
K = TypeVar("K")


async def accept_tls(
    listening: socket.socket, context: ssl.SSLContext, make: Callable[[], asyncio.Protocol]
) -> NoReturn:
    """Accept connections until cancelled. Then close the socket.

    Too many handshakes, in all or at one address: the oldest makes room. A true one takes milliseconds.

    Args:
        make: the protocol of a connection, for which the handshake is done.
    """
    loop = asyncio.get_running_loop()
    listening.setblocking(False)
    hosts: dict[asyncio.Task[None], str] = {}  # of the handshakes under way, the oldest first

    async def shake_hands(accepted: socket.socket) -> None:
        with suppress(OSError):  # it fails, or takes too long
            await loop.connect_accepted_socket(make, accepted, ssl=context, ssl_handshake_timeout=HANDSHAKE_S)

    with listening:
        async with asyncio.TaskGroup() as group:
            while True:
                try:
                    accepted, (host, *_) = await loop.sock_accept(listening)
                except OSError:
                    await asyncio.sleep(_PAUSE_S)
                    continue
                task = group.create_task(shake_hands(accepted), name=f"handshake with {host}")
                hosts[task] = host
                task.add_done_callback(lambda done: hosts.pop(done, None))
                if oldest := one_too_many(hosts, host):
                    del hosts[oldest]
                    oldest.cancel()


def one_too_many(hosts: Mapping[K, str], newest: str) -> K | None:
    """Return which connection makes room for the newest: the oldest at its address, or of all. None if there is room.

    Args:
        hosts: the address of each connection of a stranger, the oldest first.
        newest: the address of the newest.
    """
    here = [one for one, host in hosts.items() if host == newest]
    if len(here) > _MOST_AT_AN_ADDRESS:
        return here[0]
    return next(iter(hosts)) if len(hosts) > _MOST else None
