"""What the controller's machine hears and says: frozen values, no behaviour. Events go in, actions come out."""

from __future__ import annotations

from dataclasses import dataclass

from edgenode.core.protocol.messages import AnswerFence, AnswerOffer
from edgenode.core.protocol.plan import Member, Plan, Record
from edgenode.core.topology.graph import GraphSpec

# --- the cluster hears ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Leadership:
    """One start of a controller.

    Attributes:
        term: higher at every start, and of nobody else as long as the controller's disk lives.
        nonce: drawn at random at the start: tells two controllers of one term apart.
        address: where it was reached.
    """

    term: int
    nonce: str = ""
    address: str = ""

    def yields_to(self, other: Leadership) -> bool:
        """Whether those who follow the other one must not take orders from this one."""
        return self.term < other.term or (self.term == other.term and self.nonce != other.nonce)

    def __str__(self) -> str:
        return f"{self.address or 'an unknown address'} (term {self.term}, {self.nonce or 'no nonce'})"


@dataclass(frozen=True, slots=True)
class Joined:
    """A node reached the controller.

    Attributes:
        address: host:port where its peers dial it.
        run_digest: of its configuration.
        rounds_per_epoch: of its local data.
        saved: rounds of its checkpoints, offered for resuming; empty to start afresh.
        plan: what it knows: of its newest checkpoint, or of the run it is in.
        running: it is in the middle of a run and only lost sight of the controller.
        fenced: whom a fence shuts out behind which it stands.
        follows: the controller that it took its last order from, if it is in a run.
        process: drawn at random when the process started: tells a redial from a restart.
    """

    node: str
    address: str
    run_digest: str
    rounds_per_epoch: int
    saved: frozenset[int] = frozenset()
    plan: Plan | None = None
    running: bool = False
    process: str = ""
    fenced: frozenset[str] = frozenset()
    follows: Leadership | None = None


@dataclass(frozen=True, slots=True)
class Lost:
    """A node's link to the controller ended."""

    node: str


@dataclass(frozen=True, slots=True)
class Progressed:
    """A node's report: the next round it will push, and the newest record it knows.

    Attributes:
        farewell: of one that has done all its rounds, or stopped as it was told: its answer to every fence to come.
    """

    node: str
    next_round: int
    number: int
    digest: str
    farewell: AnswerFence | None = None


@dataclass(frozen=True, slots=True)
class OfferAnswered:
    """A node answered an offer."""

    node: str
    answer: AnswerOffer


@dataclass(frozen=True, slots=True)
class Rotate:
    """An operator wants these graphs in turn, ``every`` rounds or epochs each."""

    request_id: int
    graphs: tuple[GraphSpec, ...]
    every: int
    epochs: bool


@dataclass(frozen=True, slots=True)
class Stop:
    """An operator wants the run to stop at one round for all."""

    request_id: int


@dataclass(frozen=True, slots=True)
class Pause:
    """An operator wants every node to stand still before its next round."""

    request_id: int


@dataclass(frozen=True, slots=True)
class Resume:
    """An operator wants a paused run to go on."""

    request_id: int


@dataclass(frozen=True, slots=True)
class Leave:
    """A member wants to go, and to hand over what it has."""

    request_id: int
    node: str


@dataclass(frozen=True, slots=True)
class Evict:
    """A member is taken for dead: by an operator, or on the evidence of its peers.

    Attributes:
        force: even below half of the members, or below min_nodes.
    """

    request_id: int
    node: str
    force: bool = False


@dataclass(frozen=True, slots=True)
class Fetched:
    """A newcomer has the model and has reached everyone: it may become a member."""

    node: str


@dataclass(frozen=True, slots=True)
class FenceAnswered:
    """A member stands behind the fence."""

    node: str
    answer: AnswerFence


@dataclass(frozen=True, slots=True)
class Admit:
    """A newcomer is ready, that is this process of its name: the cluster's own change, on nobody's ticket."""

    node: str
    process: str = ""
    request_id: int = -1


Change = Rotate | Stop | Leave | Admit
OperatorRequest = Rotate | Stop | Pause | Resume | Evict  # of an operator
ClusterEvent = Joined | Lost | Progressed | OfferAnswered | OperatorRequest | Leave | Fetched | FenceAnswered

# --- the cluster says -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Hello:
    """Tell a node who we are, before anything else: it follows us from now on. And whether the run is paused."""

    node: str
    leadership: Leadership
    paused: bool = False


@dataclass(frozen=True, slots=True)
class Halt:
    """Tell a node to begin no further round, or, if not ``halted``, to go on."""

    node: str
    halted: bool


@dataclass(frozen=True, slots=True)
class StepDown:
    """Another controller leads this run: end, and say which."""

    reason: str


@dataclass(frozen=True, slots=True)
class Welcome:
    """Give a node the plan, and the round it starts at."""

    node: str
    plan: Plan
    round: int


@dataclass(frozen=True, slots=True)
class Refuse:
    """Turn a node away for good."""

    node: str
    reason: str


@dataclass(frozen=True, slots=True)
class Offer:
    """Offer a record to one member; its pushes will flood it."""

    node: str
    record: Record


@dataclass(frozen=True, slots=True)
class Sponsor:
    """Send a newcomer to a member for its model; ``others`` are whom it must be able to reach."""

    node: str
    sponsor: Member
    others: tuple[Member, ...]


@dataclass(frozen=True, slots=True)
class Fence:
    """Fence one member."""

    node: str
    term: int
    ballot: int
    evicted: frozenset[str]


@dataclass(frozen=True, slots=True)
class Decree:
    """Give one member the records that end a fence."""

    node: str
    records: tuple[Record, ...]


@dataclass(frozen=True, slots=True)
class Persist:
    """Write down, before anything that follows, what the next controller must know."""

    term: int
    ballot: int
    plan: Plan
    paused: bool = False


@dataclass(frozen=True, slots=True)
class Reply:
    """Answer an operator: the round at which the change takes effect, or why not."""

    request_id: int
    start: int | None
    error: str = ""


ClusterAction = Hello | Halt | StepDown | Welcome | Refuse | Offer | Sponsor | Fence | Decree | Persist | Reply
