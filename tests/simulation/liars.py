"""Members that lie: what a faulty process with a valid certificate can send, drawn from a seed.

A liar is a member whose state machine is honest and whose messages are not. It speaks under its own name, because its
certificate says so, and it cannot sign records. Everything else is open to it:

1. Pushes with forged records, of other rounds, with wrong u, x, weights, digests, numbers and incarnations, with false
   begun_rounds, and repeats of old ones. They come instead of the true push, or in addition, and to any node.
   A push that is well formed and has another x at every receiver is equivocation. It cannot be told from training.
2. Answers that were not asked for, and false ones.
3. Reports to the controller with numbers and records of its own making.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import replace

from edgenode.core.protocol.events import Answered, NodeEvent, Received
from edgenode.core.protocol.member.node import Node
from edgenode.core.protocol.messages import Ack, Message, Verdict
from edgenode.core.protocol.orders import FenceAnswer, Fetched, Leave, NodeReport, OfferAnswer, Progress
from edgenode.core.protocol.plan.record import Member, Record
from edgenode.errors import EdgenodeError, RemoteProtocolError
from tests.simulation.signer import CONTROLLER_SIGNER

_HUGE = (1000, 1 << 40, (1 << 63) - 1, (1 << 64) - 1)


class Liars:
    """The liars of one run.

    Args:
        shares: node -> the share of its messages that are lies.

    Attributes:
        forged: digests of all records that they made up.
    """

    def __init__(self, seed: int, shares: Mapping[str, float]) -> None:
        self._shares, self._rng = shares, random.Random(f"lies {seed}")
        self._sent: dict[str, list[Message]] = {name: [] for name in shares}
        self.forged: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self._shares

    def __bool__(self) -> bool:
        return bool(self._shares)

    def __iter__(self):  # type: ignore[no-untyped-def]
        return iter(sorted(self._shares))

    def excuse(self, node: Node, event: NodeEvent) -> bool:
        """Whether an error of a node's state machine is a liar's own, the refusal of a lie, or what a liar left behind.

        A liar that withholds a record leaves a node behind that has no other in-neighbour. The others refuse its pushes
        then, and it can no longer take the record. A liar that pushes rounds which it has not reached lets its
        out-neighbours run ahead of others. These refuse the pushes that come too early, and take their repeats later.
        """
        name = node.state.name
        match event:
            case Received(message):
                left_behind = message.number > node.state.plan.latest.number
                early = message.round >= node.state.round + node.state.window
                return name in self or message.sender in self or (bool(self) and (left_behind or early))
            case Answered(receiver, ack):
                left_behind = bool(self) and ack.verdict in (Verdict.STALE, Verdict.ERROR)
                return name in self or receiver in self or left_behind
        return name in self

    # --- messages -------------------------------------------------------------------------------------

    def push(self, node: Node, message: Message) -> Message:
        """What a liar sends instead of a push."""
        sent = self._sent[node.state.name]
        sent.append(message)
        return self._lie(node, message) if self._lies(node.state.name) else message

    def noise(self, node: Node) -> Message | None:
        """What a liar sends out of turn. None before it has ever pushed."""
        sent = self._sent[node.state.name]
        return self._lie(node, self._rng.choice(sent)) if sent else None

    def ack(self, node: Node, ack: Ack) -> Ack:
        """What a liar answers instead of an answer."""
        return self._false_ack(node, ack.round) if self._lies(node.state.name) else ack

    def unasked_ack(self, node: Node) -> Ack:
        """An answer to a push that may not exist."""
        return self._false_ack(node, node.state.round + self._rng.randint(-2, 3))

    def report(self, node: Node | None, report: NodeReport) -> NodeReport:
        """What a liar reports instead of a report."""
        if node is None or not self._lies(node.state.name):
            return report
        rng, peers = self._rng, node.state.plan.latest.names
        match report:
            case OfferAnswer():
                return replace(
                    report, accepted=rng.random() < 0.5, next_round=rng.choice((0, node.state.round, *_HUGE))
                )
            case FenceAnswer():
                begun = tuple((peer, rng.choice((-1, node.state.round, *_HUGE))) for peer, _ in report.begun_rounds)
                at = rng.choice((-1, 0, report.begun, node.state.round + 5, *_HUGE))
                records = rng.choice((report.records, (*report.records, self._record(node))))
                return replace(report, begun=at, begun_rounds=begun, records=records)
            case Progress():
                farewell = replace(node.farewell(), begun_rounds=tuple((peer, 1 << 40) for peer in peers))
                number, digest = rng.choice(((report.number, "0"), (1 << 60, report.digest)))
                return rng.choice((
                    replace(report, next_round=rng.choice((0, *_HUGE))),
                    replace(report, number=number, digest=digest),
                    replace(report, farewell=farewell),
                    Fetched(),
                    Leave(),
                ))  # fmt: skip
        return report

    # --- lies -----------------------------------------------------------------------------------------

    def _lies(self, name: str) -> bool:
        return self._rng.random() < self._shares[name]

    def _false_ack(self, node: Node, t: int) -> Ack:
        rng = self._rng
        records = rng.choice(((), (self._record(node),), (*node.state.plan.records, self._record(node))))
        knows = rng.choice((0, node.state.plan.latest.number, *_HUGE))
        return Ack(t, rng.choice(list(Verdict)), knows, "x" * rng.choice((0, 9)), records)

    def _lie(self, node: Node, message: Message) -> Message:
        lies: list[Callable[[Node, Message], Message]] = [
            self._forged_record, self._forged_record, self._other_round, self._other_round, self._other_u,
            self._other_x, self._other_fields, self._false_begun, self._replay,
        ]  # fmt: skip
        return self._rng.choice(lies)(node, message)

    def _forged_record(self, node: Node, message: Message) -> Message:
        record = self._record(node)
        records = self._rng.choice(((record,), (*message.records, record), (*node.state.plan.records, record)))
        if self._rng.random() < 0.3:
            return replace(message, records=records, number=record.number, digest=record.digest)
        return replace(message, records=records)

    def _record(self, node: Node) -> Record:
        """A record that follows, or another one of a number that is taken."""
        rng, plan = self._rng, node.state.plan
        last, t = plan.latest, node.state.next_round
        start = max(last.start + 1, t + rng.choice((1, 3, 20)))
        others = [m for m in last.members if m.node != node.state.name]
        victim = rng.choice(others).node if others else node.state.name
        kept = tuple(m for m in last.members if m.node != victim)
        changes: list[dict[str, object]] = [
            {"end": start},
            {"end": t + 1},
            {"members": kept, "evictions": ((victim, rng.choice((-1, t, 1 << 40))),)},
            {"members": kept, "handoffs": ((victim, "nobody"),)},
            {"members": tuple(sorted((*last.members, Member("zz", 0, "evil:1"))))},
            {"members": tuple(replace(m, incarnation=m.incarnation + 1) for m in last.members)},
            {"term": 1 << 40},
        ]
        try:
            record = plan.successor(start, **rng.choice(changes))
            if rng.random() < 0.2 and last.number > plan.records[0].number:
                record = replace(record, number=last.number, parent=last.parent)
        except EdgenodeError:  # the graphs do not fit these members
            record = plan.successor(start, end=start)
        record = replace(record, signature=rng.choice((record.signature, last.signature)))
        self.forged.add(record.digest)
        return record

    def _other_round(self, node: Node, message: Message) -> Message:
        t = message.round + self._rng.choice((-3, -1, 1, 2, 7, 8, 9, *_HUGE))
        record = node.state.plan.at(t)
        return replace(message, round=t, number=record.number, digest=record.digest)

    def _other_u(self, node: Node, message: Message) -> Message:
        u = self._rng.choice((1e300, 3.5e38, 1e-45, 0.0, -1.0, float("nan"), float("inf"), 2.0**20))
        return replace(message, u=(u,) * self._rng.choice((0, 1, len(message.u), 99)))

    def _other_x(self, node: Node, message: Message) -> Message:
        """A well-formed push with another x: what it changes is beyond any judgement."""
        words = message.payload.decode().split()
        half = len(words) // 2
        x = [str(self._rng.randint(-9, 9)) for _ in range(half)]
        return replace(message, payload=" ".join([*x, *words[half:]]).encode())

    def _other_fields(self, node: Node, message: Message) -> Message:
        changes: list[dict[str, object]] = [
            {"number": self._rng.choice((0, *_HUGE))},
            {"digest": "0" * 64},
            {"weight": message.weight * 2},
            {"weight": 1.0},
            {"incarnation": message.incarnation + 1},
            {"incarnation": 1 << 40},
        ]
        return replace(message, **self._rng.choice(changes))  # type: ignore[arg-type]

    def _false_begun(self, node: Node, message: Message) -> Message:
        peers = (*node.state.plan.latest.names, "nobody")
        return replace(
            message, begun_rounds=tuple((peer, self._rng.choice((node.state.end, *_HUGE))) for peer in peers)
        )

    def _replay(self, node: Node, message: Message) -> Message:
        return self._rng.choice(self._sent[node.state.name])


def is_forged(record: Record, liars: Liars) -> bool:
    """Whether a record was made up. A controller may later make the same one: its signature tells them apart."""
    if record.digest not in liars.forged:
        return False
    try:
        CONTROLLER_SIGNER.verify(record)
    except RemoteProtocolError:
        return True
    return False
