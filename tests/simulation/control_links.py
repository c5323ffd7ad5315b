"""The control links between the nodes and the controller. Each end knows only its own end of a link."""

from __future__ import annotations

from collections import defaultdict
from itertools import count
from typing import Any

from tests.simulation.event_queue import Callback, EventQueue, Processes
from tests.simulation.lossy_network import LossyNetwork


class ControlLinks:
    """At most one link of each node, by number. What is sent on a link keeps its order, and is lost with the link.

    Attributes:
        of_nodes: the links that the nodes hold. The controller may not know of one yet.
        of_controller: the links that the controller holds. It may not have noticed yet that one has ended.
    """

    def __init__(self, queue: EventQueue, processes: Processes, network: LossyNetwork) -> None:
        self._queue, self._processes, self._network = queue, processes, network
        self._numbers = count()
        self.of_nodes: dict[str, int] = {}
        self.of_controller: dict[str, int] = {}
        self._last_arrival_s: defaultdict[tuple[int, bool], float] = defaultdict(float)  # of (link, upwards)

    def connect(self, name: str, accept: Callback, *args: Any) -> None:
        """A node opens a link. When that reaches the controller, ``accept`` is called with the link and ``args``."""
        link = self.of_nodes[name] = next(self._numbers)
        self._queue.at(self._in_order(link, True), self._open, name, link, accept, args)

    def _open(self, name: str, link: int, accept: Callback, args: tuple[Any, ...]) -> None:
        if self.of_nodes.get(name) == link and self._network.linked(name):
            accept(link, *args)

    def send_up(self, name: str, receive: Callback, *args: Any) -> None:
        """A node sends something, if it holds a link."""
        if name in self.of_nodes:
            link = self.of_nodes[name]
            self._queue.at(self._in_order(link, True), self._arrive_up, name, link, receive, args)

    def _arrive_up(self, name: str, link: int, receive: Callback, args: tuple[Any, ...]) -> None:
        if self.of_controller.get(name) == link and self._network.linked(name):
            receive(*args)

    def send_down(self, name: str, receive: Callback, *args: Any) -> None:
        """The controller sends something, if it holds a link."""
        link = self.of_controller.get(name)
        if link is not None:
            self._queue.at(self._in_order(link, False), self._arrive_down, name, link, receive, args)

    def _arrive_down(self, name: str, link: int, receive: Callback, args: tuple[Any, ...]) -> None:
        if self.of_nodes.get(name) == link and self._network.linked(name):
            self._processes.do(name, self._receive, name, link, receive, args)

    def _receive(self, name: str, link: int, receive: Callback, args: tuple[Any, ...]) -> None:
        if self.of_nodes.get(name) == link:
            receive(*args)

    def _in_order(self, link: int, up: bool) -> float:
        """When the next message on a link arrives: not before those that were sent earlier."""
        arrives_s = self._queue.now + self._network.latency_s()
        self._last_arrival_s[link, up] = max(self._last_arrival_s[link, up], arrives_s)
        return self._last_arrival_s[link, up]
