"""Attacks on the page, over real sockets: whoever is signed in does not notice them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from itertools import count

import httpx
import pytest

from edgenode.addresses import split_address
from edgenode.dashboard.app import dashboard
from edgenode.dashboard.feed import Feed
from edgenode.net import http
from edgenode.net.http import serving_http
from edgenode.net.places import Places
from edgenode.security.subject import Subject
from tests.dashboard.test_app import TOKEN, History, OperatorService
from tests.dashboard.test_sign_in import ANNA, GUEST, Authority, cookie_of

Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def page(authority: Authority) -> AsyncIterator[httpx.AsyncClient]:
    """The page, with a browser in which anna is signed in."""
    run = OperatorService()
    numbers = count()
    feed = Feed(lambda: {"number": next(numbers)}, authority.sign_in.watcher)
    app = dashboard(run, History(), feed, authority.sign_in, TOKEN, "127.0.0.1:0")
    async with serving_http(app, "127.0.0.1:0", "--http") as url, asyncio.TaskGroup() as group:
        publishing = group.create_task(feed.run())
        async with httpx.AsyncClient(base_url=url, timeout=5) as browser:
            assert (await browser.get(authority.sign_in.link(ANNA))).status_code == 200
            yield browser
        publishing.cancel()


async def opened(browser: httpx.AsyncClient, number: int, request: str) -> list[Ends]:
    """Connections from elsewhere that have sent the beginning of a request, and read nothing. Some may be refused."""
    host, port = split_address(browser.base_url.netloc.decode())
    ends: list[Ends] = []
    for _ in range(number):
        with suppress(OSError):
            ends.append(await asyncio.open_connection(host, port, local_addr=("127.0.0.2", 0)))
    for _, writer in ends:
        writer.write(request.format(host=f"{host}:{port}").encode())
        await asyncio.sleep(0)
    return ends


async def check(browser: httpx.AsyncClient) -> None:
    """The page, its stream and its buttons work, on new connections too."""
    async with httpx.AsyncClient(base_url=browser.base_url, cookies=browser.cookies, timeout=5) as another:
        for client in (browser, another):
            assert (await client.get("/")).status_code == 200
            assert (await client.post("/api/pause", json={})).status_code == 200
            async with client.stream("GET", "/events") as stream:
                assert (await anext(stream.aiter_lines())).startswith("retry")


@pytest.mark.parametrize("rest", ["", "x: ", "content-length: 9\r\n\r\n"])
async def test_page_works_beside_300_half_open_requests(rest: str) -> None:
    async with page(Authority()) as browser, asyncio.timeout(30):
        crowd = await opened(browser, 300, f"POST /api/stop HTTP/1.1\r\nhost: {{host}}\r\n{rest}" if rest else "")
        await check(browser)
        for _, writer in crowd:
            writer.close()


async def test_page_works_beside_70_stalled_event_streams() -> None:
    authority = Authority()
    async with page(authority) as browser, browser.stream("GET", "/events") as mine, asyncio.timeout(30):
        lines = mine.aiter_lines()
        assert (await anext(lines)).startswith("retry")
        for cookie in ("", f"cookie: {cookie_of(authority.sign_in, GUEST)}\r\n"):  # of strangers, then of a viewer
            crowd = await opened(browser, 70, f"GET /events HTTP/1.1\r\nhost: {{host}}\r\n{cookie}\r\n")
            await check(browser)
            for _, writer in crowd:
                writer.close()
            for _ in range(4):  # the stream goes on: nobody took its place
                await anext(lines)


@pytest.mark.parametrize("viewers", [1, 8])
async def test_operators_get_in_beside_the_connections_of_viewers(
    viewers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "_MOST_CONNECTIONS", 64)
    monkeypatch.setattr(http, "places_for_requests", lambda proven: Places(64, proven, 16))
    authority = Authority()
    keys = [(Subject("viewer", f"viewer-{i}"), f"key {i}") for i in range(viewers)]
    async with page(authority) as browser, browser.stream("GET", "/events") as mine, asyncio.timeout(30):
        lines = mine.aiter_lines()
        crowd: list[Ends] = []
        for i in range(96):
            cookie = cookie_of(authority.sign_in, keys[i % viewers])
            crowd += await opened(browser, 1, f"GET /api/status HTTP/1.1\r\nhost: {{host}}\r\ncookie: {cookie}\r\n\r\n")
        await check(browser)
        for _ in range(4):  # nobody took the place of the stream
            await anext(lines)
        for _, writer in crowd:
            writer.close()
