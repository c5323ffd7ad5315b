"""The knowledge of a node about its peers."""

from __future__ import annotations

from edgenode.core.protocol.plan.plan import Plan
from edgenode.core.protocol.plan.record import Record


class PeerKnowledge:
    """Per peer: which pushes it has not answered, which record it knows, and how far it must have mixed.

    Attributes:
        begun: per peer, the round before which it must have mixed all: those mixed before a push of it, or up to a push
            that it acknowledged. In lock-step it has begun that round. It is the evidence of an eviction.
    """

    def __init__(self, plan: Plan) -> None:
        self.begun: dict[str, int] = {}
        self._unanswered: set[tuple[int, str]] = set()
        self._first_members, self._first_record = plan.latest.names, plan.records[0].number
        self._knows: dict[str, int] = {}  # of those asked for: all, at each of n nodes, are n squared

    def pushed(self, peer: str, t: int) -> None:
        """A push of a round went to a peer."""
        self._unanswered.add((t, peer))

    def owes(self, peer: str, t: int) -> bool:
        """Return whether a peer has not answered the push of a round."""
        return (t, peer) in self._unanswered

    def answered(self, peer: str, t: int) -> None:
        """A peer has the push of a round in its x."""
        self._unanswered.remove((t, peer))

    def ended(self, peer: str) -> None:
        """A peer has ended, so it has the pushes of all its rounds in its x."""
        self._unanswered = {(t, other) for t, other in self._unanswered if other != peer}

    def owing(self, before: int) -> tuple[str, ...]:
        """The peers that have not answered pushes of rounds before this one."""
        return tuple(sorted({peer for t, peer in self._unanswered if t < before}))

    def began(self, peer: str, t: int) -> None:
        """There is evidence that a peer has mixed all rounds before this one."""
        self.begun[peer] = max(self.begun.get(peer, -1), t)

    def learned(self, peer: str, number: int) -> None:
        """A peer knows the record of a number, and all before it."""
        self._knows[peer] = max(self._known(peer), number)

    def news_for(self, peer: str, plan: Plan) -> tuple[Record, ...]:
        """The records that a peer is not known to have, oldest first.

        A graceful change is offered only when the one before it is in force everywhere. So every member knows all
        records but the newest graceful one, and the evictions since: a push stays small however long the plan is.
        """
        newest = next((r.number for r in reversed(plan.records) if not r.evictions), 0)
        known = max(self._known(peer), newest - 1)
        return plan.records[max(0, known + 1 - plan.records[0].number) :]

    def _known(self, peer: str) -> int:
        """The number of the newest record that a peer is known to have. -1 without any."""
        return self._knows.setdefault(peer, self._first_record if peer in self._first_members else -1)

    def forget(self, peer: str) -> None:
        """A peer was evicted: nothing is expected of it, and the next process of its name has begun nothing."""
        self.ended(peer)
        self.begun.pop(peer, None)
