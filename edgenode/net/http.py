"""Serves an ASGI app over HTTP on the caller's event loop, without threads or signal handlers."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from edgenode.errors import ConfigError
from edgenode.net.interfaces import WILDCARDS, interfaces_for
from edgenode.net.rpc import join_address, split_address

_MOST_CONNECTIONS = 256  # further ones get 503
_END_S = 1


class _Server(uvicorn.Server):
    """A server that leaves the signals of the process alone."""

    @contextmanager
    def capture_signals(self):  # type: ignore[no-untyped-def]
        """Install no handlers."""
        yield


@asynccontextmanager
async def serving_http(app: ASGIApp, listen: str, option: str, credentials: Path | None = None) -> AsyncIterator[str]:
    """Serve at host:port while the body runs. Yields the URL, for other machines if they can reach it.

    Args:
        option: the command line option that chose the address, for the error text.
        credentials: a file with a private key and its certificate (PEM), to serve HTTPS.

    Raises:
        ConfigError: the address cannot be bound.
    """
    bound = _bind(listen, option)
    host, port = split_address(listen)[0], bound.getsockname()[1]
    server = _Server(
        uvicorn.Config(
            app,
            log_config=None,
            log_level="critical",
            access_log=False,
            lifespan="off",
            ws="none",
            server_header=False,
            limit_concurrency=_MOST_CONNECTIONS,
            timeout_graceful_shutdown=_END_S,
            ssl_certfile=credentials,
        )
    )
    async with asyncio.TaskGroup() as group:
        group.create_task(server.serve([bound]), name="http")
        try:
            scheme = "https" if credentials else "http"
            yield f"{scheme}://{join_address(interfaces_for(host)[0] if host in WILDCARDS else host, port)}"
        finally:
            server.should_exit = True


def _bind(listen: str, option: str) -> socket.socket:
    host, port = split_address(listen)
    try:
        family, *_, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]  # fmt: skip
        return socket.create_server(address[:2], family=family, backlog=64)
    except OSError as exc:
        why = os.strerror(exc.errno).lower() if exc.errno and exc.errno > 0 else str(exc)
        raise ConfigError(
            f"{option} {listen}: cannot listen there: {why}; choose another address, or none to turn it off"
        ) from exc
