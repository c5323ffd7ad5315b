"""The event stream over real sockets: coalesced, bounded, and ended with the run."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from edgenode.addresses import split_address
from edgenode.dashboard import feed as module
from edgenode.dashboard.feed import Feed
from edgenode.errors import ConfigError
from edgenode.net.http import serving_http


class Cluster:
    """A state that counts how often it is read."""

    def __init__(self) -> None:
        self.value, self.reads, self.padding = 0, 0, ""

    def status(self) -> dict[str, Any]:
        self.reads += 1
        return {"value": self.value, "padding": self.padding}


@asynccontextmanager
async def streamed(cluster: Cluster, watcher: Any = lambda scope: "") -> AsyncIterator[tuple[Feed, str]]:
    feed = Feed(cluster.status, watcher)
    async with serving_http(feed, "127.0.0.1:0", "--http") as url, asyncio.TaskGroup() as group:
        task = group.create_task(feed.run(), name="feed")
        yield feed, url.removeprefix("http://")
        task.cancel()


@asynccontextmanager
async def watching(address: str, who: str = "") -> AsyncIterator[asyncio.StreamReader]:
    reader, writer = await asyncio.open_connection(*split_address(address), limit=1 << 20)
    writer.write(f"GET /events?{who} HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n".encode())
    try:
        yield reader
    finally:
        writer.close()


async def snapshot(reader: asyncio.StreamReader) -> dict[str, Any]:
    while not (line := await reader.readline()).startswith(b"data: "):
        assert line, "the stream has ended"
    found: dict[str, Any] = json.loads(line.removeprefix(b"data: "))
    return found


async def test_a_thousand_changes_a_second_are_a_few_events() -> None:
    cluster = Cluster()
    async with streamed(cluster) as (_, address), watching(address) as reader, asyncio.timeout(20):
        assert (await snapshot(reader))["value"] == 0
        before = cluster.reads
        seen = 0
        loop = asyncio.get_running_loop()
        end = loop.time() + 1
        reading = asyncio.ensure_future(snapshot(reader))
        while loop.time() < end:
            cluster.value += 1
            await asyncio.sleep(0.001)
            if reading.done():
                seen, reading = seen + 1, asyncio.ensure_future(snapshot(reader))
        reading.cancel()
        assert 1 <= seen <= 6
        assert cluster.reads - before <= 6


async def test_state_is_not_read_without_a_client() -> None:
    cluster = Cluster()
    async with streamed(cluster) as (feed, address):
        async with watching(address) as reader, asyncio.timeout(10):
            await snapshot(reader)
            assert feed.clients == 1
        async with asyncio.timeout(10):
            while feed.clients:  # noqa: ASYNC110 - the server notices the disconnect by itself
                await asyncio.sleep(0.01)
        reads = cluster.reads
        await asyncio.sleep(3 * module._EVERY_S)
        assert cluster.reads == reads


@pytest.mark.slow
async def test_stalled_client_costs_one_snapshot_and_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_EVERY_S", 0.005)
    monkeypatch.setattr(module, "_STALLED_S", 1.0)
    cluster = Cluster()
    cluster.padding = "x" * 200_000
    async with streamed(cluster) as (feed, address), watching(address) as idle, asyncio.timeout(30):
        idle._transport.pause_reading()  # type: ignore[attr-defined]
        async with watching(address) as reader:
            for _ in range(50):  # ten megabytes of snapshots pass the stalled client
                cluster.value += 1
                await snapshot(reader)
            while feed.clients != 1:
                cluster.value += 1
                await asyncio.sleep(0.01)
            await snapshot(reader)


async def test_stream_ends_with_the_last_state_of_the_run() -> None:
    cluster = Cluster()
    async with streamed(cluster) as (feed, address), watching(address) as reader, asyncio.timeout(10):
        await snapshot(reader)
        cluster.value = 7
        await feed.end()
        rest = (await reader.readuntil(b"event: over\n")) and await snapshot(reader)
        assert rest["value"] == 7


async def test_newest_client_replaces_the_oldest_of_who_has_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_CLIENTS", 3)
    async with (
        streamed(Cluster(), lambda scope: scope["query_string"].decode()) as (feed, address),
        AsyncExitStack() as stack,
        asyncio.timeout(10),
    ):
        readers = [await stack.enter_async_context(watching(address, who)) for who in ("anna", "guest", "guest")]
        for reader in readers:
            await snapshot(reader)
        newest = await stack.enter_async_context(watching(address, "guest"))
        await snapshot(newest)
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            while True:
                await readers[1].readuntil(b"data: ")
        assert feed.clients == 3


async def test_occupied_port_is_one_line() -> None:
    async with serving_http(Feed(dict), "127.0.0.1:0", "--http") as url:
        taken = url.removeprefix("http://")
        with pytest.raises(ConfigError) as caught:
            async with serving_http(Feed(dict), taken, "--http"):
                pass
    assert str(caught.value) == (
        f"--http {taken}: cannot listen there: address already in use; choose another address, or none to turn it off"
    )
