"""What a node hears and says: frozen values, no behaviour. Events go in, actions come out.

What the controller's machine hears and says is in `edgenode.core.protocol.control`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from edgenode.core.algorithm.compression import Floats
from edgenode.core.algorithm.sparse_push import State
from edgenode.core.protocol.plan import Plan, Record
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
        u: the push-sum weights of what the payload is of.
        records: newer records than the receiver is known to have, oldest first.
        held: of a leaver's last push: the newest round that each of the others must have begun. Its heir is asked for
            it when one of them is cut out, as the leaver is gone by then.
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


# --- a node hears -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Trained:
    """The local step is done; displacement = z after - z before, float32 [d]."""

    round: int
    local_update: Floats


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
    records: tuple[Record, ...] = ()


@dataclass(frozen=True, slots=True)
class RecordOffered:
    """The controller offers a change of plan."""

    record: Record


@dataclass(frozen=True, slots=True)
class Fenced:
    """The controller shuts members out: answer, accept nothing more from them, begin no round until it is decreed.

    Attributes:
        term: of the controller, and ballot: of this fence in it; (term, ballot) never goes back.
    """

    term: int
    ballot: int
    evicted: frozenset[str]


@dataclass(frozen=True, slots=True)
class Decreed:
    """The end of a fence: the records after it, all known ones among them; everyone stands still until then."""

    records: tuple[Record, ...]


@dataclass(frozen=True, slots=True)
class Halted:
    """The controller wants everyone to begin no further round, or, if not ``halted``, to go on."""

    halted: bool


@dataclass(frozen=True, slots=True)
class TimedOut:
    """The deadline of a round passed."""

    round: int


NodeEvent = Trained | Received | Acknowledged | RecordOffered | TimedOut | Fenced | Decreed | Halted

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
    records: tuple[Record, ...] = ()


@dataclass(frozen=True, slots=True)
class Await:
    """The round now waits for these peers: start its one deadline."""

    round: int
    missing: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Mixed:
    """A round is closed: what it cost; u is the mean over the blocks."""

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
class AnswerFence:
    """Tell the controller where we stand.

    Attributes:
        begun: the newest round we have begun.
        held: the newest round that each evicted member must have begun: it pushed it to us, or it has mixed what we
            pushed in the one before; -1 for none.
        records: the plan as we know it.
    """

    term: int
    ballot: int
    begun: int
    begun_rounds: tuple[tuple[str, int], ...]
    records: tuple[Record, ...]


@dataclass(frozen=True, slots=True)
class PlanChanged:
    """A record was adopted: its members may need dialling, its start shown."""

    record: Record


@dataclass(frozen=True, slots=True)
class Finish:
    """The run is over for this node: all its pushes are answered. ``complete`` is False if it was stopped or left."""

    round: int
    z: Floats
    complete: bool


@dataclass(frozen=True, slots=True)
class Fail:
    """The run cannot go on."""

    error: EdgenodeError


NodeAction = (
    Train
    | Push
    | Acknowledge
    | Await
    | Mixed
    | Evaluate
    | Save
    | AnswerOffer
    | AnswerFence
    | PlanChanged
    | Finish
    | Fail
)
