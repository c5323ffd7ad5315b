"""The control links between the nodes and the controller: each end knows only its own."""

from __future__ import annotations

from collections import defaultdict
from itertools import count
from typing import Any

from tests.simulation.event_queue import EventQueue, Happening, Processes
from tests.simulation.lossy_network import LossyNetwork


class ControlLinks:
    """One link of each node at most, by number; what is said on it keeps its order, and ends with it.

    Attributes:
        of_nodes: the links that the nodes hold; the controller may not have heard of one yet,
        of_controller: or not have missed it yet.
    """

    def __init__(self, queue: EventQueue, processes: Processes, air: LossyNetwork) -> None:
        self._queue, self._processes, self._lossy_network = queue, processes, air
        self._numbers = count()
        self.of_nodes: dict[str, int] = {}
        self.of_controller: dict[str, int] = {}
        self._quiet_s: defaultdict[tuple[int, bool], float] = defaultdict(float)  # last arrival, each way

    def dial(self, name: str, join: Happening, *what: Any) -> None:
        """A node opens a link; the controller holds it, too, once that has arrived, and then joins it."""
        link = self.of_nodes[name] = next(self._numbers)
        self._queue.at(self._in_order(link, True), self._open, name, link, join, what)

    def _open(self, name: str, link: int, join: Happening, what: tuple[Any, ...]) -> None:
        if self.of_nodes.get(name) == link and self._lossy_network.linked(name):
            join(link, *what)

    def up(self, name: str, hear: Happening, *what: Any) -> None:
        """A node says something, if it holds a link."""
        if name in self.of_nodes:
            link = self.of_nodes[name]
            self._queue.at(self._in_order(link, True), self._heard, name, link, hear, what)

    def _heard(self, name: str, link: int, hear: Happening, what: tuple[Any, ...]) -> None:
        if self.of_controller.get(name) == link and self._lossy_network.linked(name):
            hear(*what)

    def down(self, name: str, reach: Happening, *what: Any) -> None:
        """The controller says something, if it holds a link."""
        link = self.of_controller.get(name)
        if link is not None:
            self._queue.at(self._in_order(link, False), self._reached, name, link, reach, what)

    def _reached(self, name: str, link: int, reach: Happening, what: tuple[Any, ...]) -> None:
        if self.of_nodes.get(name) == link and self._lossy_network.linked(name):
            self._processes.do(name, self._delivered, name, link, reach, what)

    def _delivered(self, name: str, link: int, reach: Happening, what: tuple[Any, ...]) -> None:
        if self.of_nodes.get(name) == link:
            reach(*what)

    def _in_order(self, link: int, up: bool) -> float:
        self._quiet_s[link, up] = max(self._quiet_s[link, up], self._queue.now + self._lossy_network.latency_s())
        return self._quiet_s[link, up]
