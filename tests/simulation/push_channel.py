"""Pushes and their answers, as datagrams: late, twice, out of order or lost, and repeated until they are answered."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

from edgenode.core.protocol.events import Answered
from edgenode.core.protocol.messages import Message
from tests.simulation.event_queue import EventQueue, Happening, Processes
from tests.simulation.lossy_network import LossyNetwork

_MOST_DOUBLINGS = 2  # of the time between two tries

_Key = tuple[str, int, str, int]  # (sender, its process, receiver, round)


class PushChannel:
    """Everything that the nodes of one run send each other.

    Args:
        retry_s: between the first try and the second.
        arrive: takes (receiver, message) when a push arrives.
        answer: takes (sender, event) when it is answered.
        over: whether a node has ended, and repeats nothing any more.

    Attributes:
        answered_s: when one was last answered.
    """

    def __init__(
        self,
        queue: EventQueue,
        processes: Processes,
        air: LossyNetwork,
        happened: Counter[str],
        retry_s: float,
        arrive: Callable[[str, Message], None],
        answer: Callable[[str, Answered], None],
        over: Callable[[str], bool],
    ) -> None:
        self._queue, self._processes, self._lossy_network, self._happened = queue, processes, air, happened
        self._retry_s, self._arrive, self._answer, self._over = retry_s, arrive, answer, over
        self.answered_s = 0.0
        self._unanswered: dict[_Key, Message] = {}
        self._latest_s: defaultdict[tuple[str, str], float] = defaultdict(float)  # arrival, each way

    def push(self, name: str, to: str, message: Message) -> None:
        """A node begins to push."""
        key = name, self._processes.last(name), to, message.round
        self._unanswered[key] = message
        self._try(key, self._retry_s)

    def answer(self, name: str, to: str, event: Answered) -> None:
        """A node answers a push."""
        self._send(name, to, self._answered, to, event)

    def drop(self, name: str, receivers: set[str]) -> None:
        """A node pushes to some no longer."""
        self._unanswered = {k: m for k, m in self._unanswered.items() if k[0] != name or k[2] not in receivers}

    def forget(self) -> None:
        """All begin anew."""
        self._unanswered = {}

    def repeat(self, name: str) -> None:
        """A node repeats all its pushes at once."""
        number = self._processes.number(name)
        for key in [k for k in self._unanswered if k[:2] == (name, number)]:
            self._send(name, key[2], self._arrive, key[2], self._unanswered[key])

    def _try(self, key: _Key, wait_s: float) -> None:
        name, _, to, _ = key
        if key not in self._unanswered or self._over(name):
            return
        self._send(name, to, self._arrive, to, self._unanswered[key])
        longest_s = self._retry_s * 2**_MOST_DOUBLINGS
        self._processes.after(wait_s, name, self._try, key, min(2 * wait_s, longest_s))

    def _answered(self, sender: str, event: Answered) -> None:
        key = sender, self._processes.last(sender), event.receiver, event.ack.round
        if key in self._unanswered:
            del self._unanswered[key]
            self.answered_s = self._queue.now
        self._answer(sender, event)

    def _send(self, sender: str, to: str, arrive: Happening, *what: Any) -> None:
        for delay_s in self._lossy_network.copies(sender, to):
            arrives_s = self._queue.now + delay_s
            self._happened["reordered"] += arrives_s < self._latest_s[sender, to]
            self._latest_s[sender, to] = max(self._latest_s[sender, to], arrives_s)
            self._processes.after(delay_s, to, arrive, *what)
