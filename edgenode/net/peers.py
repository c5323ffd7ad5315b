"""All links of a node to its out-neighbours."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from edgenode.core.protocol.events import Answered
from edgenode.core.protocol.messages import Message
from edgenode.net.faults import Faults
from edgenode.net.link_watch import LinkWatch
from edgenode.net.peer_client import PeerAddresses, PeerLink
from edgenode.net.relay_client import Relay
from edgenode.net.wire import Identity


class Peers:
    """The links. Each lives in the caller's task group.

    Args:
        count: takes the bytes of every gRPC message sent to a peer.
    """

    def __init__(
        self,
        group: asyncio.TaskGroup,
        identity: Identity,
        peer_addresses: Callable[[str], PeerAddresses],
        post: Callable[[Answered], None],
        faults: Faults | None = None,
        watch: LinkWatch | None = None,
        relays: Callable[[str], Sequence[Relay]] = lambda to: (),
        count: Callable[[int], None] = lambda size: None,
    ) -> None:
        self._watch, self._relays, self._count = watch, relays, count
        if watch is not None:
            watch.works_again = self._go_direct
        self._group, self._identity, self._peer_addresses = group, identity, peer_addresses
        self._post, self._faults = post, faults or Faults()
        self._links: dict[str, PeerLink] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def push(self, to: str, message: Message) -> None:
        """Deliver a message. The first one to a peer opens the link."""
        if to not in self._links:
            link = PeerLink(
                to,
                self._identity,
                lambda: self._peer_addresses(to),
                self._post,
                self._faults,
                self._watch,
                lambda: self._relays(to),
                self._count,
            )
            self._links[to] = link
            self._tasks[to] = self._group.create_task(link.run(), name=f"link to {to}")
        self._links[to].push(message)

    def _go_direct(self, to: str) -> None:
        if to in self._links:
            self._links[to].go_direct()

    def drop(self, peer: str) -> None:
        """End the link to an evicted peer. Messages still in the queue are lost."""
        if peer in self._links:
            self._forget(peer)[1].cancel()

    def retire(self, peer: str) -> None:
        """End the link to a peer that left, once the peer has answered everything."""
        if peer in self._links:
            self._forget(peer)[0].close()

    def _forget(self, peer: str) -> tuple[PeerLink, asyncio.Task[None]]:
        """Take the link to a peer from the list."""
        if self._watch is not None:
            self._watch.forget(peer)
        return self._links.pop(peer), self._tasks.pop(peer)

    async def close(self) -> None:
        """End every link once its peer has answered everything, and wait for that."""
        for link in self._links.values():
            link.close()
        if self._tasks:
            await asyncio.wait(self._tasks.values())

    def abandon(self) -> None:
        """End every link at once: the run has failed."""
        for task in self._tasks.values():
            task.cancel()
