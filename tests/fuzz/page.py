"""The decoder of HTTP requests to the controller's page: the server's protocol, the app, and no socket."""

from __future__ import annotations

import asyncio
import logging
from functools import cache
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from edgenode.dashboard.app import dashboard
from edgenode.dashboard.feed import Feed
from edgenode.observability.status_view import cluster_json
from tests.dashboard.test_app import History, OperatorService
from tests.fuzz.decoder import Decoder

_HOST = b"host: 127.0.0.1:8080\r\n"


class _Transport(asyncio.Transport):
    """Keeps what the server sends."""

    def __init__(self) -> None:
        super().__init__()
        self.sent, self._closing = bytearray(), False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 8080) if name in ("peername", "sockname") else default

    def write(self, data: Any) -> None:
        self.sent += data

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        self._closing = True

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


@cache
def _server() -> tuple[asyncio.AbstractEventLoop, uvicorn.Config]:
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
    service = OperatorService()
    app = dashboard(service, History(), Feed(lambda: cluster_json(service.status())), "127.0.0.1:8080")
    config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="off", ws="none")
    config.load()
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    return loop, config


async def _serve(config: uvicorn.Config, data: bytes) -> bytes:
    state, transport = ServerState(), _Transport()
    protocol = H11Protocol(config, state, {})
    protocol.connection_made(transport)
    protocol.data_received(data)
    await asyncio.sleep(0)
    protocol.connection_lost(None)
    await asyncio.gather(*state.tasks)
    return bytes(transport.sent)


def _request(data: bytes) -> None:
    if not data:
        return  # asyncio never delivers nothing
    loop, config = _server()
    answer = loop.run_until_complete(_serve(config, data))
    assert b"HTTP/1.1 500" not in answer, "the app failed"


def _post(what: bytes, body: bytes) -> bytes:
    length = str(len(body)).encode()
    kind = b"content-type: application/json\r\ncontent-length: " + length
    return b"POST /api/" + what + b" HTTP/1.1\r\n" + _HOST + kind + b"\r\n\r\n" + body


DECODERS = {
    "page": Decoder(
        _request,
        (
            *(b"GET " + path + b" HTTP/1.1\r\n" + _HOST + b"\r\n" for path in (b"/", b"/api/status", b"/metrics")),
            _post(b"rotate", b'{"graphs":"a,b","every":"2ep"}'),
            _post(b"evict", b'{"node":"n0","force":true}'),
            _post(b"stop", b"{}"),
            b"GET /static/../page.js HTTP/1.1\r\nhost: evil\r\nsec-fetch-site: cross-site\r\n\r\n",
        ),
        share=1,
    )
}
