"""Pushes are repeated until they are answered, never to evicted nodes, and never for a former process."""

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
    """Two nodes. ``a`` pushes. ``b`` answers from the given number of arrivals on; 0 is never."""

    def __init__(self, answers_from: int, **scenario: Any) -> None:
        self.queue, self.happened = EventQueue(), Counter[str]()
        self.processes = Processes(self.queue)
        self.arrived, self.answered, self._answers_from = 0, list[Answered](), answers_from
        self.ended = False
        network = LossyNetwork(Scenario(**scenario), random.Random(0), self.happened)
        self.pushes = PushChannel(
            self.queue,
            self.processes,
            network,
            self.happened,
            0.5,
            self._receive,
            self._take_answer,
            lambda _: self.ended,
        )
        for name in ("a", "b"):
            self.processes.start(name)

    def push(self) -> None:
        self.pushes.push("a", "b", cast(Message, SimpleNamespace(round=3, sender="a")))

    def _receive(self, to: str, message: Message) -> None:
        self.arrived += 1
        if 0 < self._answers_from <= self.arrived:
            self.pushes.answer(to, "a", Answered("b", Ack(message.round, Verdict.OK, 0)))
        self.ended = self.arrived == 10

    def _take_answer(self, sender: str, event: Answered) -> None:
        self.answered.append(event)


def test_pushes_are_repeated_until_they_are_answered() -> None:
    pair = Pair(answers_from=3, lose=0.5)
    pair.push()
    play(pair.queue)
    assert pair.happened["lost"] > 0
    assert pair.arrived >= 3
    assert {event.ack.round for event in pair.answered} == {3}
    assert pair.pushes.answered_s > 1.0  # half a second, one, two, and two again


def test_no_repeats_after_the_end_nor_to_evicted_nodes() -> None:
    pair = Pair(answers_from=0)
    pair.push()
    play(pair.queue)
    assert pair.arrived == 10
    evicted = Pair(answers_from=0)
    evicted.push()
    evicted.pushes.drop("a", {"b"})
    play(evicted.queue)
    assert evicted.arrived == 1  # it was under way


def test_repeat_sends_only_pushes_of_the_running_process() -> None:
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


def test_later_process_gets_no_answer_to_a_former_one() -> None:
    pair = Pair(answers_from=1, latency_s=(0.1, 0.1))
    pair.push()
    pair.processes.end("a")
    pair.processes.start("a")
    pair.push()
    pair.pushes.drop("a", {"b"})  # so that nothing is repeated: the first push is answered, and only that
    play(pair.queue)
    assert pair.arrived == 2
    assert len(pair.answered) == 1
