"""Serves an ASGI app over HTTP on the caller's event loop, without threads or signal handlers.

Strangers must not take the server down:

1. A request that has not arrived after _REQUEST_S, body included, is hung up on. So is a TLS handshake that has not
   ended after HANDSHAKE_S. A handshake takes some 80 KB. So its buffer is small, it begins when a whole ClientHello has
   arrived, and when it fails, the frames of the error are cleared: they refer to it in a cycle, and a flood makes more
   of them than the garbage collector frees.
2. A connection is a stranger's until the app vouches for it (`vouch_for`). Strangers have a number of places
   (`places`). A request arrives within milliseconds, so someone who signs in comes through, however many half-open
   requests there are.
"""

from __future__ import annotations

import asyncio
import socket
from asyncio.sslproto import SSLProtocol
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from traceback import clear_frames
from urllib.parse import urlsplit

import h11
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from edgenode.addresses import join_address, split_address
from edgenode.errors import ConfigError
from edgenode.net.interfaces import WILDCARDS, interfaces_for
from edgenode.net.listener import MOST_OF_A_HELLO, accepting, bind, tls_opened, why_not
from edgenode.net.listener import hang_up as close
from edgenode.net.open_files import places_for_requests
from edgenode.net.places import Place

HANDSHAKE_S = 10.0
_REQUEST_S = 10.0
_HELLO_S = 0.05
_MOST_CONNECTIONS = 512  # of known clients
_END_S = 1
_RELOAD_EVERY_S = 60.0
_CONNECTION = "edgenode.connection"  # in the scope of a request
SSLProtocol.max_size = 16 * 1024  # bytes of the buffer: those of one record of TLS


def vouch_for(scope: Scope, who: str) -> None:
    """State who the client of a request is. Its connection then makes no room for strangers."""
    if isinstance(connection := scope.get(_CONNECTION), _Connection):
        connection.place.prove(who)


def hang_up(scope: Scope) -> None:
    """End the connection of a request at once, even if its client has not read everything."""
    if isinstance(connection := scope.get(_CONNECTION), _Connection):
        connection.transport.abort()


def host_of(header: str) -> str:
    """The name or address in a Host header, without its port. "" if it is malformed."""
    try:
        return (urlsplit(f"//{header}").hostname or "").lower()
    except ValueError:
        return ""


class _Connection(H11Protocol):
    """A connection that is hung up on when its request does not arrive, or when it makes room for another."""

    place: Place
    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.place.hang_up = transport.abort
        serve = self.app

        async def with_connection(scope: Scope, receive: Receive, send: Send) -> None:
            scope[_CONNECTION] = self
            await serve(scope, receive, send)

        self.app = with_connection
        self._wait_for_request()

    def data_received(self, data: bytes) -> None:
        self._wait_for_request()
        super().data_received(data)
        if self.conn.their_state not in (h11.IDLE, h11.SEND_BODY):
            self._stop_waiting()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        self.place.leave()
        super().connection_lost(exc)

    def _wait_for_request(self) -> None:
        if self._late is None:
            self._late = self.loop.call_later(_REQUEST_S, self.transport.abort)

    def _stop_waiting(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None


class _Server(uvicorn.Server):
    """A server that neither accepts connections nor handles signals."""

    async def serve_on(self, accepted: socket.socket, place: Place) -> None:
        """Serve an accepted connection: shake hands with its client, if this server has a certificate."""
        if accepted.fileno() < 0:  # it had to make room at once
            return
        loop, tls = asyncio.get_running_loop(), self.config.ssl
        if (handshake := asyncio.current_task()) is not None:
            place.hang_up = handshake.cancel

        def connection() -> _Connection:
            made = _Connection(config=self.config, server_state=self.server_state, app_state={})
            made.place = place
            return made

        try:
            if tls:
                async with asyncio.timeout(HANDSHAKE_S):
                    await _hello(accepted)
            await loop.connect_accepted_socket(
                connection, accepted, ssl=tls, ssl_handshake_timeout=HANDSHAKE_S if tls else None
            )
        except (OSError, ValueError) as exc:  # it fails, takes too long, or is something else than TLS
            clear_frames(exc.__traceback__)
            place.leave()
            close(accepted)
        except asyncio.CancelledError as exc:
            clear_frames(exc.__traceback__)
            place.leave()
            close(accepted)
            raise

    @contextmanager
    def capture_signals(self):  # type: ignore[no-untyped-def]
        """Install no handlers."""
        yield


async def _hello(accepted: socket.socket) -> None:
    """Wait for the whole ClientHello of a connection. It stays unread.

    Raises:
        OSError: the connection ends before.
        ValueError: it sends something else.
    """
    loop = asyncio.get_running_loop()
    first = asyncio.Event()
    loop.add_reader(accepted, first.set)
    try:
        await first.wait()
    finally:
        loop.remove_reader(accepted)
    while not tls_opened(found := accepted.recv(MOST_OF_A_HELLO, socket.MSG_PEEK)):
        if not found:
            raise ConnectionResetError
        await asyncio.sleep(_HELLO_S)  # the rest is on its way


@asynccontextmanager
async def serving_http(app: ASGIApp, listen: str, option: str, credentials: Path | None = None) -> AsyncIterator[str]:
    """Serve at host:port while the body runs. Yields the URL, for other machines if they can reach it.

    Args:
        option: the command line option that chose the address, for the error text.
        credentials: a file with a private key and its certificate (PEM), to serve HTTPS.

    Raises:
        ConfigError: the address cannot be bound.
    """
    sockets = _bind(listen, option)
    host, port = split_address(listen)[0], sockets[0].getsockname()[1]
    server = _Server(
        uvicorn.Config(
            app,
            http=_Connection,
            log_config=None,
            log_level="critical",
            access_log=False,
            lifespan="off",
            ws="none",
            server_header=False,
            timeout_graceful_shutdown=_END_S,
            ssl_certfile=credentials,
        )
    )
    async with asyncio.TaskGroup() as group:
        server.config.load()

        def welcome(accepted: socket.socket, address: str, place: Place) -> None:
            handshakes.add(task := asyncio.create_task(server.serve_on(accepted, place), name=f"hello, {address}"))
            task.add_done_callback(handshakes.discard)

        handshakes = set[asyncio.Task[None]]()
        with accepting(sockets, places_for_requests(_MOST_CONNECTIONS), welcome):
            group.create_task(server.serve([]), name="http")
            reloading = group.create_task(_reload(server.config, credentials), name="renewed certificates")
            try:
                scheme = "https" if credentials else "http"
                yield f"{scheme}://{join_address(interfaces_for(host)[0] if host in WILDCARDS else host, port)}"
            finally:
                for task in (reloading, *handshakes):
                    task.cancel()
                server.should_exit = True


async def _reload(config: uvicorn.Config, credentials: Path | None) -> None:
    """Read a certificate again and again: a renewed one is shown from the next connection on."""
    while credentials:
        await asyncio.sleep(_RELOAD_EVERY_S)
        with suppress(OSError):  # the next time
            if config.ssl:
                await asyncio.to_thread(config.ssl.load_cert_chain, credentials)


def _bind(listen: str, option: str) -> list[socket.socket]:
    try:
        return bind(listen)
    except OSError as exc:
        raise ConfigError(
            f"{option} {listen}: cannot listen there: {why_not(exc)}; choose another address, or none to turn it off"
        ) from exc
