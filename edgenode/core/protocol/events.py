"""The events and actions of the two state machines that do not travel: frozen values, no behaviour.

Events go in, actions come out. What travels is in `messages` (between nodes) and `orders` (between a node and the
controller), and enters here unchanged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgenode.core.protocol.messages import Ack, Message
from edgenode.core.protocol.orders import (
    Abort,
    Accusation,
    Ended,
    EvictionCommitted,
    Fence,
    FenceAnswer,
    Halt,
    NodeReport,
    Offer,
    OfferAnswer,
    Order,
    Restart,
)
from edgenode.core.protocol.plan.plan import Plan
from edgenode.core.protocol.plan.record import Record
from edgenode.core.topology.graph import GraphSpec
from edgenode.core.topology.period import Period
from edgenode.core.topology.schedule import Link, Schedule
from edgenode.errors import EdgenodeError

if TYPE_CHECKING:  # numpy takes a fifth of the time that an operator's command needs to start
    from edgenode.core.algorithm.compression import Floats
    from edgenode.core.algorithm.sparse_push import State

# --- the node handles -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Trained:
    """The local step is done. local_update is what the learner's ``compress_update`` takes."""

    round: int
    local_update: Any


@dataclass(frozen=True, slots=True)
class Received:
    """A push arrived."""

    message: Message


@dataclass(frozen=True, slots=True)
class Answered:
    """A receiver answered a push of this node."""

    receiver: str
    ack: Ack


@dataclass(frozen=True, slots=True)
class TimedOut:
    """The deadline of a round passed."""

    round: int


NodeEvent = (
    Trained | Received | Answered | TimedOut | Offer | Fence | EvictionCommitted | Halt | Restart | Ended | Abort
)

# --- the node emits ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Train:
    """Take one local step from z, which is the learner's ``start``. Once z is read, the next event is Trained."""

    round: int
    z: Any


@dataclass(frozen=True, slots=True)
class Push:
    """Deliver a message, and repeat it until it is answered."""

    to: str
    message: Message


@dataclass(frozen=True, slots=True)
class Answer:
    """Answer a push."""

    to: str
    ack: Ack


@dataclass(frozen=True, slots=True)
class Await:
    """The round now waits for these peers: start its one deadline."""

    round: int
    missing: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Mixed:
    """A round is closed, with its costs. u is the mean over the blocks."""

    round: int
    messages: int
    payload_bytes: int
    u: float


@dataclass(frozen=True, slots=True)
class Evaluate:
    """Measure the model after ``round`` rounds. Like the model of ``Train``, ``z`` is read before the next event."""

    round: int
    z: Any


@dataclass(frozen=True, slots=True)
class Publish:
    """Publish the model after ``round`` rounds, for whatever uses it while training goes on."""

    round: int
    z: Floats


@dataclass(frozen=True, slots=True)
class Save:
    """Write a checkpoint of the state after ``round`` rounds. The state is read before the node handles an event."""

    round: int
    state: State
    plan: Plan


@dataclass(frozen=True, slots=True)
class Report:
    """Report to the controller."""

    report: OfferAnswer | FenceAnswer | Abort | Accusation


@dataclass(frozen=True, slots=True)
class PlanChanged:
    """A record was adopted: its members may need dialling, and its start can be shown."""

    record: Record


@dataclass(frozen=True, slots=True)
class Finish:
    """The run is over for this node: all its pushes are answered. ``complete`` is False if it stopped or left early.

    ``z`` is read before the next event. ``handed_to`` is the node to which a leaver has handed what it had.
    """

    round: int
    z: Any
    complete: bool
    handed_to: str = ""


@dataclass(frozen=True, slots=True)
class Fail:
    """The run cannot continue."""

    error: EdgenodeError


NodeAction = Train | Push | Answer | Await | Mixed | Evaluate | Publish | Save | Report | PlanChanged | Finish | Fail

# --- the cluster handles ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Reported:
    """A node's report arrived."""

    node: str
    report: NodeReport


@dataclass(frozen=True, slots=True)
class Disconnected:
    """A node's link to the controller ended."""

    node: str


@dataclass(frozen=True, slots=True)
class Rotate:
    """An operator requests these graphs in turn, a period each.

    Attributes:
        wait: reply only when the round is known.
    """

    request_id: int
    graphs: tuple[GraphSpec, ...]
    period: Period
    wait: bool = False


@dataclass(frozen=True, slots=True)
class Stop:
    """An operator requests that all nodes stop at one round. With ``wait``, the reply waits until it is known."""

    request_id: int
    wait: bool = False


@dataclass(frozen=True, slots=True)
class Extend:
    """An operator requests that the run trains for so many rounds, which are more than before.

    Attributes:
        rounds: the rounds of training, from the beginning of the run.
        wait: reply only when the round is known.
    """

    request_id: int
    rounds: int
    wait: bool = False


@dataclass(frozen=True, slots=True)
class Pause:
    """An operator requests that no node begins a further round."""

    request_id: int


@dataclass(frozen=True, slots=True)
class Resume:
    """An operator requests that a paused run continues."""

    request_id: int


@dataclass(frozen=True, slots=True)
class Evict:
    """Evict a member: requested by an operator, or by the failure detector with the request id UNREQUESTED.

    Attributes:
        force: even below half of the members, or below min_nodes.
    """

    request_id: int
    node: str
    force: bool = False


@dataclass(frozen=True, slots=True)
class Revoke:
    """Keys are revoked, by their ids. Their owners are evicted, and no node accepts them any more."""

    keys: frozenset[str]


@dataclass(frozen=True, slots=True)
class Avoid:
    """Links have not worked for long: the graphs have to do without them, if they can."""

    links: frozenset[Link]


UNREQUESTED = -1
"""The request id of what no operator requested. The reply to it is only logged."""

OperatorRequest = Rotate | Stop | Extend | Pause | Resume | Evict
ClusterEvent = Reported | Disconnected | OperatorRequest | Revoke | Avoid

# --- the cluster emits ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Send:
    """Give an order to a node. To a node without a link it is lost, and sent again when the node reconnects."""

    node: str
    order: Order


@dataclass(frozen=True, slots=True)
class StepDown:
    """Another controller leads this run: end this one."""

    reason: str


@dataclass(frozen=True, slots=True)
class Persist:
    """Write down what the next controller must know, before anything that follows.

    Attributes:
        requested: the schedule that an operator requested last. The plan may use a substitute.
        queued: accepted changes that are not part of the plan yet.
    """

    term: int
    ballot: int
    plan: Plan
    paused: bool = False
    requested: Schedule | None = None
    queued: tuple[Rotate | Stop | Extend, ...] = ()


@dataclass(frozen=True, slots=True)
class Reply:
    """Answer an operator: the round at which the change takes effect, what it waits for, or an error.

    Attributes:
        start: None for an error, and for a change that is queued.
        waits_for: the event that a queued change waits for, as in "after ...".
        earliest: the first round at which a queued change can take effect.
        replaces: the older queued change that this one replaces.
        difference: the substitute for the requested graph, and why.
        held_by: the links that stop the run, and what to check. Empty if it does not stand.
    """

    request_id: int
    start: int | None
    error: str = ""
    waits_for: str = ""
    earliest: int | None = None
    replaces: str = ""
    difference: str = ""
    held_by: str = ""


@dataclass(frozen=True, slots=True)
class Accused:
    """Let people know what a member reports: what another pushed, or that its own evaluation collapsed."""

    accuser: str
    accusation: Accusation


ClusterAction = Send | StepDown | Persist | Reply | Accused
