"""What strangers can do to the HTTP server: they are hung up on, and leave room for those who are known."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from edgenode.addresses import split_address
from edgenode.net import handshakes, http
from edgenode.net.http import host_of, serving_http, vouch_for
from tests.net.peer_ends import until

Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]
HALF = b"GET / HTTP/1.1\r\nhost: loc"
GET = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n"
KNOWN = b"GET /known HTTP/1.1\r\nhost: localhost\r\n\r\n"


async def echo(request: Request) -> PlainTextResponse:
    if request.url.path == "/known":
        vouch_for(request.scope)
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
    monkeypatch.setattr(handshakes, "_MOST_AT_AN_ADDRESS", 4)
    async with served() as address, asyncio.timeout(10):
        known, to_known = await sent(address, KNOWN)
        assert await answered(known)
        crowd = [await sent(address, HALF) for _ in range(20)]

        def gone() -> list[bool]:
            return [reader.at_eof() or reader.exception() is not None for reader, _ in crowd]

        await until(lambda: sum(gone()) == 16)
        await asyncio.sleep(0.2)
        assert gone() == [True] * 16 + [False] * 4  # the oldest made room
        stranger, to_stranger = await sent(address, GET)
        assert await answered(stranger)
        await known.readuntil(b"hello")
        to_known.write(GET)
        assert await answered(known)
        for _, writer in (*crowd, (known, to_known), (stranger, to_stranger)):
            writer.close()


@pytest.mark.parametrize(
    ("header", "host"),
    [("LocalHost:80", "localhost"), ("[::1]:80", "::1"), ("10.0.0.5", "10.0.0.5"), ("", ""), ("[", ""), ("a@b", "b")],
)
def test_host_header_is_a_name_or_an_address(header: str, host: str) -> None:
    assert host_of(header) == host
