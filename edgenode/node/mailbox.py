"""The events of one node, from all who send it some: its peers, its controller, its timer."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from edgenode.core.protocol.events import NodeEvent
from edgenode.core.protocol.orders import Halt


class Mailbox:
    """The events of one node, in order. It exists before the node, so orders that come early wait here."""

    def __init__(self) -> None:
        self._events: deque[tuple[NodeEvent, Callable[[], None]]] = deque()
        self._posted = asyncio.Event()

    def post(self, event: NodeEvent, taken: Callable[[], None] = lambda: None) -> None:
        """Append an event. ``taken`` is called when it waits here no more."""
        self._events.append((event, taken))
        self._posted.set()

    async def get(self) -> list[NodeEvent]:
        """Take what is here, oldest first. If there is nothing, wait for it."""
        while not self._events:
            self._posted.clear()
            await self._posted.wait()
        return self.get_all()

    def get_all(self) -> list[NodeEvent]:
        """Take what is here now, oldest first."""
        events, self._events = self._events, deque()
        for _, taken in events:
            taken()
        return [event for event, _ in events]

    def starts_halted(self) -> bool:
        """Take the pauses that came before the node starts. Return whether it starts paused: the newest counts."""
        halted = False
        for event in self.get_all():
            if isinstance(event, Halt):
                halted = event.halted
            else:
                self.post(event)
        return halted
