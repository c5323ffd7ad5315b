"""One stream of pictures of the cluster for any number of browsers.

The cluster is looked at at most four times a second, however much happens, and only while somebody looks. Every
browser gets the newest picture when it has taken the last one: who reads slowly, or not at all, costs one picture and
a socket's buffer, and is hung up on after a while.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import Any

from starlette.types import Receive, Scope, Send

_EVERY_S = 0.25
_BEAT_S = 15.0  # without a change, something is said so often: proxies cut what is silent
_STALLED_S = 60.0
_MOST = 64


class Feed:
    """The stream; an ASGI app.

    Args:
        look: the picture of now, as plain values.
    """

    def __init__(self, look: Callable[[], Mapping[str, Any]]) -> None:
        self._look = look
        self._picture = b""
        self._number = 0
        self._news = asyncio.Condition()
        self._over = False
        self.watching = 0

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            if self.watching:
                await self._show(json.dumps(self._look(), separators=(",", ":")).encode())
            await asyncio.sleep(_EVERY_S)

    async def end(self) -> None:
        """The run is over: everybody gets the last picture, and the end."""
        self._over = True
        await self._show(json.dumps(self._look(), separators=(",", ":")).encode())

    async def _show(self, picture: bytes) -> None:
        async with self._news:
            if picture != self._picture or self._over:
                self._picture, self._number = picture, self._number + 1
                self._news.notify_all()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One browser."""
        if self.watching >= _MOST:
            await send({"type": "http.response.start", "status": 503, "headers": [(b"retry-after", b"5")]})
            await send({"type": "http.response.body", "body": b"too many watch already"})
            return
        self.watching += 1
        try:
            talk = asyncio.ensure_future(self._talk(send))
            gone = asyncio.ensure_future(_disconnected(receive))
            try:
                await asyncio.wait((talk, gone), return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in (talk, gone):
                    task.cancel()
                await asyncio.gather(talk, gone, return_exceptions=True)
        finally:
            self.watching -= 1

    async def _talk(self, send: Send) -> None:
        headers = [
            (b"content-type", b"text/event-stream"),
            (b"cache-control", b"no-store"),
            (b"x-accel-buffering", b"no"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        seen, first = self._number, json.dumps(self._look(), separators=(",", ":")).encode()
        await _say(send, b"retry: 2000\ndata: " + first + b"\n\n")
        while not self._over:
            seen, said = await self._next(seen)
            await _say(send, said)
        await _say(send, b"event: over\ndata: " + self._picture + b"\n\n")
        await send({"type": "http.response.body", "body": b""})

    async def _next(self, seen: int) -> tuple[int, bytes]:
        """The newest picture that is newer than one; or a beat."""
        try:
            async with asyncio.timeout(_BEAT_S), self._news:
                await self._news.wait_for(lambda: self._number != seen or self._over)
                return self._number, b"data: " + self._picture + b"\n\n"
        except TimeoutError:
            return seen, b": still here\n\n"


async def _say(send: Send, body: bytes) -> None:
    """One piece; a reader that takes none for a minute is given up."""
    async with asyncio.timeout(_STALLED_S):
        await send({"type": "http.response.body", "body": body, "more_body": True})


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
