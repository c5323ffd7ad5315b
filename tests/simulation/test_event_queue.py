"""Simulated time and processes: the order of calls, what ends with a process, and what waits while it is frozen."""

from __future__ import annotations

import pytest

from tests.simulation.event_queue import EventQueue, Processes


def play(queue: EventQueue) -> None:
    """Make all calls."""
    for callback, args in queue:
        callback(*args)


def test_calls_are_made_by_time_then_in_the_order_of_scheduling() -> None:
    queue, happened = EventQueue(), list[tuple[float, str]]()

    def happen(word: str) -> None:
        happened.append((queue.now, word))

    queue.after(2, happen, "third")
    queue.after(1, happen, "first")
    queue.at(1, happen, "second")
    play(queue)
    assert happened == [(1, "first"), (1, "second"), (2, "third")]


def test_calls_of_a_process_end_with_it() -> None:
    queue, happened = EventQueue(), list[str]()
    processes = Processes(queue)
    for name in ("a", "b"):
        processes.start(name)
        processes.after(1, name, happened.append, name)
    processes.end("a")
    processes.start("a")
    assert (processes.number("a"), processes.last("b")) == (2, 1)
    processes.do("a", happened.append, "now")
    play(queue)
    assert happened == ["now", "b"]


def test_calls_of_a_frozen_process_wait_until_it_thaws() -> None:
    queue, happened = EventQueue(), list[tuple[float, str]]()
    processes = Processes(queue)
    processes.start("a")
    processes.freeze("a", 5)
    assert processes.frozen("a")
    processes.do("a", lambda: happened.append((queue.now, "at once")))
    processes.after(1, "a", lambda: happened.append((queue.now, "later")))
    processes.after(6, "a", lambda: happened.append((queue.now, "awake")))
    play(queue)
    assert happened == [(5, "at once"), (5, "later"), (6, "awake")]
    processes.freeze("a", 5)
    processes.do("a", lambda: happened.append((queue.now, "never")))
    processes.end("a")
    processes.start("a")
    assert not processes.frozen("a")
    assert processes.names == {"a"}
    assert "b" not in processes
    play(queue)
    assert len(happened) == 3


@pytest.mark.parametrize("first_s, second_s", [(2, 1), (1, 2), (1, 1)])
def test_calls_keep_order_through_two_freezes(first_s: float, second_s: float) -> None:
    queue, happened = EventQueue(), list[tuple[float, str]]()
    processes = Processes(queue)
    processes.start("a")
    processes.freeze("a", first_s)
    processes.do("a", lambda: happened.append((queue.now, "first")))
    processes.freeze("a", second_s)
    processes.do("a", lambda: happened.append((queue.now, "second")))
    queue.at(2, processes.do, "a", lambda: happened.append((queue.now, "third")))
    play(queue)
    thaws_s = max(first_s, second_s)
    assert happened == [(thaws_s, "first"), (thaws_s, "second"), (2, "third")]
