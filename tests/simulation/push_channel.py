"""Pushes and their answers as datagrams: late, twice, out of order or lost, and repeated until they are answered."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

from edgenode.core.protocol.events import Answered
from edgenode.core.protocol.messages import Message, Verdict
from tests.simulation.event_queue import Callback, EventQueue, Processes
from tests.simulation.lossy_network import LossyNetwork

_MAX_DOUBLINGS = 2  # of the time between two attempts

_Key = tuple[str, int, str, int]  # (sender, number of its process, receiver, round)


class PushChannel:
    """Everything that the nodes of one run send each other.

    Args:
        retry_s: between the first attempt and the second.
        receive: takes (receiver, message) when a push arrives.
        answered: takes (sender, event) when an answer arrives.
        ended: whether a node has ended, and repeats nothing any more.
        carries: whether pushes pass from a sender to a receiver, and the answers back.

    Attributes:
        answered_s: when the last push was answered.
    """

    def __init__(
        self,
        queue: EventQueue,
        processes: Processes,
        network: LossyNetwork,
        happened: Counter[str],
        retry_s: float,
        receive: Callable[[str, Message], None],
        answered: Callable[[str, Answered], None],
        ended: Callable[[str], bool],
        carries: Callable[[str, str], bool] = lambda sender, receiver: True,
    ) -> None:
        self._queue, self._processes, self._network, self._happened = queue, processes, network, happened
        self._retry_s, self._receive, self._answered, self._ended = retry_s, receive, answered, ended
        self._carries = carries
        self.answered_s = 0.0
        self._unanswered: dict[_Key, Message] = {}
        self._pushed_by: dict[tuple[str, str, int], int] = {}  # (receiver, sender, round) -> the sender's process
        self._last_arrival_s: defaultdict[tuple[str, str], float] = defaultdict(float)  # of (sender, receiver)

    def push(self, name: str, to: str, message: Message) -> None:
        """A node begins to push."""
        key = name, self._processes.last(name), to, message.round
        self._unanswered[key] = message
        self._attempt(key, self._retry_s)

    def answer(self, name: str, to: str, event: Answered) -> None:
        """A node answers a push. The answer returns on the push's own stream, so no later process gets it."""
        if self._carries(to, name):
            number = self._pushed_by.get((name, to, event.ack.round))  # None: nobody has pushed
            self._send(name, to, self._take_answer, to, number, event)

    def send_once(self, name: str, to: str, message: Message) -> None:
        """A node sends a push out of turn, and does not repeat it."""
        self._send_push(name, self._processes.last(name), to, message)

    def drop(self, name: str, receivers: set[str]) -> None:
        """A node stops pushing to some receivers."""
        self._unanswered = {k: m for k, m in self._unanswered.items() if k[0] != name or k[2] not in receivers}

    def drop_all(self) -> None:
        """All nodes stop pushing: they resume from checkpoints."""
        self._unanswered = {}

    def repeat(self, name: str) -> None:
        """A node repeats all its pushes at once."""
        number = self._processes.number(name)
        for key in [k for k in self._unanswered if k[:2] == (name, number)]:
            self._send_push(name, number, key[2], self._unanswered[key])

    def _attempt(self, key: _Key, wait_s: float) -> None:
        name, number, to, _ = key
        if key not in self._unanswered or self._ended(name):
            return
        self._send_push(name, number, to, self._unanswered[key])
        longest_s = self._retry_s * 2**_MAX_DOUBLINGS
        self._processes.after(wait_s, name, self._attempt, key, min(2 * wait_s, longest_s))

    def _take_answer(self, sender: str, number: int | None, event: Answered) -> None:
        if number not in (None, self._processes.last(sender)):
            return
        key = sender, self._processes.last(sender), event.receiver, event.ack.round
        if key in self._unanswered and event.ack.verdict in (Verdict.OK, Verdict.SEEN):  # a refused push is repeated
            del self._unanswered[key]
            self.answered_s = self._queue.now
        self._answered(sender, event)

    def _send_push(self, sender: str, number: int, to: str, message: Message) -> None:
        if self._carries(sender, to):
            self._send(sender, to, self._arrive, number, to, message)

    def _arrive(self, number: int, to: str, message: Message) -> None:
        self._pushed_by[to, message.sender, message.round] = number
        self._receive(to, message)

    def _send(self, sender: str, to: str, callback: Callback, *args: Any) -> None:
        for delay_s in self._network.copies(sender, to):
            arrives_s = self._queue.now + delay_s
            self._happened["reordered"] += arrives_s < self._last_arrival_s[sender, to]
            self._last_arrival_s[sender, to] = max(self._last_arrival_s[sender, to], arrives_s)
            self._processes.after(delay_s, to, callback, *args)
