"""The messages between the controller and a node: orders down, reports up. Frozen values, no behaviour.

Each has one type on its whole way. The cluster emits ``Send(node, order)``, the wire carries the order, and the node
handles that same order. A node emits ``Report(report)``, and the cluster handles ``Reported(node, report)``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from edgenode.core.protocol.observed import Observed
from edgenode.core.protocol.plan.plan import Plan
from edgenode.core.protocol.plan.record import Record
from edgenode.core.protocol.relays import Relays
from edgenode.core.topology.period import DataSize


@dataclass(frozen=True, slots=True)
class Leadership:
    """One start of a controller.

    Attributes:
        term: higher at every start, and unique as long as the controller's disk survives.
        nonce: drawn at random at the start. It distinguishes two controllers of one term.
        address: the address at which the controller was reached.
        run_id: the id of the run that it leads, or would create. A greeting of another run proves nothing.
        signature: over ``statement``, by the controller.
    """

    term: int
    nonce: str = ""
    address: str = ""
    run_id: str = ""
    signature: str = field(default="", compare=False)

    @property
    def statement(self) -> str:
        """The text that the controller signs. Its address is not part of it: each node sees another one."""
        return json.dumps({"leads": self.run_id, "term": self.term, "nonce": self.nonce}, sort_keys=True)

    def yields_to(self, other: Leadership) -> bool:
        """Return whether nodes that follow the other controller must not take orders from this one."""
        return self.term < other.term or (self.term == other.term and self.nonce != other.nonce)

    def __str__(self) -> str:
        return f"{self.address or 'an unknown address'} (term {self.term}, {self.nonce or 'no nonce'})"


# --- orders: controller to node ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Hello:
    """The first order of a link: which controller this is, whether the run is paused, and the ids of revoked keys."""

    leadership: Leadership
    paused: bool = False
    revoked: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Halt:
    """Begin no further round; or, if not ``halted``, continue."""

    halted: bool


@dataclass(frozen=True, slots=True)
class Welcome:
    """The node is a member, and starts with a round."""

    plan: Plan
    round: int


@dataclass(frozen=True, slots=True)
class Refuse:
    """The node cannot take part."""

    reason: str


@dataclass(frozen=True, slots=True)
class Standby:
    """The run waits for ``missing`` more nodes than those present. Or the node alone waits, for a ``reason``."""

    present: tuple[str, ...]
    missing: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Sponsor:
    """Fetch the model from a member, and make sure that the other members can be reached. Addresses are host:port.

    Attributes:
        name: the member's name.
        names: those of the others, in their order.
    """

    address: str
    others: tuple[str, ...]
    name: str = ""
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Offer:
    """A change of plan: accept it if the node's coming pushes carry it to every member before it starts."""

    record: Record


@dataclass(frozen=True, slots=True)
class Fence:
    """Accept nothing more from the evicted, begin no round until the eviction is committed, and answer.

    Attributes:
        term: the term of the controller.
        ballot: the number of this fence within the term. (term, ballot) never decreases.
        number: the number of the newest record before the eviction.
        run_id: the id of the run that the evicted are members of.
        signature: over ``statement``, by the controller. The next controller asks for it.
    """

    term: int
    ballot: int
    evicted: frozenset[str]
    number: int = 0
    run_id: str = ""
    signature: str = field(default="", compare=False)

    @property
    def statement(self) -> str:
        """The text that the controller signs."""
        order = {"fences": sorted(self.evicted), "term": self.term, "ballot": self.ballot}
        return json.dumps(order | {"number": self.number, "run": self.run_id}, sort_keys=True)


@dataclass(frozen=True, slots=True)
class EvictionCommitted:
    """The end of a fence: the records that the node may not have, oldest first."""

    records: tuple[Record, ...]


@dataclass(frozen=True, slots=True)
class LeaveRefused:
    """The node cannot leave."""

    reason: str


@dataclass(frozen=True, slots=True)
class Revoked:
    """Refuse these keys, by their ids, and end the live streams that have shown one."""

    keys: frozenset[str]


@dataclass(frozen=True, slots=True)
class Restart:
    """The members are fixed, and one is a new process: end the rounds, and come back with the checkpoints."""

    reason: str


@dataclass(frozen=True, slots=True)
class Ended:
    """A member has ended well, and may have gone before its last answers arrived: none is expected any more.

    With the name of its receiver, it says that all have ended. So none needs the receiver any more.
    """

    node: str


# --- both ways --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Abort:
    """Training diverged, and the run ends on every node. A node reports it, and the controller orders it to the others.

    Attributes:
        reason: the node that diverged, the round, and what to do.
    """

    reason: str


Order = (
    Hello | Halt | Welcome | Refuse | Standby | Sponsor | Offer | Fence | EvictionCommitted | LeaveRefused | Revoked
    | Restart | Ended | Relays | Observed | Abort
)  # fmt: skip

# --- reports: node to controller --------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Join:
    """The first report of a link: a newcomer, a node to be resumed, or a member that lost its link.

    Attributes:
        address: host:port where peers dial the node.
        run_digest: the digest of its configuration.
        data: the size of its data.
        workload: the canonical text of its workload. Empty if the text is too long to travel.
        workload_digest: the digest of that text. Empty if unknown.
        saved: the rounds of its checkpoints. Empty for a fresh start.
        plan: the plan of its newest checkpoint, or of the run it is in.
        running: it is in the middle of a run.
        process: drawn at random when the process started. It distinguishes a redial from a restart.
        fence: the fence that the member stands behind, or None.
        follows: the controller of its last order, if it is in a run.
        key: the id of the key that the node has shown. It never travels.
        observed: host:port where the controller sees it, if that may help peers, or "". It never travels.
    """

    address: str
    run_digest: str
    data: DataSize
    saved: frozenset[int] = frozenset()
    plan: Plan | None = None
    running: bool = False
    process: str = ""
    fence: Fence | None = None
    follows: Leadership | None = None
    key: str = ""
    workload: str = ""
    workload_digest: str = ""
    observed: str = ""


@dataclass(frozen=True, slots=True)
class OfferAnswer:
    """The answer to an offer: whether it came in time, and the next round that the node will push."""

    number: int
    digest: str
    accepted: bool
    next_round: int


@dataclass(frozen=True, slots=True)
class FenceAnswer:
    """The node stands behind the fence, and this is where.

    Attributes:
        begun: the newest round that the node has begun.
        begun_rounds: (evicted node, the round before which it must have mixed all): by a push of it, or by its answer
            to what this node pushed in the round before. In lock-step it has begun that round. -1 for none.
        records: the plan as the node knows it.
    """

    term: int
    ballot: int
    begun: int
    begun_rounds: tuple[tuple[str, int], ...]
    records: tuple[Record, ...]


@dataclass(frozen=True, slots=True)
class BlockedLink:
    """A link that a node cannot use to push to a receiver.

    Attributes:
        incarnation: the incarnation of the receiver, as the sender knows it.
        address: host:port that the sender dials.
        reason: the last error. Never empty.
        blocked_s: seconds since it began to fail.
        by: the process that relays the pushes. Empty if none does.
    """

    receiver: str
    incarnation: int
    address: str
    reason: str
    blocked_s: float
    by: str = ""


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress of a node.

    Attributes:
        next_round: the next round it will push.
        number: the number of the newest record that it knows.
        digest: the digest of that record.
        farewell: the answer to every later fence of a node that has done all its rounds, or stopped as ordered.
        blocked: all links to its receivers that it cannot use. One that is not listed works, or is not tried.
    """

    next_round: int
    number: int
    digest: str
    farewell: FenceAnswer | None = None
    blocked: tuple[BlockedLink, ...] = ()


@dataclass(frozen=True, slots=True)
class Fetched:
    """A newcomer has the model and has reached every member."""


@dataclass(frozen=True, slots=True)
class Leave:
    """A member wants to hand over what it has, and leave."""


@dataclass(frozen=True, slots=True)
class TrainingEnded:
    """A member trains no more. It wants to leave, or to end the run with the other members that train no more."""


@dataclass(frozen=True, slots=True)
class StopRun:
    """A member asks that all members stop before the same round."""


@dataclass(frozen=True, slots=True)
class NewKey:
    """A member has a certificate for another key, and asks to be known by it. The key is named by its id."""

    key: str


@dataclass(frozen=True, slots=True)
class Accusation:
    """A node received what it cannot explain, or its evaluation collapsed (`poison_alarm`).

    Attributes:
        member: the sender of the message. Empty if that is not known, as after a collapse.
        incarnation: the incarnation of that member, as the accuser knows it.
        round: the round of the message, or of the evaluation.
    """

    member: str
    incarnation: int
    round: int
    reason: str


LaterReport = OfferAnswer | FenceAnswer | Fetched | Leave | TrainingEnded | StopRun | NewKey | Abort | Accusation
NodeReport = Join | Progress | LaterReport
