"""Pushes: repeated until they are answered, given up for the dead, and never those of a former process."""

from __future__ import annotations

import random
from collections import Counter
from types import SimpleNamespace
from typing import Any, cast

from edgenode.core.protocol.events import Answered
from edgenode.core.protocol.messages import Ack, Message, Verdict
from tests.simulation.event_queue import EventQueue, Processes
from tests.simulation.lossy_network import LossyNetwork
from tests.simulation.push_channel import PushChannel
from tests.simulation.scenario import Scenario
from tests.simulation.test_event_queue import play


class Pair:
    """Two nodes: ``a`` pushes, ``b`` answers what arrives, from the given number of arrivals on, and 0 is never."""

    def __init__(self, answers_from: int, **scenario: Any) -> None:
        self.queue, self.happened = EventQueue(), Counter[str]()
        self.processes = Processes(self.queue)
        self.arrived, self.answered, self._answers_from = 0, list[Answered](), answers_from
        self.given_up = False
        air = LossyNetwork(Scenario(**scenario), random.Random(0), self.happened)
        self.pushes = PushChannel(
            self.queue, self.processes, air, self.happened, 0.5, self._arrive, self._answer, lambda _: self.given_up
        )
        for name in ("a", "b"):
            self.processes.start(name)

    def push(self) -> None:
        self.pushes.push("a", "b", cast(Message, SimpleNamespace(round=3)))

    def _arrive(self, to: str, message: Message) -> None:
        self.arrived += 1
        if 0 < self._answers_from <= self.arrived:
            self.pushes.answer(to, "a", Answered("b", Ack(message.round, Verdict.OK, 0)))
        self.given_up = self.arrived == 10

    def _answer(self, sender: str, event: Answered) -> None:
        self.answered.append(event)


def test_a_push_is_repeated_until_it_is_answered() -> None:
    pair = Pair(answers_from=3, lose=0.5)
    pair.push()
    play(pair.queue)
    assert pair.happened["lost"] > 0
    assert pair.arrived >= 3
    assert {event.ack.round for event in pair.answered} == {3}
    assert pair.pushes.answered_s > 1.0  # half a second, one, two, and two again


def test_nobody_repeats_after_the_end_nor_to_the_dead() -> None:
    pair = Pair(answers_from=0)
    pair.push()
    play(pair.queue)
    assert pair.arrived == 10
    dead = Pair(answers_from=0)
    dead.push()
    dead.pushes.drop("a", {"b"})
    play(dead.queue)
    assert dead.arrived == 1  # it was on its way


def test_a_leaping_clock_repeats_what_the_running_process_has_not_had_answered() -> None:
    pair = Pair(answers_from=2)
    pair.push()
    pair.pushes.repeat("a")
    play(pair.queue)
    assert (pair.arrived, len(pair.answered)) == (2, 1)
    other = Pair(answers_from=0)
    other.push()
    other.processes.end("a")
    other.processes.start("a")
    other.pushes.repeat("a")
    play(other.queue)
    assert other.arrived == 1
