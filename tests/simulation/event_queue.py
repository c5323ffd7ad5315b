"""Simulated time, and the processes that live in it."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

Happening = Callable[..., None]


class EventQueue:
    """What is to happen, by simulated time; of two things at one time, what was put down first."""

    def __init__(self) -> None:
        self.now = 0.0
        self._heap: list[tuple[float, int, Happening, tuple[Any, ...]]] = []
        self._serials = count()

    def serial(self) -> int:
        """A number that nothing else of this run has."""
        return next(self._serials)

    def at(self, when: float, happen: Happening, *what: Any) -> None:
        """Put something down."""
        heapq.heappush(self._heap, (when, self.serial(), happen, what))

    def after(self, seconds: float, happen: Happening, *what: Any) -> None:
        """Put something down for later."""
        self.at(self.now + seconds, happen, *what)

    def __iter__(self) -> Iterator[tuple[Happening, tuple[Any, ...]]]:
        """One thing after the other, each at its time, until nothing is left."""
        while self._heap:
            self.now, _, happen, what = heapq.heappop(self._heap)
            yield happen, what


class Processes:
    """Which processes run, at most one under a name. What one was about to do ends with it, and waits while it stands
    still."""

    def __init__(self, queue: EventQueue) -> None:
        self._queue = queue
        self._running: dict[str, int] = {}  # name -> which of those that ever had it
        self._started: Counter[str] = Counter()
        self._thaws_s: dict[str, float] = {}

    @property
    def names(self) -> frozenset[str]:
        """Under which a process runs."""
        return frozenset(self._running)

    def __contains__(self, name: object) -> bool:
        return name in self._running

    def number(self, name: str) -> int | None:
        """Which of the processes that ever had this name runs; None if none does."""
        return self._running.get(name)

    def last(self, name: str) -> int:
        """The number of the latest process of this name, whether it runs or not."""
        return self._started[name]

    def start(self, name: str) -> None:
        """One more begins."""
        self._started[name] += 1
        self._running[name] = self._started[name]

    def end(self, name: str) -> None:
        """It is gone, if it ran."""
        self._running.pop(name, None)
        self._thaws_s.pop(name, None)

    def freeze(self, name: str, for_s: float) -> None:
        """It stands still, and goes on as if nothing had been."""
        self._thaws_s[name] = self._queue.now + for_s

    def frozen(self, name: str) -> bool:
        """Whether it stands still."""
        return self._thaws_s.get(name, 0.0) > self._queue.now

    def after(self, seconds: float, name: str, happen: Happening, *what: Any) -> None:
        """Something that happens to a process later, if it still runs then, and not before it thaws."""
        self._queue.after(seconds, self._live, name, self.number(name), happen, what)

    def do(self, name: str, happen: Happening, *what: Any) -> None:
        """The same now."""
        self._live(name, self.number(name), happen, what)

    def _live(self, name: str, number: int | None, happen: Happening, what: tuple[Any, ...]) -> None:
        if number is None or self.number(name) != number:
            return
        if self.frozen(name):
            self._queue.at(self._thaws_s[name], self._live, name, number, happen, what)
        else:
            happen(*what)
