"""Links that a firewall blocks in one direction: whether pushes pass, what their senders report, and what must follow.

A sender notices after a while. Then a relay carries the pushes, if one can. The sender reports the link until it works,
and does not know of a link that no graph uses.

What must hold: no record takes back a link that never works again, as long as the graphs can do without it.
"""

from __future__ import annotations

from collections import Counter

from edgenode.core.protocol.events import Persist
from edgenode.core.protocol.orders import BlockedLink
from edgenode.core.protocol.plan.plan import Plan
from edgenode.core.protocol.plan.run_spec import RunSpec
from edgenode.core.topology.adaptation import adapt
from edgenode.core.topology.schedule import Link
from edgenode.errors import LocalProtocolError
from tests.simulation.event_queue import EventQueue
from tests.simulation.scenario import BlockLink

NOTICE_S = 1.0


class BlockedLinks:
    """The blocked links of one run. It counts in ``happened`` what it does."""

    def __init__(self, queue: EventQueue, run_spec: RunSpec, happened: Counter[str]) -> None:
        self._queue, self._run_spec, self._happened = queue, run_spec, happened
        self._blocks: dict[Link, tuple[BlockLink, float]] = {}  # with the time of the beginning
        self._left_out: dict[str, frozenset[Link]] = {}  # digest of a record -> the links that it does without
        self._newest = -1, ""  # number and digest of a record

    def begin(self, block: BlockLink) -> bool:
        """Block a link. False if it is blocked already."""
        if (block.sender, block.receiver) in self._blocks:
            return False
        self._happened["link blocked"] += 1
        self._blocks[block.sender, block.receiver] = block, self._queue.now
        return True

    def end(self, block: BlockLink) -> None:
        """The link works again."""
        del self._blocks[block.sender, block.receiver]

    def is_blocked(self, link: Link) -> bool:
        """Whether nothing passes directly."""
        return link in self._blocks

    def carries(self, sender: str, receiver: str) -> bool:
        """Whether a push passes, and the answer to it: directly, or by a relay."""
        if (sender, receiver) not in self._blocks:
            return True
        block, since = self._blocks[sender, receiver]
        if not (block.relayed and self._queue.now >= since + NOTICE_S):
            return False
        self._happened["push relayed"] += 1
        return True

    def reported_by(self, sender: str, plan: Plan, t: int) -> tuple[BlockedLink, ...]:
        """What a sender reports that knows a plan, and has a round to push."""
        latest, found = plan.latest, []
        used = {
            edge
            for record in plan.since(t - 1).records
            for spec in record.schedule.graphs
            for graph in spec.period(record.names)
            for edge in graph.edges
        }
        for link, (block, since) in sorted(self._blocks.items()):
            age = self._queue.now - since
            noticed = age >= NOTICE_S and link in used
            if link[0] == sender and link[1] in latest.names and (noticed or link in latest.schedule.without):
                by = "relay" if block.relayed else ""
                found.append(BlockedLink(link[1], latest.incarnations[link[1]], f"{link[1]}:1", "blocked", age, by))
        return tuple(found)

    def persisted(self, persist: Persist) -> None:
        """A controller made, or learned, a plan.

        Raises:
            LocalProtocolError: it takes back a link that never works again.
        """
        latest, (number, newest) = persist.plan.latest, self._newest
        if latest.digest in self._left_out:
            return  # known
        # A record that begins a chain follows the newest one, if no controller has lost that. The first follows none.
        parent = latest.parent or (newest if latest.number > number else "")
        before = self._left_out.get(parent, frozenset()) if latest.number else frozenset()
        without = self._left_out[latest.digest] = frozenset(latest.schedule.without)
        self._newest = max(self._newest, (latest.number, latest.digest))
        self._happened["link left out"] += len(without - before)
        self._happened["link taken back"] += len(before - without)
        for link in before - without:
            block, since = self._blocks.get(link, (None, 0.0))
            known = block is not None and block.for_s is None and self._queue.now >= since + NOTICE_S
            if known and set(link) <= set(latest.names) and persist.requested is not None:
                fitted = adapt(persist.requested, latest.names, self._run_spec.requirements, tuple(sorted(before)))
                if link in fitted.schedule.without:
                    raise LocalProtocolError(f"record {latest.number} takes back {link}, which does not work")
