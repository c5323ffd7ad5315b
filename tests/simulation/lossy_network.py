"""The network between the hosts: the latency of a message, whether it arrives, once or twice, and partitions."""

from __future__ import annotations

import random
from collections import Counter

from tests.simulation.scenario import CONTROLLER, Partition, Scenario

Direction = tuple[str, str]  # (sender, receiver)


class LossyNetwork:
    """The network of one run, drawn from its random numbers. It counts in ``happened`` what it does."""

    def __init__(self, scenario: Scenario, rng: random.Random, happened: Counter[str]) -> None:
        self._scenario, self._rng, self._happened = scenario, rng, happened
        self._blocked: Counter[Direction] = Counter()

    def latency_s(self) -> float:
        """Of the next message."""
        latency_s = self._rng.uniform(*self._scenario.latency_s)
        if self._scenario.stall and self._rng.random() < self._scenario.stall:
            self._happened["stalled"] += 1
            latency_s += self._rng.uniform(*self._scenario.stall_s)
        return latency_s

    def copies(self, sender: str, receiver: str) -> list[float]:
        """The seconds after which each copy of a datagram arrives: none if it is lost, two if it is duplicated."""
        if not self.passes(sender, receiver):
            self._happened["blocked"] += 1
            return []
        if self._rng.random() < self._scenario.lose:
            self._happened["lost"] += 1
            return []
        copies = 1 + (self._rng.random() < self._scenario.duplicate)
        self._happened["duplicated"] += copies - 1
        return [self.latency_s() for _ in range(copies)]

    def passes(self, sender: str, receiver: str) -> bool:
        """Whether messages pass from one host to another."""
        return self._blocked[sender, receiver] <= 0

    def connects(self, host: str, other: str) -> bool:
        """Whether a connection between two hosts can exist: it needs both directions."""
        return self.passes(host, other) and self.passes(other, host)

    def linked(self, node: str) -> bool:
        """Whether a control link of this node can exist."""
        return self.connects(node, CONTROLLER)

    def begin(self, partition: Partition) -> list[Direction]:
        """Begin a partition. Returns what ends it."""
        self._happened["one-way partition" if partition.one_way else "partition"] += 1
        directions = [(s, r) for s in sorted(partition.senders) for r in sorted(partition.receivers)]
        directions += [] if partition.one_way else [(r, s) for s, r in directions]
        self._blocked.update(directions)
        return directions

    def end(self, directions: list[Direction]) -> None:
        """End a partition."""
        self._blocked.subtract(directions)
