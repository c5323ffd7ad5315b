"""What is between the hosts: how long a message takes, whether it arrives, once or twice, and who cannot reach whom."""

from __future__ import annotations

import random
from collections import Counter

from tests.simulation.scenario import CONTROLLER, Partition, Scenario

Way = tuple[str, str]  # (sender, receiver)


class LossyNetwork:
    """The network of one run, drawn from its random numbers; it counts what it does in ``happened``."""

    def __init__(self, scenario: Scenario, rng: random.Random, happened: Counter[str]) -> None:
        self._conditions, self._rng, self._happened = scenario, rng, happened
        self._blocked: Counter[Way] = Counter()

    def latency_s(self) -> float:
        """Of the next message."""
        latency_s = self._rng.uniform(*self._conditions.latency_s)
        if self._conditions.stall and self._rng.random() < self._conditions.stall:
            self._happened["stalled"] += 1
            latency_s += self._rng.uniform(*self._conditions.stall_s)
        return latency_s

    def copies(self, sender: str, receiver: str) -> list[float]:
        """Of one datagram, the seconds after which each arrives: lost, delivered, or delivered twice."""
        if not self.passes(sender, receiver):
            self._happened["cut off"] += 1
            return []
        if self._rng.random() < self._conditions.lose:
            self._happened["lost"] += 1
            return []
        copies = 1 + (self._rng.random() < self._conditions.duplicate)
        self._happened["duplicated"] += copies - 1
        return [self.latency_s() for _ in range(copies)]

    def passes(self, sender: str, receiver: str) -> bool:
        """Whether there is a way from one host to another."""
        return self._blocked[sender, receiver] <= 0

    def linked(self, node: str) -> bool:
        """Whether a node and the controller can talk: a connection needs both ways."""
        return self.passes(node, CONTROLLER) and self.passes(CONTROLLER, node)

    def part(self, cut: Partition) -> list[Way]:
        """A partition begins; what is returned heals it."""
        self._happened["one-way partition" if cut.one_way else "partition"] += 1
        ways = [(s, r) for s in sorted(cut.senders) for r in sorted(cut.receivers)]
        ways += [] if cut.one_way else [(r, s) for s, r in ways]
        self._blocked.update(ways)
        return ways

    def heal(self, ways: list[Way]) -> None:
        """A partition ends."""
        self._blocked.subtract(ways)
