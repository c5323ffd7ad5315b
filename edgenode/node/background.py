"""What runs in the background of a node's main task: other tasks of the event loop, and work on vectors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, Protocol, TypeVar

from edgenode.core.protocol.events import Train
from edgenode.errors import first_cause

T = TypeVar("T")


class Worker(Protocol):
    """One thread for all work on vectors, so that the event loop never blocks on it."""

    async def __call__(self, work: Callable[..., T], *args: Any) -> T:
        """Run ``work`` in the thread, after what was submitted before."""
        ...

    async def train(self, step: Callable[[Train], T], action: Train) -> T:
        """Run a local step in the thread."""
        ...

    def close(self) -> None:
        """Finish the current work, and drop the rest."""
        ...


class WorkerThread:
    """A worker with a thread of its own."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="worker")

    async def __call__(self, work: Callable[..., T], *args: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work, *args)

    async def train(self, step: Callable[[Train], T], action: Train) -> T:
        return await self(step, action)

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)


@asynccontextmanager
async def in_background(work: Coroutine[Any, Any, Any], name: str) -> AsyncIterator[None]:
    """Run a coroutine during the body, and cancel it after the body.

    Raises:
        EdgenodeError: of the coroutine. It cancels the body.
    """
    try:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(work, name=name)
            yield
            task.cancel()
    except BaseExceptionGroup as exc:
        raise first_cause(exc) from exc
