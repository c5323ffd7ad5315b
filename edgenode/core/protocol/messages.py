"""The messages between nodes: a push, and its answer. Frozen values, no behaviour.

A push stays unanswered until its receiver mixes it. OK and SEEN both promise that the message is in the receiver's x,
so a sender may count its mass as delivered. No answer asks for a record: every push carries the records that its
receiver is not known to have.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from edgenode.core.protocol.plan.record import Record


class Verdict(Enum):
    """The verdict of a receiver on a push."""

    OK = "ok"  # mixed now
    SEEN = "seen"  # mixed before: a repeat
    STALE = "stale"  # judged by another plan than the receiver's
    ERROR = "error"  # against the protocol


@dataclass(frozen=True, slots=True)
class Message:
    """One push: what Algorithm 1 sends (line 7), and what the plan needs to judge it.

    Attributes:
        number: the number of the record in force at ``round``, as the sender knows it.
        digest: the digest of that record.
        weight: W[receiver, sender], chosen by the sender.
        u: the push-sum weights of what the payload encodes.
        records: records that the receiver is not known to have, oldest first.
        begun_rounds: (node, round before which it must have mixed all), sent with a leaver's last push. The leaver is
            gone when one of these nodes is evicted, so its hand-off target answers for it.
    """

    sender: str
    incarnation: int
    round: int
    number: int
    digest: str
    weight: float
    u: tuple[float, ...]
    payload: bytes
    records: tuple[Record, ...] = ()
    begun_rounds: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Ack:
    """The answer to the push of a round.

    Attributes:
        knows: the number of the answering node's newest record.
        detail: the reason, if the push is refused.
        records: the records that the sender does not know, with STALE.
    """

    round: int
    verdict: Verdict
    knows: int
    detail: str = ""
    records: tuple[Record, ...] = ()
