"""Simulated time and processes: order, what ends with a process, and what waits while it stands still."""

from __future__ import annotations

from tests.simulation.event_queue import EventQueue, Processes


def play(queue: EventQueue) -> None:
    """Let everything happen."""
    for happen, what in queue:
        happen(*what)


def test_things_happen_by_time_and_at_one_time_in_the_order_they_were_put_down() -> None:
    queue, happened = EventQueue(), list[tuple[float, str]]()

    def happen(word: str) -> None:
        happened.append((queue.now, word))

    queue.after(2, happen, "third")
    queue.after(1, happen, "first")
    queue.at(1, happen, "second")
    play(queue)
    assert happened == [(1, "first"), (1, "second"), (2, "third")]


def test_what_a_process_was_about_to_do_ends_with_it_and_is_not_its_successors() -> None:
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


def test_what_befalls_a_frozen_process_waits_until_it_thaws() -> None:
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
    processes.end("a")
    processes.start("a")
    assert not processes.frozen("a")
    assert processes.names == {"a"}
    assert "b" not in processes
