"""Simulated time, and the processes that run in it."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

Callback = Callable[..., None]


class EventQueue:
    """Calls to come, by simulated time. Calls for the same time are made in the order they were scheduled."""

    def __init__(self) -> None:
        self.now = 0.0
        self._heap: list[tuple[float, int, Callback, tuple[Any, ...]]] = []
        self._serials = count()

    def serial(self) -> int:
        """A number that is unique in this run."""
        return next(self._serials)

    def at(self, when: float, callback: Callback, *args: Any) -> None:
        """Schedule a call."""
        heapq.heappush(self._heap, (when, self.serial(), callback, args))

    def after(self, seconds: float, callback: Callback, *args: Any) -> None:
        """Schedule a call for later."""
        self.at(self.now + seconds, callback, *args)

    def __iter__(self) -> Iterator[tuple[Callback, tuple[Any, ...]]]:
        """One call after the other, each at its time, until none is left."""
        while self._heap:
            self.now, _, callback, args = heapq.heappop(self._heap)
            yield callback, args


class Processes:
    """Which processes run, at most one under a name. Calls of a process end with it, and wait while it is frozen."""

    def __init__(self, queue: EventQueue) -> None:
        self._queue = queue
        self._running: dict[str, int] = {}  # name -> number of its process
        self._started: Counter[str] = Counter()
        self._thaws_s: dict[str, float] = {}
        self._held: dict[str, list[tuple[Callback, tuple[Any, ...]]]] = {}  # name -> calls that wait for its thaw

    @property
    def names(self) -> frozenset[str]:
        """The names under which a process runs."""
        return frozenset(self._running)

    def __contains__(self, name: object) -> bool:
        return name in self._running

    def number(self, name: str) -> int | None:
        """The number of the process that runs under this name, None without one. The first one of a name is 1."""
        return self._running.get(name)

    def last(self, name: str) -> int:
        """The number of the latest process of this name, whether it runs or not."""
        return self._started[name]

    def start(self, name: str) -> None:
        """Start the next process of this name."""
        self._started[name] += 1
        self._running[name] = self._started[name]

    def end(self, name: str) -> None:
        """End the process of this name, if one runs."""
        self._running.pop(name, None)
        self._thaws_s.pop(name, None)
        self._held.pop(name, None)

    def freeze(self, name: str, for_s: float) -> None:
        """Suspend a process for some time, and not for less than an earlier suspension."""
        self._thaws_s[name] = max(self._thaws_s.get(name, 0.0), self._queue.now + for_s)
        self._queue.at(self._thaws_s[name], self._thaw, name)

    def frozen(self, name: str) -> bool:
        """Whether a process is suspended."""
        return self._thaws_s.get(name, 0.0) > self._queue.now

    def after(self, seconds: float, name: str, callback: Callback, *args: Any) -> None:
        """Schedule a call of a process. It is made if the process still runs then, and not before it thaws."""
        self._queue.after(seconds, self._call, name, self.number(name), callback, args)

    def do(self, name: str, callback: Callback, *args: Any) -> None:
        """The same for now."""
        self._call(name, self.number(name), callback, args)

    def _call(self, name: str, number: int | None, callback: Callback, args: tuple[Any, ...]) -> None:
        if number is None or self.number(name) != number:
            return
        if self.frozen(name) or name in self._held:
            self._held.setdefault(name, []).append((callback, args))
        else:
            callback(*args)

    def _thaw(self, name: str) -> None:
        """Make the calls that have waited, in their order: two messages on one stream never overtake each other."""
        while self._held.get(name) and not self.frozen(name):
            callback, args = self._held[name].pop(0)
            callback(*args)
        if not self._held.get(name, True):
            del self._held[name]
