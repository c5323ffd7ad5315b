"""Work on vectors leaves the event loop alone, and short local steps do not leave it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest

from edgenode.core.protocol.events import Train
from edgenode.node.background import WorkerThread

STEP = Train(0, None)


class Clock:
    """Moves in slow steps alone: a busy machine makes no step slow."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s

    def slow(self, _: Train) -> threading.Thread:
        self.now_s += 0.005
        return threading.current_thread()


def quick(_: Train) -> threading.Thread:
    """Return the thread that took this step."""
    return threading.current_thread()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr("edgenode.node.background.perf_counter", made)
    return made


@pytest.fixture
async def worker(clock: Clock) -> AsyncIterator[WorkerThread]:
    made = WorkerThread()
    yield made
    made.close()


async def test_steps_are_taken_where_the_last_one_says(worker: WorkerThread, clock: Clock) -> None:
    here, slow = threading.current_thread(), clock.slow
    taken = [await worker.train(step, STEP) is here for step in (quick, quick, quick, slow, slow, quick, quick)]
    #            the first one could be slow    an unexpectedly slow one    the next one knows
    assert taken == [False, True, True, True, False, False, True]


async def test_step_that_may_wait_does_so_in_the_thread(worker: WorkerThread) -> None:
    await worker.train(quick, STEP)
    assert await worker.train(quick, STEP, may_wait=True) is not threading.current_thread()


async def test_step_follows_what_was_submitted_before(worker: WorkerThread) -> None:
    await worker.train(quick, STEP)
    order: list[str] = []
    begun, may_end = threading.Event(), threading.Event()

    def exported() -> None:
        begun.set()
        assert may_end.wait(60)
        order.append("model")

    def step(_: Train) -> None:
        order.append("step")

    exporting = asyncio.create_task(worker(exported))
    await asyncio.sleep(0)
    assert begun.wait(60)
    exporting.cancel()  # whoever asked has gone, and the thread still reads the model
    stepping = asyncio.create_task(worker.train(step, STEP))
    await asyncio.sleep(0.05)
    assert not stepping.done()
    may_end.set()
    await stepping
    assert order == ["model", "step"]


async def test_other_tasks_have_their_turn_between_quick_steps(worker: WorkerThread) -> None:
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    for _ in range(20):
        await worker.train(quick, STEP)
    task.cancel()
    assert turns >= 19


async def test_error_of_a_step_is_raised_in_either_place(worker: WorkerThread) -> None:
    def failing(_: Train) -> None:
        raise ValueError("no data")

    for _ in range(2):
        with pytest.raises(ValueError, match="no data"):
            await worker.train(failing, STEP)
