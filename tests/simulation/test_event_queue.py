"""Simulated time and processes: order, what ends with a process, and what waits while it stands still."""

from __future__ import annotations

from tests.simulation.event_queue import Agenda, Processes


def play(agenda: Agenda) -> None:
    """Let everything happen."""
    for happen, what in agenda:
        happen(*what)


def test_things_happen_by_time_and_at_one_time_in_the_order_they_were_put_down() -> None:
    agenda, happened = Agenda(), list[tuple[float, str]]()

    def happen(word: str) -> None:
        happened.append((agenda.now, word))

    agenda.after(2, happen, "third")
    agenda.after(1, happen, "first")
    agenda.at(1, happen, "second")
    play(agenda)
    assert happened == [(1, "first"), (1, "second"), (2, "third")]


def test_what_a_process_was_about_to_do_ends_with_it_and_is_not_its_successors() -> None:
    agenda, happened = Agenda(), list[str]()
    processes = Processes(agenda)
    for name in ("a", "b"):
        processes.start(name)
        processes.after(1, name, happened.append, name)
    processes.end("a")
    processes.start("a")
    assert (processes.number("a"), processes.last("b")) == (2, 1)
    processes.do("a", happened.append, "now")
    play(agenda)
    assert happened == ["now", "b"]


def test_what_befalls_a_frozen_process_waits_until_it_thaws() -> None:
    agenda, happened = Agenda(), list[tuple[float, str]]()
    processes = Processes(agenda)
    processes.start("a")
    processes.freeze("a", 5)
    assert processes.frozen("a")
    processes.do("a", lambda: happened.append((agenda.now, "at once")))
    processes.after(1, "a", lambda: happened.append((agenda.now, "later")))
    processes.after(6, "a", lambda: happened.append((agenda.now, "awake")))
    play(agenda)
    assert happened == [(5, "at once"), (5, "later"), (6, "awake")]
    processes.freeze("a", 5)
    processes.end("a")
    processes.start("a")
    assert not processes.frozen("a")
    assert processes.names == {"a"}
    assert "b" not in processes
