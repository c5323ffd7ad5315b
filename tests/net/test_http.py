"""What strangers can do to the HTTP server: they are hung up on, and leave room for those who are known."""

from __future__ import annotations

import asyncio
import resource
import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from edgenode.addresses import split_address
from edgenode.net import http, listener
from edgenode.net.http import host_of, serving_http, vouch_for
from edgenode.net.places import LEAST_S, Places
from tests.net.peer_ends import is_over, open_files, until

Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]
HALF = b"GET / HTTP/1.1\r\nhost: loc"
GET = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n"
KNOWN = b"GET /known HTTP/1.1\r\nhost: localhost\r\n\r\n"


async def echo(request: Request) -> PlainTextResponse:
    if request.url.path == "/known":
        vouch_for(request.scope, "anna")
    return PlainTextResponse(await request.body() or b"hello")


@asynccontextmanager
async def served() -> AsyncIterator[str]:
    app = Starlette(routes=[Route("/{path:path}", echo, methods=["GET", "POST"])])
    async with serving_http(app, "127.0.0.1:0", "--http") as url:
        yield url.removeprefix("http://")


async def sent(address: str, request: bytes) -> Ends:
    reader, writer = await asyncio.open_connection(*split_address(address))
    writer.write(request)
    await asyncio.sleep(0)
    return reader, writer


def half_open(address: str) -> socket.socket:
    one = socket.create_connection(split_address(address))
    one.sendall(HALF)
    one.setblocking(False)
    return one


async def answered(reader: asyncio.StreamReader) -> bool:
    try:
        return (await reader.readline()).startswith(b"HTTP/1.1 200")
    except ConnectionResetError:
        return False


@pytest.mark.parametrize("request_", [b"", HALF, b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nabc"])
async def test_request_that_does_not_arrive_is_hung_up_on(monkeypatch: pytest.MonkeyPatch, request_: bytes) -> None:
    monkeypatch.setattr(http, "_REQUEST_S", 0.3)
    async with served() as address, asyncio.timeout(5):
        reader, writer = await sent(address, request_)
        assert not await answered(reader)
        writer.close()


async def test_byte_now_and_then_does_not_keep_a_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "_REQUEST_S", 0.3)
    async with served() as address, asyncio.timeout(5):
        reader, writer = await sent(address, GET)
        assert await answered(reader)
        while not reader.at_eof() and reader.exception() is None:
            writer.write(b"G")
            await asyncio.sleep(0.05)
            reader._buffer.clear()  # type: ignore[attr-defined]
        writer.close()


async def test_known_client_keeps_its_connection_among_half_open_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "places_for_requests", lambda proven: Places(6, proven, proven))
    async with served() as address, asyncio.timeout(10):
        known, to_known = await sent(address, KNOWN)
        assert await answered(known)
        crowd = [half_open(address) for _ in range(20)]

        def gone() -> int:
            return sum(map(is_over, crowd))

        await until(lambda: gone() == 16)  # the others have places
        await asyncio.sleep(LEAST_S)
        assert gone() == 16
        stranger, to_stranger = await sent(address, GET)
        assert await answered(stranger)
        await known.readuntil(b"hello")
        to_known.write(GET)
        assert await answered(known)
        for one in (*crowd, to_known, to_stranger):
            one.close()


async def test_crowd_is_never_more_than_its_places(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even for a moment: a process that takes all that arrives at once runs out of file descriptors."""
    monkeypatch.setattr(http, "places_for_requests", lambda proven: Places(6, proven, proven))
    async with served() as address, asyncio.timeout(20):
        with ExitStack() as stack:
            crowd = [stack.enter_context(socket.create_connection(split_address(address))) for _ in range(300)]
            before = open_files()
            for _ in range(50):
                await asyncio.sleep(0)
                assert open_files() <= before + 6 + 1
            assert len(crowd) == 300


async def test_server_without_descriptors_continues_later(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(listener, "_PAUSE_S", 0.05)
    async with served() as address, asyncio.timeout(20):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        with ExitStack() as stack:
            one = stack.enter_context(socket.socket())
            one.setblocking(False)
            one.connect_ex(split_address(address))
            resource.setrlimit(resource.RLIMIT_NOFILE, (open_files() - 1, hard))
            try:
                await asyncio.sleep(0.3)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        reader, writer = await sent(address, GET)
        assert await answered(reader)
        writer.close()
    assert caplog.records == []  # asyncio logs a trace for each connection
    assert capsys.readouterr().out.count("cannot accept connections") == 1


@pytest.mark.parametrize(
    ("header", "host"),
    [("LocalHost:80", "localhost"), ("[::1]:80", "::1"), ("10.0.0.5", "10.0.0.5"), ("", ""), ("[", ""), ("a@b", "b")],
)
def test_host_header_is_a_name_or_an_address(header: str, host: str) -> None:
    assert host_of(header) == host
