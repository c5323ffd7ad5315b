"""Which of two calls of one caller ends."""

from __future__ import annotations

import asyncio

import pytest

from edgenode.errors import TransportError
from edgenode.net.newest import NewestCalls


async def test_newer_call_ends_the_older_and_leaves_those_of_others() -> None:
    calls, ended = NewestCalls(), asyncio.Event()

    async def older() -> None:
        try:
            async with calls.only("n0", "again"):
                await asyncio.sleep(10)
        finally:
            ended.set()

    async with calls.only("n1", "again"):
        call = asyncio.create_task(older(), name="older")
        await asyncio.sleep(0)
        async with calls.only("n0", "again"):
            await asyncio.wait_for(ended.wait(), 5)
    with pytest.raises(TransportError, match="again"):
        await call


async def test_older_call_ends_after_a_newer_one_is_over() -> None:
    calls = NewestCalls()
    with pytest.raises(TransportError, match="again"):
        async with calls.only("n0", "again"):
            async with calls.only("n0", "again"):
                pass
            await asyncio.sleep(5)


async def test_call_ends_when_its_time_is_over() -> None:
    with pytest.raises(TransportError, match="late"):
        async with NewestCalls().only("n0", "late", 0.01):
            await asyncio.sleep(5)
