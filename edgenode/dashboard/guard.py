"""Blocks cross-site requests and DNS rebinding.

1. Only same-origin requests are accepted: the browser states the origin (Origin, Sec-Fetch-Site), and a page of another
   site cannot send a JSON body without a preflight request, which this server does not answer.
2. The Host header must be an address or a name of this machine, so that a foreign name that resolves to this machine
   (DNS rebinding) gets nothing. If the page listens on loopback only, the host must be a loopback address or localhost.
"""

from __future__ import annotations

import ipaddress
import socket
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edgenode.addresses import split_address
from edgenode.net.http import host_of
from edgenode.net.interfaces import is_loopback

_OPEN = ("/metrics",)  # has rules of its own: scrapers may use any name
_HEADERS = {
    "content-security-policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


class Guard:
    """Middleware that refuses foreign requests, and forbids browsers to load anything from other hosts.

    Args:
        listen: host:port where the app is served.
        url: one more host by which browsers may reach it, or "".
    """

    def __init__(self, app: ASGIApp, listen: str, url: str) -> None:
        self._app = app
        self._names = {"localhost", host_of(urlsplit(url).netloc)} - {""}
        self._everywhere = not is_loopback(split_address(listen)[0])
        if self._everywhere:
            host = socket.gethostname().lower()
            self._names |= {host, f"{host.partition('.')[0]}.local", split_address(listen)[0].lower()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        if why := self.refuses(scope["method"], scope["path"], Headers(scope=scope)):
            await PlainTextResponse(f"{why}\n", 403)(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, with_headers)

    def refuses(self, method: str, path: str, headers: Headers) -> str:
        """Return why a request is refused, or "" if it is accepted."""
        if path in _OPEN:
            return ""
        host = headers.get("host", "")
        if not self._is_this_machine(host_of(host)):
            return f"unknown host {host!r}: use the address or a name of this machine"
        if method in ("GET", "HEAD"):
            return ""
        if headers.get("sec-fetch-site", "same-origin") != "same-origin":
            return "only same-origin requests are accepted"
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            return f"only same-origin requests are accepted, not one from {origin}"
        if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            return "the content type of a request must be application/json"
        return ""

    def _is_this_machine(self, host: str) -> bool:
        if host in self._names:
            return True
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return False
        return self._everywhere or address.is_loopback
