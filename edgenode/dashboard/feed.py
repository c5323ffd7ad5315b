"""One event stream with snapshots of the cluster, for any number of browsers.

The cluster's state is read at most four times a second, however often it changes, and only while a client is
connected. A client gets the newest snapshot when it has taken the one before. A slow or stalled client thus costs one
snapshot and a socket's buffer, and is disconnected after _STALLED_S.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import Any

from starlette.types import Receive, Scope, Send

_EVERY_S = 0.25
_BEAT_S = 15.0  # a comment is sent this often without a change: proxies close silent connections
_STALLED_S = 60.0
_MOST_CLIENTS = 64


class Feed:
    """The stream, as an ASGI app.

    Args:
        status: reads the cluster's state, as JSON values.
    """

    def __init__(self, status: Callable[[], Mapping[str, Any]]) -> None:
        self._status = status
        self._snapshot = b""
        self._number = 0
        self._changed = asyncio.Condition()
        self._over = False
        self.clients = 0

    async def run(self) -> None:
        """Read the state and publish changes until cancelled."""
        while True:
            if self.clients:
                await self._publish()
            await asyncio.sleep(_EVERY_S)

    async def end(self) -> None:
        """The run is over: send the last snapshot to every client, and end its stream."""
        self._over = True
        await self._publish()

    async def _publish(self) -> None:
        snapshot = self._read()
        async with self._changed:
            if snapshot != self._snapshot or self._over:
                self._snapshot, self._number = snapshot, self._number + 1
                self._changed.notify_all()

    def _read(self) -> bytes:
        return json.dumps(self._status(), separators=(",", ":")).encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one client."""
        if self.clients >= _MOST_CLIENTS:
            await send({"type": "http.response.start", "status": 503, "headers": [(b"retry-after", b"5")]})
            await send({"type": "http.response.body", "body": b"too many clients are watching; try again later"})
            return
        self.clients += 1
        try:
            stream = asyncio.ensure_future(self._stream(send))
            disconnected = asyncio.ensure_future(_disconnected(receive))
            try:
                await asyncio.wait((stream, disconnected), return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in (stream, disconnected):
                    task.cancel()
                await asyncio.gather(stream, disconnected, return_exceptions=True)
        finally:
            self.clients -= 1

    async def _stream(self, send: Send) -> None:
        headers = [
            (b"content-type", b"text/event-stream"),
            (b"cache-control", b"no-store"),
            (b"x-accel-buffering", b"no"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        seen, first = self._number, self._read()
        await _write(send, b"retry: 2000\ndata: " + first + b"\n\n")
        while not self._over:
            seen, event = await self._next(seen)
            await _write(send, event)
        await _write(send, b"event: over\ndata: " + self._snapshot + b"\n\n")
        await send({"type": "http.response.body", "body": b""})

    async def _next(self, seen: int) -> tuple[int, bytes]:
        """The newest snapshot after number ``seen``, with its number; or a comment if nothing changes for _BEAT_S."""
        try:
            async with asyncio.timeout(_BEAT_S), self._changed:
                await self._changed.wait_for(lambda: self._number != seen or self._over)
                return self._number, b"data: " + self._snapshot + b"\n\n"
        except TimeoutError:
            return seen, b": no change\n\n"


async def _write(send: Send, body: bytes) -> None:
    """Send a part of the response.

    Raises:
        TimeoutError: the client has not taken it for _STALLED_S.
    """
    async with asyncio.timeout(_STALLED_S):
        await send({"type": "http.response.body", "body": body, "more_body": True})


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
