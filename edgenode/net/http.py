"""HTTP on the caller's own event loop: no second loop, no thread, no signal handlers. What is served is an ASGI app."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, contextmanager

import uvicorn
from starlette.types import ASGIApp

from edgenode.errors import ConfigError
from edgenode.net.rpc import join_address, split_address

_MOST_AT_ONCE = 256  # connections; more are answered 503
_END_S = 1


class _Server(uvicorn.Server):
    """A server whose process belongs to somebody else."""

    @contextmanager
    def capture_signals(self):  # type: ignore[no-untyped-def]
        """Ctrl-C is not ours to take."""
        yield


@asynccontextmanager
async def serving_http(app: ASGIApp, listen: str, option: str) -> AsyncIterator[str]:
    """Serve at host:port for as long as the body lasts; yields the URL.

    Args:
        option: of the command line that chose the address, for the error.

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
            limit_concurrency=_MOST_AT_ONCE,
            timeout_graceful_shutdown=_END_S,
        )
    )
    async with asyncio.TaskGroup() as group:
        group.create_task(server.serve([bound]), name="http")
        try:
            yield f"http://{join_address('127.0.0.1' if host in ('', '0.0.0.0', '::') else host, port)}"
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
            f"{option} {listen}: cannot listen there: {why}; give another address, or none to do without"
        ) from exc
