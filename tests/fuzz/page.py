"""The decoders of HTTP requests to the page and to the enrolment: the server's protocol, the app, and no socket."""

from __future__ import annotations

import asyncio
import logging
import tempfile
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from edgenode.dashboard.app import dashboard
from edgenode.dashboard.feed import Feed
from edgenode.dashboard.sign_in import SignIn
from edgenode.net.enrolment_server import enrolment_app
from edgenode.observability.status_view import cluster_json
from edgenode.security.authority import Authority
from edgenode.security.subject import Subject
from tests.dashboard.test_app import TOKEN, History, OperatorService
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
def _loop() -> asyncio.AbstractEventLoop:
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    return loop


@cache
def _server(sign_in: SignIn) -> uvicorn.Config:
    service = OperatorService()
    feed = Feed(lambda: cluster_json(service.status()))
    return _loaded(dashboard(service, History(), feed, sign_in, TOKEN, "127.0.0.1:8080"))


@cache
def _enrolment() -> uvicorn.Config:
    return _loaded(enrolment_app(Authority(Path(tempfile.mkdtemp()), "home"), refused_s=0))


def _loaded(app: Any) -> uvicorn.Config:
    config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="off", ws="none")
    config.load()
    return config


async def _serve(config: uvicorn.Config, data: bytes) -> bytes:
    state, transport = ServerState(), _Transport()
    protocol = H11Protocol(config, state, {})
    protocol.connection_made(transport)
    protocol.data_received(data)
    await asyncio.sleep(0)
    protocol.connection_lost(None)
    await asyncio.gather(*state.tasks)
    return bytes(transport.sent)


def _request(server: Callable[[], uvicorn.Config], data: bytes) -> None:
    if not data:
        return  # asyncio never delivers nothing
    loop = _loop()
    answer = loop.run_until_complete(_serve(server(), data))
    assert b"HTTP/1.1 500" not in answer, "the app failed"


def _post(path: bytes, body: bytes) -> bytes:
    length = str(len(body)).encode()
    kind = b"content-type: application/json\r\ncontent-length: " + length
    return b"POST " + path + b" HTTP/1.1\r\n" + _HOST + kind + b"\r\n\r\n" + body


_GETS = (b"/", b"/api/status", b"/metrics", b"/sign-in/" + b"0" * 32, b"/events")
_GUARDED = SignIn("home", "secret", lambda subject, key_id: True)
_COOKIE = _GUARDED.cookie((Subject("operator", "anna"), "0" * 64)).partition(";")[0].encode()

DECODERS = {
    "page": Decoder(
        partial(_request, partial(_server, SignIn("home"))),
        (
            *(b"GET " + path + b" HTTP/1.1\r\n" + _HOST + b"\r\n" for path in _GETS),
            _post(b"/api/rotate", b'{"graphs":"a,b","every":"2ep"}'),
            _post(b"/api/evict", b'{"node":"n0","force":true}'),
            _post(b"/api/stop", b"{}"),
            b"GET /static/../page.js HTTP/1.1\r\nhost: evil\r\nsec-fetch-site: cross-site\r\n\r\n",
        ),
        share=1,
    ),
    "page-sign-in": Decoder(
        partial(_request, partial(_server, _GUARDED)),
        (
            *(b"GET " + path + b" HTTP/1.1\r\n" + _HOST + b"\r\n" for path in _GETS),
            b"GET / HTTP/1.1\r\n" + _HOST + b"cookie: " + _COOKIE + b"\r\n\r\n",
        ),
        share=1,
    ),
    "enrolment-page": Decoder(
        partial(_request, _enrolment),
        (
            b"GET /authority HTTP/1.1\r\n" + _HOST + b"\r\n",
            _post(b"/enrol", b'{"secret":"00","name":"n0","request":"-----BEGIN CERTIFICATE REQUEST-----"}'),
        ),
        share=1,
    ),
}
