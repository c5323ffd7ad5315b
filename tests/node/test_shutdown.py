"""SIGTERM without a handoff: when the controller is unreachable or refuses, and when the run is over anyway."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator

import pytest
from structlog.testing import capture_logs

from edgenode.core.protocol.orders import Join, TrainingEnded
from edgenode.core.topology.period import DataSize
from edgenode.net.control_client import ControlLink
from edgenode.net.wire import Identity
from edgenode.node.shutdown import Shutdown


async def nowhere() -> str:
    raise AssertionError("the link does not run")


def link() -> ControlLink:
    return ControlLink(Identity("home", "n0", "run"), nowhere, lambda _: Join("", "", DataSize(1, 1)), lambda _: None)


def interrupt(reason: str) -> None:
    signal.raise_signal(signal.SIGINT)


@pytest.fixture
async def interrupts() -> AsyncIterator[asyncio.Queue[None]]:
    """One entry for each SIGINT of this process."""
    loop, queue = asyncio.get_running_loop(), asyncio.Queue[None]()
    before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
    loop.add_signal_handler(signal.SIGINT, queue.put_nowait, None)
    yield queue
    for number, handler in before.items():
        loop.remove_signal_handler(number)
        signal.signal(number, handler)


async def stopped(interrupts: asyncio.Queue[None]) -> None:
    await asyncio.wait_for(interrupts.get(), 5)


async def test_sigterm_stops_a_node_whose_controller_is_unreachable(interrupts: asyncio.Queue[None]) -> None:
    Shutdown(interrupt).on_sigterm(link())
    with capture_logs() as logged:
        signal.raise_signal(signal.SIGTERM)
        await stopped(interrupts)
    assert [entry["event"] for entry in logged] == ["leaving after a handoff", "stopping without a handoff"]
    assert logged[-1]["reason"] == "the controller is unreachable"


async def test_sigterm_waits_for_the_handoff_and_twice_does_not(interrupts: asyncio.Queue[None]) -> None:
    to_controller, shutdown = link(), Shutdown(interrupt)
    to_controller.connected.set()
    shutdown.on_sigterm(to_controller)
    signal.raise_signal(signal.SIGTERM)
    await asyncio.sleep(0.3)
    assert interrupts.empty()
    signal.raise_signal(signal.SIGTERM)
    await stopped(interrupts)
    shutdown.run_ended(lambda: None)


async def test_a_refused_leave_stops_the_node_once(interrupts: asyncio.Queue[None]) -> None:
    shutdown = Shutdown(interrupt)
    with capture_logs() as logged:
        shutdown.stop("a node cannot leave a paused run")
        shutdown.stop("again")
    await stopped(interrupts)
    assert interrupts.empty()
    assert [entry["reason"] for entry in logged] == ["a node cannot leave a paused run"]


async def test_a_node_that_trains_no_more_asks_until_its_run_is_over(interrupts: asyncio.Queue[None]) -> None:
    """A lost link loses a report. A refusal does not stop the node, and is logged once."""
    to_controller, shutdown = link(), Shutdown(interrupt)
    asked = list[object]()
    to_controller.report = asked.append  # type: ignore[method-assign]
    with pytest.MonkeyPatch.context() as patch, capture_logs() as logged:
        patch.setattr("edgenode.node.shutdown._ASK_EVERY_S", 0.01)
        shutdown.ask(to_controller, TrainingEnded())
        shutdown.ask(to_controller, TrainingEnded())
        await asyncio.sleep(0.05)
        assert asked == []
        to_controller.connected.set()
        await asyncio.sleep(0.1)
        shutdown.leave_refused("2 nodes must stay")
        shutdown.leave_refused("2 nodes must stay")
        assert len(asked) > 1
        shutdown.run_ended(lambda: None)
        asked.clear()
        await asyncio.sleep(0.05)
    assert asked == []
    assert interrupts.empty()
    assert [entry["event"] for entry in logged] == ["this node stays in the run without training"]


async def test_nothing_stops_a_node_whose_run_has_ended(interrupts: asyncio.Queue[None]) -> None:
    """If it stays for the others, a request to leave lets it go."""
    shutdown, gone = Shutdown(interrupt), asyncio.Event()
    shutdown.run_ended(gone.set)
    shutdown.leave(link())
    assert gone.is_set()
    shutdown.stop("late")
    await asyncio.sleep(0.2)
    assert interrupts.empty()
