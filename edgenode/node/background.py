"""The background of a node's main task: other tasks of the event loop, and work on vectors."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from time import perf_counter
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from edgenode.errors import first_cause

if TYPE_CHECKING:
    from edgenode.core.protocol.events import Train

T = TypeVar("T")

_QUICK_S = 0.001  # of a step in the event loop. A hop to the thread and back takes up to 0.3 ms of processor time


class Worker(Protocol):
    """One thread for all work on vectors, so that the event loop never blocks on long work."""

    async def __call__(self, work: Callable[..., T], *args: Any) -> T:
        """Run ``work`` in the thread, after what was submitted before."""
        ...

    async def train(self, step: Callable[[Train], T], action: Train, may_wait: bool = False) -> T:
        """Run a local step, after what was submitted before.

        Args:
            may_wait: the step may wait for other work, such as a checkpoint.
        """
        ...

    def close(self) -> None:
        """Finish the current work, and drop the rest."""
        ...


class WorkerThread:
    """A worker with a thread of its own. Local steps that are hardly longer than a hop to it stay in the event loop."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="worker")
        self._newest: Future[Any] | None = None
        self._step_s = math.inf  # the duration of the last local step

    async def __call__(self, work: Callable[..., T], *args: Any) -> T:
        self._newest = future = self._pool.submit(work, *args)
        return await asyncio.wrap_future(future)

    async def train(self, step: Callable[[Train], T], action: Train, may_wait: bool = False) -> T:
        is_idle = self._newest is None or self._newest.done()
        if may_wait or not is_idle or self._step_s > _QUICK_S:
            return await self(self._timed, step, action)
        await asyncio.sleep(0)  # other tasks have their turn, also while this node waits for nobody
        return self._timed(step, action)

    def _timed(self, step: Callable[[Train], T], action: Train) -> T:
        began = perf_counter()
        try:
            return step(action)
        finally:
            self._step_s = perf_counter() - began

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)


@asynccontextmanager
async def in_background(work: Coroutine[Any, Any, Any], name: str) -> AsyncIterator[None]:
    """Run a coroutine during the body, and cancel it after the body.

    Raises:
        EdgenodeError: the coroutine failed. Its error cancels the body.
    """
    try:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(work, name=name)
            yield
            task.cancel()
    except BaseExceptionGroup as exc:
        raise first_cause(exc) from exc
