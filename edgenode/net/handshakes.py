"""Accepts TLS connections for a server. Strangers can leave handshakes half-open, so few are under way at once."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

HANDSHAKE_S = 10.0
_MOST = 192
_MOST_AT_AN_ADDRESS = 128
_PAUSE_S = 0.5  # when no file descriptor is free


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
                here = [one for one, its in hosts.items() if its == host]
                if len(here) > _MOST_AT_AN_ADDRESS or len(hosts) > _MOST:
                    oldest = here[0] if len(here) > _MOST_AT_AN_ADDRESS else next(iter(hosts))
                    del hosts[oldest]
                    oldest.cancel()
