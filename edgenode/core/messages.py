"""What the state machines say and hear: frozen values, no behaviour.

Events go in, actions come out; ``Node`` and ``Cluster`` each have their own two unions.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from edgenode.core.compress import Floats
from edgenode.core.graph import GraphSpec
from edgenode.core.plan import Plan, Record
from edgenode.core.sparse_push import State
from edgenode.errors import EdgenodeError


class Verdict(Enum):
    """A receiver's answer to a push. OK and SEEN both mean that the message is in the receiver's x.

    There is no "send me the record": a push carries every record that its receiver is not known to have.
    """

    OK = "ok"
    SEEN = "seen"
    STALE = "stale"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Message:
    """One push: what Algorithm 1 sends (line 7), and what the plan needs to judge it.

    Attributes:
        digest: of the record in force at ``round``, as the sender knows it.
        number: of that record.
        weight: W[receiver, sender], chosen by the sender.
        records: newer records than the receiver is known to have, oldest first.
    """

    sender: str
    incarnation: int
    round: int
    number: int
    digest: str
    weight: float
    u: float
    payload: bytes
    records: tuple[Record, ...] = ()


# --- a node hears -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Trained:
    """The local step is done; displacement = z after - z before, float32 [d]."""

    round: int
    displacement: Floats


@dataclass(frozen=True, slots=True)
class Received:
    """A push arrived."""

    message: Message


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """A receiver answered the push of a round; ``knows`` is the number of its newest record."""

    receiver: str
    round: int
    verdict: Verdict
    knows: int
    detail: str = ""


@dataclass(frozen=True, slots=True)
class RecordOffered:
    """The controller offers a change of plan."""

    record: Record


@dataclass(frozen=True, slots=True)
class TimedOut:
    """The deadline of a round passed."""

    round: int


NodeEvent = Trained | Received | Acknowledged | RecordOffered | TimedOut

# --- a node says ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Train:
    """Take one local step from z and answer with Trained."""

    round: int
    z: Floats


@dataclass(frozen=True, slots=True)
class Push:
    """Deliver a message, and keep trying until it is answered."""

    to: str
    message: Message


@dataclass(frozen=True, slots=True)
class Acknowledge:
    """Answer a push."""

    to: str
    round: int
    verdict: Verdict
    knows: int
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Await:
    """The round now waits for these peers: start its one deadline."""

    round: int
    missing: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Mixed:
    """A round is closed: what it cost."""

    round: int
    messages: int
    payload_bytes: int
    u: float


@dataclass(frozen=True, slots=True)
class Evaluate:
    """Measure the model after ``round`` rounds."""

    round: int
    z: Floats


@dataclass(frozen=True, slots=True)
class Save:
    """Write a checkpoint of the state after ``round`` rounds."""

    round: int
    state: State
    plan: Plan


@dataclass(frozen=True, slots=True)
class AnswerOffer:
    """Tell the controller whether its record was in time, and the next round this node will push."""

    number: int
    digest: str
    accepted: bool
    next_round: int


@dataclass(frozen=True, slots=True)
class PlanChanged:
    """A record was adopted: its members may need dialling, its start shown."""

    record: Record


@dataclass(frozen=True, slots=True)
class Finish:
    """The run is over for this node: all its pushes are answered. ``complete`` is False if it was stopped early."""

    round: int
    z: Floats
    complete: bool


@dataclass(frozen=True, slots=True)
class Fail:
    """The run cannot go on."""

    error: EdgenodeError


NodeAction = Train | Push | Acknowledge | Await | Mixed | Evaluate | Save | AnswerOffer | PlanChanged | Finish | Fail

# --- the cluster hears ------------------------------------------------------------------------------


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
    """

    node: str
    address: str
    run_digest: str
    rounds_per_epoch: int
    saved: frozenset[int] = frozenset()
    plan: Plan | None = None
    running: bool = False


@dataclass(frozen=True, slots=True)
class Lost:
    """A node's link to the controller ended."""

    node: str


@dataclass(frozen=True, slots=True)
class Progressed:
    """A node's report: the next round it will push, and the newest record it knows."""

    node: str
    next_round: int
    number: int
    digest: str


@dataclass(frozen=True, slots=True)
class OfferAnswered:
    """A node answered an offer."""

    node: str
    answer: AnswerOffer


@dataclass(frozen=True, slots=True)
class Rotate:
    """An operator wants these graphs in turn, ``every`` rounds or epochs each."""

    ticket: int
    graphs: tuple[GraphSpec, ...]
    every: int
    epochs: bool


@dataclass(frozen=True, slots=True)
class Stop:
    """An operator wants the run to stop at one round for all."""

    ticket: int


Change = Rotate | Stop
ClusterEvent = Joined | Lost | Progressed | OfferAnswered | Rotate | Stop

# --- the cluster says -------------------------------------------------------------------------------


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
class Reply:
    """Answer an operator: the round at which the change takes effect, or why not."""

    ticket: int
    start: int | None
    error: str = ""


ClusterAction = Welcome | Refuse | Offer | Reply
