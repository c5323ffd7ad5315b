"""One event stream with snapshots of the cluster, for any number of browsers.

The cluster's state is read at most four times a second, however often it changes, and only while a client is
connected. A client gets the newest snapshot when it has taken the one before. A slow or stalled client thus costs one
snapshot and a socket's buffer, and is disconnected after _STALLED_S. When there are _MOST_CLIENTS, a new client takes
the place of the oldest client of the watcher that has most, so that nobody keeps the others out.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from starlette.types import Receive, Scope, Send

from edgenode.net.http import hang_up

_EVERY_S = 0.25
_BEAT_S = 15.0  # a comment is sent this often without a change: proxies close silent connections
_STALLED_S = 60.0
_MOST_CLIENTS = 64


class Feed:
    """The stream, as an ASGI app.

    Args:
        status: reads the cluster's state, as JSON values.
        watcher: returns the sender of a request. None ends the stream: the client may not watch any more.
    """

    def __init__(
        self, status: Callable[[], Mapping[str, Any]], watcher: Callable[[Scope], str | None] = lambda scope: ""
    ) -> None:
        self._status, self._watcher = status, watcher
        self._snapshot = b""
        self._number = 0
        self._changed = asyncio.Condition()
        self._over = False
        self._clients: dict[asyncio.Future[None], str | None] = {}  # streams and their watchers, the oldest first

    @property
    def clients(self) -> int:
        """The number of connected clients."""
        return len(self._clients)

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
            self._make_room()
        stream = asyncio.ensure_future(self._stream(scope, send))
        disconnected = asyncio.ensure_future(_disconnected(receive))
        self._clients[stream] = self._watcher(scope)
        try:
            await asyncio.wait((stream, disconnected), return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._clients.pop(stream, None)
            for task in (stream, disconnected):
                task.cancel()
            await asyncio.gather(stream, disconnected, return_exceptions=True)
            if stream.cancelled() or stream.exception():
                hang_up(scope)

    def _make_room(self) -> None:
        """Disconnect the oldest client of the watcher that has most."""
        (most, _), *_ = Counter(self._clients.values()).most_common(1)
        oldest = next(stream for stream, watcher in self._clients.items() if watcher == most)
        del self._clients[oldest]
        oldest.cancel()

    async def _stream(self, scope: Scope, send: Send) -> None:
        headers = [
            (b"content-type", b"text/event-stream"),
            (b"cache-control", b"no-store"),
            (b"x-accel-buffering", b"no"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        seen, first = self._number, self._read()
        await _write(send, b"retry: 2000\ndata: " + first + b"\n\n")
        while not self._over and self._watcher(scope) is not None:
            seen, event = await self._next(seen)
            await _write(send, event)
        if self._over:
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
    """Send a part of the response. A client that has not taken it for _STALLED_S is disconnected."""
    async with asyncio.timeout(_STALLED_S):
        await send({"type": "http.response.body", "body": body, "more_body": True})


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
