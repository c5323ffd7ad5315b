"""What a node knows of its peers, and the checks that a push has to pass before it is believed."""

from __future__ import annotations

from edgenode.core.protocol.messages import Message
from edgenode.core.protocol.plan import Plan, Record
from edgenode.errors import RemoteProtocolError


class PeerKnowledge:
    """Per peer: which pushes it has not answered, which record it knows, and which round it must have begun.

    Attributes:
        begun: per peer, the newest round that it must have begun: one that it pushed, or the round after one whose push
            it acknowledged. It is the evidence of an eviction.
    """

    def __init__(self, plan: Plan) -> None:
        self.begun: dict[str, int] = {}
        self._unanswered: set[tuple[int, str]] = set()
        self._knows: dict[str, int] = dict.fromkeys(plan.latest.names, plan.records[0].number)

    def pushed(self, peer: str, t: int) -> None:
        """A push of a round went to a peer."""
        self._unanswered.add((t, peer))

    def owes(self, peer: str, t: int) -> bool:
        """Whether a peer has not answered the push of a round."""
        return (t, peer) in self._unanswered

    def answered(self, peer: str, t: int) -> None:
        """A peer has the push of a round in its x."""
        self._unanswered.remove((t, peer))

    def owing(self, before: int) -> tuple[str, ...]:
        """The peers that have not answered pushes of rounds before this one."""
        return tuple(sorted({peer for t, peer in self._unanswered if t < before}))

    def began(self, peer: str, t: int) -> None:
        """There is evidence that a peer has begun a round."""
        self.begun[peer] = max(self.begun.get(peer, -1), t)

    def learned(self, peer: str, number: int) -> None:
        """A peer knows the record of a number, and all before it."""
        self._knows[peer] = max(self._knows.get(peer, 0), number)

    def news_for(self, peer: str, plan: Plan) -> tuple[Record, ...]:
        """The records that a peer is not known to have, oldest first."""
        return tuple(r for r in plan.records if r.number > self._knows.get(peer, -1))

    def forget(self, peer: str) -> None:
        """A peer was evicted: nothing is expected of it, and the next process of its name has begun nothing."""
        self._unanswered = {(t, other) for t, other in self._unanswered if other != peer}
        self.begun.pop(peer, None)


def check_push(message: Message, plan: Plan, receiver: str) -> None:
    """Hold a push against the plan that its sender names: edge, incarnation, weight and u.

    Raises:
        RemoteProtocolError: the plan gives the sender nothing to push, or something else.
    """
    sender, t = message.sender, message.round
    graph, record = plan.graph(t), plan.at(t)
    if sender not in graph.in_neighbours(receiver):
        raise RemoteProtocolError(f"{sender} pushed round {t}, but is not an in-neighbour in its graph")
    if message.incarnation != record.incarnations[sender]:
        raise RemoteProtocolError(f"{sender} pushed as incarnation {message.incarnation}, not its own")
    if message.weight != graph.weight(sender):
        raise RemoteProtocolError(f"{sender} pushed with weight {message.weight}, not {graph.weight(sender)}")
    if not all(0 < u < float("inf") for u in message.u):
        raise RemoteProtocolError(f"{sender} pushed with u = {message.u}")
